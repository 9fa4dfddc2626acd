"""The explorer's Space: its page, the tables of one sweep, and this package, which a Space has to bring along."""

from importlib.metadata import distribution
from pathlib import Path
from typing import cast

from .sweep_folder import SweepFolder

_PACKAGE = Path(__file__).parents[1]


def explorer_repo(namespace: str, sweep: str) -> str:
    """The id of a sweep's explorer."""
    return f"{namespace}/{sweep}-explorer"


def explorer_files(sweep: SweepFolder) -> dict[str, Path | bytes]:
    """What the Space of a sweep holds: path in it -> a file here or its content.

    The package and its metadata are among them, so that the page runs the code that published it; its requirements
    are the package's own.
    """
    page = _explorer_folder()
    files: dict[str, Path | bytes] = {name: page / name for name in ("README.md", "app.py", "classes_in_3d.py")}
    files |= {f"sweeps/{sweep.name}/{path.name}": path for path in sweep.tables}
    for path in sorted(_PACKAGE.rglob("*")):
        name = path.relative_to(_PACKAGE)
        # An installed package has the recipes and this page in it.
        if path.is_file() and not {"__pycache__", "recipes", "explorer"} & set(name.parts):
            files[f"hf_ncollapse/{name.as_posix()}"] = path
    package = distribution("hf_ncollapse")
    files[f"hf_ncollapse-{package.version}.dist-info/METADATA"] = cast(str, package.read_text("METADATA")).encode()
    needed = [requirement for requirement in package.requires or () if "extra ==" not in requirement]
    files["requirements.txt"] = "".join(f"{requirement}\n" for requirement in needed).encode()
    return files


def _explorer_folder() -> Path:
    """In an installed package, or in the checkout of an editable one."""
    return next(folder for folder in (_PACKAGE / "explorer", _PACKAGE.parent / "spaces/explorer") if folder.is_dir())
