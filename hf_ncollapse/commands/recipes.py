"""List the recipes that come with the package."""

import argparse
import itertools
import textwrap
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser("recipes", help="list the recipes that come with the package, for `train`")
    command.add_argument("name", nargs="?", help="print this one instead")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the recipes' names, each with its first sentence, or the text of one."""
    if options.name is not None:
        print(find_recipe(options.name).read_text(encoding="utf-8"), end="")
        return 0
    found = packaged_recipes()
    width = max(map(len, found))
    for name, path in found.items():
        print(f"{name:{width}}  {textwrap.shorten(first_sentence(path), 100, placeholder=' …')}")
    return 0


def find_recipe(name: str) -> Path:
    """Return a recipe's file: one that is here, or one of the package by its name, such as mnist5k/rn1_demo.

    Raises:
        FileNotFoundError: there is none.
    """
    if Path(name).is_file():
        return Path(name)
    found = packaged_recipes()
    plain = name.removesuffix(".yaml").replace("-", "_")
    if plain not in found:
        raise FileNotFoundError(
            f"recipe is {name!r}, which is no file here and none of the package's: {', '.join(found)}"
        )
    return found[plain]


def packaged_recipes() -> dict[str, Path]:
    """Name to file; a checkout has them beside the package, an installation in it."""
    folder = next(folder for folder in (_PACKAGE / "recipes", _PACKAGE.parent / "recipes") if folder.is_dir())
    paths = sorted(path for path in folder.glob("*/*.yaml") if path.parent.name != "accelerate_configs")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def first_sentence(path: Path) -> str:
    """Of the comment that a recipe begins with."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    comment = " ".join(line.lstrip("# ") for line in lines)
    return comment.partition(". ")[0].rstrip(".:")
