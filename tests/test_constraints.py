"""The lock of continuous integration and the ranges of the package do not contradict each other."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "constraints.txt"
SHARED_TESTS = ROOT / "src" / "deltavi" / "testing"
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


def imported(paths: Iterable[Path]) -> set[str]:
    """Distributions that files import anywhere, also within functions."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add((node.module or "").split(".")[0])
    names = packages_distributions()
    return {canonicalize_name(names[module][0]) for module in found - sys.stdlib_module_names - {"deltavi"}}


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["explain"]]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    # used where they are installed, and asked for in an error where they are not
    optional = {canonicalize_name(Requirement(text).name) for text in project["optional-dependencies"]["scale"]}
    assert optional <= {canonicalize_name(requirement.name) for requirement in asked()}
    assert imported(set((ROOT / "src").rglob("*.py")) - set(SHARED_TESTS.rglob("*.py"))) - optional == declared


def test_shared_tests_need_their_extra_and_no_more() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    further = imported(SHARED_TESTS.rglob("*.py")) - {canonicalize_name(Requirement(text).name) for text in texts}
    assert not further


def test_private_parts_of_scvi_are_built_on_up_to_a_version_that_was_tried() -> None:
    (scvi,) = (requirement for requirement in asked() if requirement.name == "scvi-tools")
    assert Version("1.5.1") in scvi.specifier
    assert Version("99") not in scvi.specifier
    assert all(any(s.operator == ">=" for s in requirement.specifier) for requirement in asked())


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
