"""What `make` installs is pinned by hash, and is what pyproject.toml and constraints.txt ask for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name: str) -> dict[str, str]:
    """Package → version; every one of them has a hash."""
    found = {}
    for pin in re.split(r"\n(?=\S)", (ROOT / "requirements" / name).read_text().strip()):
        requirement = Requirement(re.split(r" \\\n|--hash", pin)[0])
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", pin), pin
        (version,) = requirement.specifier
        assert version.operator == "=="
        found[canonicalize_name(requirement.name)] = version.version
    return found


@pytest.mark.parametrize(("name", "extras"), [("demo.lock", ["data"]), ("dev.lock", ["data", "dev"])])
def test_a_lock_has_everything_but_torch_in_versions_that_are_asked_for(name, extras):
    pins = locked(name)
    asked = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    constraints = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line]
    for requirement in map(Requirement, asked):
        package = canonicalize_name(requirement.name)
        if package != "torch":
            assert pins[package] in requirement.specifier, requirement
    for constraint in map(Requirement, constraints):
        package = canonicalize_name(constraint.name)
        assert package not in pins or pins[package] in constraint.specifier
    assert not [package for package in pins if package == "torch" or package.startswith(("nvidia-", "cuda-"))]


def test_the_lock_of_the_tests_contains_that_of_the_demo():
    assert locked("demo.lock").items() <= locked("dev.lock").items()
