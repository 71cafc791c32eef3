"""Damaged files, injected faults and mutations: what is tried beside the rows, as sections of the page."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.harness.page import words

ROOT = Path(__file__).resolve().parents[2]
# Tests that inject something or repeat something, and what that is.
TESTS = {
    "tests/model/test_faults.py": "losses and weights that become NaN, interrupts, exhausted memory, errors of "
    "callbacks, in training",
    "tests/model/test_checkpoint.py": "processes killed in training, full disks and folders that cannot be "
    "written, with checkpoints",
    "tests/io/test_write_faults.py": "the same while a model is saved",
    "tests/io/test_no_code.py": "pickles in place of every part of a model file",
    "tests/io/test_crafted.py": "model files that were changed with checksums that fit",
    "tests/io/test_scvi_files.py": "pickles of scvi-tools with commands in them, damaged and crafted",
    "tests/determinism": "the same seed twice; other batch sizes, orders, formats and cells; threads; global state",
    "tests/fuzzing": "generated tables of cells, set up and predicted",
}


def run_tests(plugin: object, *arguments: str) -> None:
    """Run tests in this process; the plugin notes what becomes of them."""
    # libraries that bring plugins of pytest were read before it
    quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-q", "-p", "no:cacheprovider"]
    pytest.main([*quiet, f"--rootdir={ROOT}", *arguments], plugins=[plugin])


class Counts:
    """Plugin of pytest that counts outcomes by file or folder."""

    def __init__(self) -> None:
        self.found: Counter[tuple[str, str]] = Counter()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test once: by its call, or by what kept it from being called."""
        if report.when != "call" and report.outcome == "passed":
            return
        where = next((path for path in TESTS if report.nodeid.startswith(path)), "")
        self.found[where, report.outcome] += 1


def faults_section() -> str:
    """What was injected or repeated, and how many of the tests of it passed."""
    plugin = Counts()
    run_tests(plugin, *(str(ROOT / path) for path in TESTS))
    lines = {
        path: {
            "injected or repeated": what,
            "passed": str(plugin.found[path, "passed"]),
            "failed": str(plugin.found[path, "failed"]),
            "not run": str(plugin.found[path, "skipped"]),
        }
        for path, what in TESTS.items()
    }
    table = pd.DataFrame.from_dict(lines, orient="index").rename_axis("tests")
    return f"## Injected faults and repeated predictions\n\n{words(table)}"


def damages_section(n: int) -> str:
    """`n` damages of model files and as many of tables of cells, drawn at random."""
    from tests.fuzzing import fuzz_obs
    from tests.golden.models import HERE
    from tests.io import fuzz_model_files

    of_files, of_tables = fuzz_model_files.Report(), fuzz_obs.Report()
    folders = sorted(path for path in HERE.glob("v*/*") if path.is_dir())
    with tempfile.TemporaryDirectory() as scratch:
        for i, folder in enumerate(folders):
            todo = fuzz_model_files.tasks(n // len(folders), i)
            fuzz_model_files.fuzz(folder, Path(scratch), todo, of_files)
    fuzz_obs.fuzz(fuzz_obs.fitted(), fuzz_obs.tasks(n, 0), of_tables)
    return "\n\n".join(
        [
            "## Damage at random",
            f"Model files of every class, damaged and loaded (`python tests/io/fuzz_model_files.py --n 100000` tries "
            f"more). Refused: an error of this package. Equal: it loads, with unchanged predictions. "
            "Another model: the damage has matching checksums, and describes a valid model, such as one "
            f"with other names of labels. The slowest took {of_files.slowest:.2f} s.",
            of_files.table(),
            "Annotation of cells in an h5ad file, damaged, set up and predicted (`python tests/fuzzing/fuzz_obs.py "
            "--n 100000` tries more). Unread: anndata itself cannot read it. Equal: the result is that for the values "
            f"that were read. The slowest took {of_tables.slowest:.2f} s.",
            of_tables.table(),
        ]
    )


def mutations_section() -> str:
    """Whether the tests of the rows notice that a check is missing."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "bad_input" / "mutations.py")]
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout
    return (
        "## Mutation tests\n\n`python tests/bad_input/mutations.py` removes one check after the other, in a copy "
        f"of the package, and runs the tests of its row, which must fail. {told.strip().splitlines()[-1]}."
    )
