"""The lock of continuous integration and the ranges of the package do not contradict each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "constraints.txt"
PINNED = re.compile(r"([a-z0-9][a-z0-9-]*)==([0-9][0-9a-z.]*)")
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0", "extra": ""}

pytestmark = pytest.mark.skipif(not LOCK.is_file(), reason="an archive of the sources does not hold the lock")


def pins(file: Path = LOCK) -> dict[str, Version]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    found = [PINNED.fullmatch(line) for line in lines]
    # a name and a number: no build, no address, no path
    assert all(found), [line for line, match in zip(lines, found, strict=True) if match is None]
    names = [match[1] for match in found if match]
    assert names == sorted(set(names))
    return {match[1]: Version(match[2]) for match in found if match}


def asked() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    requirements = [Requirement(text) for text in texts]
    return [r for r in requirements if r.marker is None or r.marker.evaluate(PYTHON)]


@pytest.mark.parametrize("requirement", asked() if LOCK.is_file() else [], ids=str)
def test_the_lock_is_within_the_ranges(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    assert name in pins(), f"{name} is not locked: run .ci/lock"
    assert pins()[name] in requirement.specifier, f"{name} {pins()[name]} is locked, {requirement} is asked for"


def test_the_build_of_torch_is_that_of_the_lock() -> None:
    assert pins(ROOT / "requirements-ci.txt")["torch"] == pins()["torch"]


def test_the_lock_holds_what_dependencies_need_and_nothing_of_ours() -> None:
    assert "deltavi" not in pins()
    # scvi-tools' own
    assert {"pyro-ppl", "mudata"} <= pins().keys()


def test_tools_of_the_audit_are_pinned() -> None:
    assert pins(ROOT / "requirements-audit.txt").keys() == {"pip-audit", "zizmor"}
