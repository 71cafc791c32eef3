"""Damaged model files are refused, or answer as if nothing had happened; see ``fuzz_model_files.py`` for many more."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from deltavi.model import SCGEN
from tests.golden.models import HERE
from tests.io import fuzz_model_files
from tests.io.damages import KINDS, damaged
from tests.io.fuzz_model_files import MEGABYTES, SECONDS, Report, fuzz, memory_peak, outcome_of, tasks

FOLDERS = sorted(path for path in HERE.glob("v*/*") if path.is_dir())
EACH = -(-2000 // len(FOLDERS))


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    # tiny models, trained for a moment: predictions are logged to rest on little
    caplog.set_level(logging.ERROR, logger="deltavi")


@pytest.mark.parametrize("folder", FOLDERS, ids=[f"{path.parent.name}-{path.name}" for path in FOLDERS])
def test_damaged_files_are_refused_or_answer_the_same(folder: Path, tmp_path: Path) -> None:
    report, risen = Report(), memory_peak()
    fuzz(folder, tmp_path, tasks(EACH, FOLDERS.index(folder)), report)
    assert not report.failures, "\n".join(report.failures)
    assert sum(report.counts.values()) == EACH
    assert report.counts.keys() >= {(kind, "refused") for kind in KINDS}
    assert risen() < MEGABYTES


def test_a_damage_is_repeated_by_its_seed(tmp_path: Path) -> None:
    parts = [
        {
            file.name: file.read_bytes()
            for file in damaged(HERE / "v1" / "SCGEN", tmp_path / name, "truncate", 7).iterdir()
        }
        for name in ("first", "second")
    ]
    assert parts[0] == parts[1]


def test_a_fuzzer_that_finds_something_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def careless(folder: Path) -> SCGEN:
        raise RuntimeError("no error of ours")

    source = HERE / "v1" / "SCGEN"
    result, seconds, told = outcome_of(source, source / "nothing", {}, None)
    assert (result, seconds < SECONDS) == ("refused", True)
    assert "is not a saved deltavi model" in told
    monkeypatch.setattr(SCGEN, "load", careless)
    assert outcome_of(source, source, {}, None)[0] == "error"
    report = Report()
    report.add("truncate", "error", 0.1, "--kind truncate --only 7")
    assert report.failures == ["--kind truncate --only 7"]
    assert "| truncate | 1 | 0 | 0 | 0 | 0 | 1 | 0 |" in report.table()


def test_the_command_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz", "--n", "4", "--model", "VAE", "--kind", "truncate"])
    assert fuzz_model_files.main() == 0
    assert "| all | 4 | 4 | 0 |" in capsys.readouterr().out
