"""Tests that a model must pass when it is given a matrix, genes or names that it cannot use as they are."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from deltavi.testing._bad_input import SharedRow, shared_rows
from deltavi.testing._bench import Bench, Case
from deltavi.testing._small_model import SmallModel


class BadInputContract:
    """Tests of bad input that any model can be given: values of the matrix, names of genes and cells.

    Attributes
    ----------
    entry
        The model, as a subclass sets it.
    """

    entry: ClassVar[SmallModel]

    @pytest.mark.parametrize("row", shared_rows(), ids=lambda row: f"row{row.number}")
    def test_bad_input(
        self, row: SharedRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        reason = row.reason_against(self.entry)
        if reason is not None:
            pytest.skip(reason)
        row.check(Bench(Case(self.entry), tmp_path, monkeypatch, caplog))
