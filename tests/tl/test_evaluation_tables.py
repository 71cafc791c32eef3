"""Answers of methods are read by the names they carry: cells and genes in any order, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownCategoryError
from deltavi.model import PPCA, SCGEN
from deltavi.tl import evaluate_perturbation, predict_held_out
from deltavi.tl._returned import checked_prediction
from tests.tl.conftest import ASK, mean_change

N_CELLS, N_GENES = 8, 6


def query_cells() -> AnnData:
    """Log1p CP10k of a few cells, whose names are the beginnings of one another."""
    values = np.random.default_rng(0).gamma(1.0, 1.0, (N_CELLS, N_GENES))
    obs = pd.DataFrame(index=[f"c{10**i}" for i in range(N_CELLS)])
    return AnnData(values, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]))


QUERY = query_cells()
FRAME = QUERY.to_df()


def with_column(table: pd.DataFrame) -> AnnData:
    """Predicted cells under new names, with the column that tells where they are from."""
    made = AnnData(table)
    made.obs["deltavi_source_cell"] = list(table.index)
    made.obs_names = [f"new{i}" for i in range(len(table))]
    return made


def renamed(table: pd.DataFrame, naming: Callable[[str], str]) -> pd.DataFrame:
    return table.set_axis([naming(name) for name in table.index], axis=0)


NAMED: dict[str, Callable[[pd.DataFrame], Any]] = {
    "frame": lambda table: table,
    "frame of nullable numbers": lambda table: table.astype("Float64"),
    "sparse frame": lambda table: table.astype(pd.SparseDtype("float64", 0.0)),
    "frame with a gene more": lambda table: table.assign(other=1.0),
    "AnnData": AnnData,
    "sparse AnnData": lambda table: AnnData(
        sparse.csc_matrix(table.to_numpy()), obs=table[[]], var=pd.DataFrame(index=table.columns)
    ),
    "cells with the condition after their name": lambda table: AnnData(renamed(table, lambda name: f"{name}-stim")),
    "cells with the condition before their name": lambda table: AnnData(renamed(table, lambda name: f"stim_{name}")),
    "frame with the condition after the name": lambda table: renamed(table, lambda name: f"{name}-stim"),
    "prediction of a model": with_column,
}


@pytest.mark.parametrize("form", NAMED)
@settings(max_examples=15)
@given(cells=st.permutations(range(N_CELLS)), genes=st.permutations(range(N_GENES)))
def test_the_order_of_named_cells_and_genes_does_not_matter(form: str, cells: list[int], genes: list[int]) -> None:
    found = checked_prediction(NAMED[form](FRAME.iloc[cells, genes]), QUERY, "mine")
    found = found.toarray() if sparse.issparse(found) else found
    np.testing.assert_array_equal(found, QUERY.X)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("form", [np.asarray, np.asmatrix, sparse.csr_matrix, sparse.coo_array, lambda x: x.tolist()])
def test_what_has_no_names_is_in_order(form: Callable[[Any], Any]) -> None:
    found = checked_prediction(form(QUERY.X), QUERY, "mine")
    np.testing.assert_array_equal(found.toarray() if sparse.issparse(found) else found, QUERY.X)


@pytest.mark.parametrize("make", [lambda table: table.reset_index(drop=True), lambda table: AnnData(table.to_numpy())])
def test_rows_that_are_numbered_are_in_order(make: Callable[[pd.DataFrame], Any]) -> None:
    made = make(FRAME)
    if isinstance(made, AnnData):
        made.var_names = QUERY.var_names
    np.testing.assert_array_equal(checked_prediction(made, QUERY, "mine"), QUERY.X)


COUNTS = np.random.default_rng(1).poisson(3.0, QUERY.shape)
OTHER = [f"x{i}" for i in range(N_CELLS)]
REFUSED: dict[str, tuple[Callable[[], Any], type[DeltaviError], str]] = {
    "gene missing": (lambda: FRAME.iloc[:, 1:], GeneMatchError, "'mine' lacks 1 of 6 genes .'g0'. of the query"),
    "gene of another case": (lambda: FRAME.rename(columns={"g0": "G0"}), GeneMatchError, "'g0'; 'G0' is there"),
    "numbered genes": (lambda: FRAME.set_axis(range(6), axis=1), GeneMatchError, "lacks 6 of 6 genes"),
    "gene twice": (lambda: FRAME[["g0", "g0", *FRAME.columns[1:]]], GeneMatchError, "occur more than once .'g0'"),
    "cell twice": (lambda: FRAME.iloc[[0, 0, *range(2, 8)]], InputDataError, "occur more than once .'c1'"),
    "cell of others": (lambda: renamed(FRAME, {**dict(zip(FRAME.index, FRAME.index, strict=True)), "c1": "z"}.get),
                       InputDataError, "1 cells that are not in the query .'z'"),
    "cells of others": (lambda: FRAME.set_axis(OTHER, axis=0), InputDataError, "8 cells that are not in the query"),
    "cell missing": (lambda: FRAME.iloc[1:], InputDataError, "7 cells for 8 cells"),
    "Series": (lambda: FRAME["g0"], InputDataError, "returned Series"),
    "text": (lambda: FRAME.assign(g0="a"), InputDataError, "1 of its columns do not .'g0'"),
    "missing value": (lambda: FRAME.astype("Float64").mask(FRAME.iloc[2, 3] == FRAME), InputDataError, "rows 2"),
    "counts": (lambda: COUNTS, InputDataError, "looks like counts"),
    "counts of a frame": (lambda: FRAME * 0 + COUNTS, InputDataError, "looks like counts"),
    "unlogged": (lambda: 30.5 * np.expm1(QUERY.X), InputDataError, "unlogged values"),
    "masked": (lambda: np.ma.masked_array(QUERY.X, QUERY.X > 2), InputDataError, "masked entries"),
    "number": (lambda: 3.0, InputDataError, "returned float"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_matched_is_refused(case: str) -> None:
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        checked_prediction(make(), QUERY, "mine")


def test_expression_below_zero_is_let_through() -> None:
    np.testing.assert_array_equal(checked_prediction(QUERY.X - 1, QUERY, "mine"), QUERY.X - 1)


def test_a_frame_in_another_order_has_the_same_scores(adata: AnnData) -> None:
    def frame(train: AnnData, query: AnnData, **rest: Any) -> pd.DataFrame:
        return pd.DataFrame(mean_change(train, query, **rest), index=query.obs_names, columns=query.var_names)

    def shuffled(train: AnnData, query: AnnData, **rest: Any) -> pd.DataFrame:
        return frame(train, query, **rest).iloc[::-1, np.random.default_rng(0).permutation(query.n_vars)]

    found = evaluate_perturbation(adata, [mean_change, frame, shuffled], **ASK, hold_out="batch", baselines=False)
    for _, part in found.table.groupby(["hold_out", "label"]):
        rows = part.set_index("method").loc[["mean_change", "frame", "shuffled"], found.metrics].to_numpy(dtype=float)
        np.testing.assert_allclose(rows, np.tile(rows[0], (3, 1)))


@pytest.mark.parametrize("form", [lambda model: model, lambda model: [model], lambda model: {"mine": model}])
def test_a_model_that_was_made_is_refused_by_its_class(adata: AnnData, form: Callable[[Any], Any]) -> None:
    SCGEN.setup_anndata(adata, condition_key="condition", labels_key="cell_type")
    model = SCGEN(adata)
    with pytest.raises(DeltaviError, match=r"is a model that was made already, of the class SCGEN\. Pass the class"):
        evaluate_perturbation(adata, form(model), **ASK)


def test_cells_without_types(adata: AnnData) -> None:
    del adata.obs["cell_type"]
    for ask in (
        lambda: evaluate_perturbation(adata, mean_change, **ASK, hold_out="batch"),
        lambda: predict_held_out(
            adata, label="batch_0", control="control", perturbation="stimulated", model_class=PPCA
        ),
    ):
        with pytest.raises(UnknownCategoryError, match=r"obs column 'cell_type'.*Pass labels_key"):
            ask()
    found = evaluate_perturbation(adata, mean_change, **ASK, hold_out="batch", labels_key="batch", baselines=False)
    assert list(found.table["hold_out"].unique()) == ["batch_1", "batch_2"]
