"""Names of combinations of conditions."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from deltavi.errors import DeltaviError, UnknownCategoryError
from deltavi.perturbation.combination import parts_of
from deltavi.pp import canonical_conditions
from deltavi.registry.conditions import canonical_name, same_condition


def cells(conditions: list[object]) -> AnnData:
    obs = pd.DataFrame({"condition": conditions}, index=[f"c{i}" for i in range(len(conditions))])
    return AnnData(np.ones((len(conditions), 2), np.float32), obs=obs)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("ctrl", "ctrl"),
        ("ctrl+BAK1", "BAK1"),
        ("BAK1+ctrl", "BAK1"),
        ("BAK1 + ctrl", "BAK1"),
        ("ctrl+ctrl", "ctrl"),
        ("KLF1+BAK1", "BAK1+KLF1"),
        ("C+ctrl+A", "A+C"),
        ("A+", "A+"),
        ("CD4+", "CD4+"),
    ],
)
def test_canonical_name(name: str, canonical: str) -> None:
    assert canonical_name(name, control="ctrl") == canonical


def test_the_column_is_rewritten_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    adata = cells(["ctrl", "ctrl+BAK1", "BAK1+ctrl", "B+A", "A+B", None])
    adata.obs["kept"] = ["B+A"] * 6
    with caplog.at_level(logging.INFO, "deltavi"):
        canonical_conditions(adata, "condition", control="ctrl")
    assert list(adata.obs["condition"])[:5] == ["ctrl", "BAK1", "BAK1", "A+B", "A+B"]
    assert pd.isna(adata.obs["condition"].iloc[5])
    assert set(adata.obs["kept"]) == {"B+A"}
    assert "3 of 5 conditions were renamed" in caplog.text


def test_other_separators_and_views() -> None:
    adata = cells(["ctrl", "ctrl|A", "B|A"])
    canonical_conditions(adata, "condition", control="ctrl", separator="|")
    assert list(adata.obs["condition"]) == ["ctrl", "A", "A|B"]
    parent = cells(["ctrl", "ctrl+A", "ctrl+B"])
    view = parent[:2]
    canonical_conditions(view, "condition", control="ctrl")
    assert list(view.obs["condition"]) == ["ctrl", "A"]
    assert parent.obs["condition"].iloc[1] == "ctrl+A"


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UnknownCategoryError, match="'control' is not in the data"):
        canonical_conditions(cells(["ctrl", "A"]), "condition", control="control")
    with pytest.raises(UnknownCategoryError, match="obs column 'cond'"):
        canonical_conditions(cells(["ctrl", "A"]), "cond", control="ctrl")
    with pytest.raises(DeltaviError, match="separator must be text"):
        canonical_conditions(cells(["ctrl", "A"]), "condition", control="ctrl", separator="")


def test_the_order_of_parts_does_not_matter() -> None:
    assert same_condition("B+A", ["A+B", "A"]) == "A+B"
    assert same_condition("B+A", ["A+B", "B+A"]) == "B+A"
    assert same_condition("B+A", ["A", "B"]) is None
    assert parts_of("B+A", ["ctrl", "A", "B", "A+B"], control="ctrl") == ("A+B",)
    assert parts_of("B+A", ["ctrl", "A", "B"], control="ctrl") == ("B", "A")


def test_parts_that_stand_beside_the_control_are_pointed_at() -> None:
    known = ["ctrl", "ctrl+A", "B+ctrl"]
    with pytest.raises(
        UnknownCategoryError, match=r"'A' stands in the data as 'ctrl\+A'.*renamed.*canonical_conditions"
    ):
        parts_of("A+B", known, control="ctrl")
    with pytest.raises(UnknownCategoryError, match=r"'B' stands in the data as 'B\+ctrl'"):
        parts_of("B", known, control="ctrl")
    assert parts_of("A+ctrl", known, control="ctrl") == ("ctrl+A",)
