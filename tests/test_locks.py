"""What `make` installs is pinned, everything but torch by hash, and is what pyproject.toml asks for."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {"demo": ["data"], "dev": ["data", "dev"], "app": ["data", "app"], "docs": ["data", "docs"]}


def locked(name: str) -> dict[str, str]:
    """Package → version; every one of them has a hash."""
    found = {}
    for pin in re.split(r"\n(?=\S)", (ROOT / f"requirements/{name}.lock").read_text().strip()):
        requirement = Requirement(re.split(r" \\\n|--hash", pin)[0])
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", pin), pin
        (version,) = requirement.specifier
        assert version.operator == "=="
        found[canonicalize_name(requirement.name)] = version.version
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_everything_but_torch_in_versions_that_are_asked_for(name):
    torch = Requirement((ROOT / "requirements/torch.txt").read_text().strip())
    (pin,) = torch.specifier
    assert (torch.name, pin.operator) == ("torch", "==")
    pins = locked(name)
    assert not [package for package in pins if package == "torch" or package.startswith(("nvidia-", "cuda-"))]
    extras = (text for extra in LOCKS[name] for text in PROJECT["optional-dependencies"][extra])
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        version = (pins | {"torch": pin.version})[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, requirement


def test_every_lock_contains_that_of_the_demo_and_no_two_differ_in_a_version():
    assert {path.stem for path in (ROOT / "requirements").glob("*.lock")} == set(LOCKS)
    pins = {name: locked(name) for name in LOCKS}
    for one, other in itertools.combinations(pins.values(), 2):
        shared = one.keys() & other.keys()
        assert shared >= pins["demo"].keys()
        assert [package for package in shared if one[package] != other[package]] == []


def test_the_constraints_are_the_pins_of_torch_and_of_the_locks_for_every_python():
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    locks = "\n".join((ROOT / f"requirements/{name}.lock").read_text() for name in LOCKS)
    pins = {str(Requirement(line.rstrip(" \\"))) for line in locks.splitlines() if "==" in line and line[0] != " "}
    torch = (ROOT / "requirements/torch.txt").read_text().strip()
    assert sorted(map(str, map(Requirement, constraints))) == sorted({torch, *pins})
