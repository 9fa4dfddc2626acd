"""Make `evaluate.load("neural_collapse")` work from any folder, without a network and without this package imported.

evaluate looks for a bare name on the Hub and then in its own module cache, under the name of a canonical metric.
Placing the metric's files there is what evaluate itself would do after a download, so nothing has to be patched.
Only `HF_EVALUATE_OFFLINE=1` spares it the look on the Hub: evaluate's own downloads do not know `HF_HUB_OFFLINE`.
"""

import hashlib
import os
import shutil
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import evaluate

METRIC_FOLDER = Path(__file__).parent.parent / "neural_collapse"
_NOT_PART_OF_THE_MODULE = {"__init__.py", "app.py"}
# Tells our copies from one that evaluate may have downloaded under the same name.
_MARKER = "installed_by_hf_ncollapse"


def load_metric(**kwargs: Any) -> "evaluate.EvaluationModule":
    """Return the metric from this package: `evaluate.load`, with its keyword arguments, on the installed files."""
    import evaluate

    return evaluate.load(str(METRIC_FOLDER / "neural_collapse.py"), **kwargs)


def install_metric() -> Path:
    """Place the metric into evaluate's module cache (`HF_MODULES_CACHE`) and return the folder it is in.

    Doing it again changes nothing; copies of other versions of the package are replaced.
    """
    files = {path.name: path.read_bytes() for path in METRIC_FOLDER.glob("*.py")}
    files = {name: content for name, content in sorted(files.items()) if name not in _NOT_PART_OF_THE_MODULE}
    files |= {_MARKER: version("hf_ncollapse").encode(), "__init__.py": b""}
    # evaluate takes folders with names of 64 characters and among them the one modified last.
    digest = hashlib.sha256(b"".join(name.encode() + content for name, content in files.items())).hexdigest()

    home = _home()
    installed = home / digest
    home.mkdir(parents=True, exist_ok=True)
    for package in (home.parent, home):
        (package / "__init__.py").touch()
    if not installed.exists():
        staging = home / f"{digest}.{uuid.uuid4().hex}"
        staging.mkdir()
        for name, content in files.items():
            (staging / name).write_bytes(content)
        try:
            staging.rename(installed)
        except OSError:
            # Another process placed the same files first.
            shutil.rmtree(staging)
    os.utime(installed / "neural_collapse.py")
    _remove_copies(home, keep=installed)
    return installed


def uninstall_metric() -> list[Path]:
    """Remove what `install_metric` placed, of any version, and return the folders removed."""
    return _remove_copies(_home(), keep=None)


def _home() -> Path:
    from evaluate import config

    return Path(config.HF_MODULES_CACHE) / "evaluate_modules" / "metrics" / "evaluate-metric--neural_collapse"


def _remove_copies(home: Path, keep: Path | None) -> list[Path]:
    copies = [marker.parent for marker in home.glob(f"*/{_MARKER}") if marker.parent != keep]
    for copy in copies:
        shutil.rmtree(copy)
    return copies
