"""Give notebooks and the tables that list them links to Colab, and a first code cell that installs what is missing.

    python notebooks/open_in_colab.py

The address is `Repository` of [project.urls] in pyproject.toml, on GitHub. Run again, it replaces what it wrote.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTALL = "install"
_BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"


def badge(repository: str, name: str) -> str:
    """The link, in Markdown, that opens a notebook of the main branch.

    Raises:
        ValueError: if the repository is not at github.com/OWNER/NAME.
    """
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", repository)
    if found is None:
        raise ValueError(f"Repository is {repository!r}; Colab opens https://github.com/OWNER/NAME")
    return f"{_BADGE}(https://colab.research.google.com/github/{found[1]}/blob/main/notebooks/{name}.ipynb)"


def with_link(notebook: dict, link: str, repository: str) -> dict:
    """A notebook whose first cell has the link, and whose second installs what the first says that it needs."""
    title, *others = (cell for cell in notebook["cells"] if cell["id"] != INSTALL)
    text = re.sub(rf"\A{re.escape(_BADGE)}.*\n\n", "", "".join(title["source"]))
    needed = re.findall(r"^    pip (install .*)$", text, re.MULTILINE)
    lines = ["from importlib.util import find_spec", "", 'if find_spec("hf_ncollapse") is None:  # as in Colab']
    lines += [
        f"    %pip {line.replace('.[', 'hf_ncollapse[').replace(']', f'] @ git+{repository}')}" for line in needed
    ]
    install = {"cell_type": "code", "execution_count": None, "id": INSTALL, "metadata": {}, "outputs": []}
    install["source"] = "\n".join(lines).splitlines(keepends=True)
    title = title | {"source": f"{link}\n\n{text}".splitlines(keepends=True)}
    return notebook | {"cells": [title, install, *others]}


def main(root: Path) -> None:
    """Write the links of a checkout."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if "Repository" not in project.get("urls", {}):
        sys.exit("pyproject.toml has no Repository in [project.urls]; without an address there is nothing to open")
    repository = project["urls"]["Repository"]
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        link = badge(repository, path.stem)
        notebook = with_link(json.loads(path.read_text(encoding="utf-8")), link, repository)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for page in (root / "notebooks/README.md", root / "docs/explore.md"):
            text = page.read_text(encoding="utf-8")
            rows = re.sub(rf"^\| (\S*{path.stem}\S*)[^|]* \|", rf"| \1 {link} |", text, flags=re.MULTILINE)
            page.write_text(rows, encoding="utf-8")


if __name__ == "__main__":
    main(ROOT)
