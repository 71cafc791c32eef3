"""Damaged obs are refused, or mean what was read; see ``fuzz_obs.py`` for many more."""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import pytest

from deltavi.model import LABELVI
from tests.fuzzing import fuzz_obs
from tests.fuzzing.fuzz_obs import Report, cells, fitted, fuzz, outcome_of, tasks
from tests.fuzzing.obs_damages import ALL_KINDS, clean_obs

pytestmark = pytest.mark.filterwarnings("ignore")
N = 1000


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    # the command sets the level of the log, which is put back after the test
    caplog.set_level(logging.ERROR, logger="deltavi")


@pytest.fixture(scope="module")
def model() -> LABELVI:
    return fitted()


def test_damaged_obs_are_refused_or_mean_what_was_read(model: LABELVI) -> None:
    report = Report()
    fuzz(model, tasks(N, 0), report)
    assert not report.failures, "\n".join(report.failures)
    assert sum(report.counts.values()) == N
    assert {kind for kind, _ in report.counts} == set(ALL_KINDS)
    # all three ends are met: damages that do no harm, those that anndata finds, and those left to us
    assert {outcome for _, outcome in report.counts} == {"unread", "refused", "equal"}


def test_a_damage_is_repeated_by_its_seed() -> None:
    image = fuzz_obs.file_image()
    first, second = (fuzz_obs.damaged(image, "codes", 8) for _ in range(2))
    assert first.obs.equals(second.obs)
    assert not first.obs.equals(clean_obs())


def test_the_undamaged_file_is_what_was_written(model: LABELVI) -> None:
    file = fuzz_obs.h5py.File(fuzz_obs.io.BytesIO(fuzz_obs.file_image()), "r")
    read = fuzz_obs.read_elem(file["obs"])
    for name, column in clean_obs().items():
        assert read[name].astype(object).tolist()[1:] == column.astype(object).tolist()[1:]
    assert outcome_of(model, cells(read))[0] == "equal"


def test_a_fuzzer_that_finds_something_says_so(model: LABELVI, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = cells(clean_obs())
    monkeypatch.setattr(LABELVI, "predict", lambda *_, **__: 1 / 0)
    assert outcome_of(model, adata)[::2] == ("error", "ZeroDivisionError: division by zero")
    turns: list[int] = []

    def another(self: Any, cells: Any, soft: bool) -> Any:
        turns.append(1)
        return fuzz_obs.pd.DataFrame(np.full((cells.n_obs, 2), len(turns) / 4))

    monkeypatch.setattr(LABELVI, "predict", another)
    assert outcome_of(model, adata)[0] == "different"
    monkeypatch.setattr(fuzz_obs, "SECONDS", 0.0)
    assert outcome_of(model, adata)[0] == "slow"
    report = Report()
    report.add("codes", "error", 0.1, "--kind codes --only 7")
    assert report.failures == ["--kind codes --only 7"]
    assert "| codes | 1 | 0 | 0 | 0 | 0 | 1 | 0 |" in report.table()


def test_the_command_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz", "--n", "4", "--kind", "masks"])
    assert fuzz_obs.main() == 0
    printed = capsys.readouterr().out
    assert "| all | 4 |" in printed
    assert "a second" in printed
