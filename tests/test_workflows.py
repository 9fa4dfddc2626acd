"""What the workflows of GitHub run and look at is there."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_and_looks_at_files_that_exist(path):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    workflow = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506 - every scalar stays text
    assert {"name", "on", "permissions", "jobs"} <= set(workflow)
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(("run" in step) != ("uses" in step) for step in steps)
    for command in (line for step in steps for line in step.get("run", "").splitlines()):
        words = shlex.split(command)
        if words[0] == "make":
            assert words[1] in targets
        elif words[0].startswith("."):
            assert (ROOT / words[0]).is_file()
    keys = [step.get("with", {}).get("cache-dependency-path", "").split() for step in steps]
    watched = [event["paths"] for event in workflow["on"].values() if "paths" in event]
    for pattern in (pattern for patterns in [*keys, *watched] for pattern in patterns):
        assert any(ROOT.glob(pattern)), pattern


def test_the_audit_runs_each_week_and_when_a_pin_changes():
    workflow = yaml.load((ROOT / ".github/workflows/audit.yml").read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506
    (schedule,) = workflow["on"]["schedule"]
    _, _, day_of_month, month, weekday = schedule["cron"].split()
    assert weekday in "0123456"
    assert (day_of_month, month) == ("*", "*")
    assert workflow["on"]["push"]["paths"] == workflow["on"]["pull_request"]["paths"] == ["requirements/**"]
