"""No method sees a held-out cell: whatever stands in them, every prediction is the same, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData

from deltavi.model import PPCA, SCGEN
from deltavi.perturbation import BASELINES
from deltavi.tl import Method, evaluate_perturbation
from deltavi.tl._certainty import CERTAINTY
from tests.tl.conftest import ASK, halves, mean_change

METHODS: dict[str, Any] = {
    "SCGEN": Method(SCGEN, {"n_hidden": 8, "n_latent": 3}, {"max_epochs": 2}),
    "PPCA": Method(PPCA, {"n_latent": 3}),
    "mean change": mean_change,
}


def replaced(adata: AnnData, held_out: Any, value: float) -> AnnData:
    """Other counts in the held-out cells; each cell still differs from every other."""
    other = adata.copy()
    x = other.X.toarray()
    rng = np.random.default_rng(0)
    x[held_out] = rng.integers(0, 9, (int(held_out.sum()), adata.n_vars))
    x[held_out, :5] = value
    other.X = type(adata.X)(x)
    return other


def predictions(adata: AnnData, folder: Path, **options: Any) -> dict[str, AnnData]:
    found = evaluate_perturbation(adata, METHODS, **{**ASK, **options}, folder=folder, keep_predictions=True)
    return {row.method: anndata.read_h5ad(folder / row.file) for row in found.predictions.itertuples()}


@pytest.mark.parametrize("hold_out", ["label", "donor"])
def test_predictions_do_not_depend_on_held_out_cells(adata: AnnData, tmp_path: Path, hold_out: str) -> None:
    perturbed = np.asarray(adata.obs["condition"] == "stimulated")
    key, name = ("cell_type", "type_1") if hold_out == "label" else ("batch", "batch_1")
    held_out = perturbed & np.asarray(adata.obs[key] == name)
    # nor on the half of the control cells of each label that is set apart
    types = adata.obs["cell_type"].astype(str)
    apart = np.zeros_like(held_out)
    for label in sorted(set(types[held_out])):
        apart |= halves(adata, ~perturbed & (types == label).to_numpy(), label)[1]
    assert apart.sum() == (15 if hold_out == "label" else 45)
    # a count beyond single precision would tell of itself by the type of the matrix alone
    changed = replaced(adata, held_out | apart, 2.0**25)
    options = {"hold_out": {"mine": held_out}}
    before = predictions(adata, tmp_path / "a", **options)
    after = predictions(changed, tmp_path / "b", **options)
    assert set(before) == {*METHODS, *BASELINES}
    for method, cells in before.items():
        assert list(cells.var_names) == list(after[method].var_names), method
        assert np.array_equal(dense(cells), dense(after[method])), method


def test_they_do_where_genes_are_chosen_with_all_cells(adata: AnnData, tmp_path: Path) -> None:
    """The test above can fail: with the leak that one may ask for, the genes are others."""
    held_out = np.asarray((adata.obs["condition"] == "stimulated") & (adata.obs["cell_type"] == "type_1"))
    gene = int(np.argmin(adata.X.toarray()[~held_out].var(0)))
    x = adata.X.toarray()
    x[held_out, gene] = np.arange(held_out.sum()) * 50
    marked = adata.copy()
    marked.X = type(adata.X)(x)
    options = {"hold_out": {"mine": held_out}}
    for leak in (False, True):
        found = predictions(marked, tmp_path / str(leak), **options, genes_from_all_cells=leak)
        assert (adata.var_names[gene] in found["mean change"].var_names) == leak


def test_what_a_function_is_given(adata: AnnData) -> None:
    given: list[tuple[AnnData, AnnData]] = []

    def spoiling(train: AnnData, query: AnnData, **_: Any) -> Any:
        """A function may do what it likes with its cells."""
        given.append((train.copy(), query.copy()))
        copy = query.X.toarray()
        train.X, query.X = train.X * 0, query.X * 0
        train.obs["condition"] = query.obs["condition"] = "?"
        return copy

    methods = {"first": spoiling, "second": spoiling}
    table = evaluate_perturbation(adata, methods, **ASK, hold_out=["type_2"]).table.set_index("method")
    train, query = given[1]
    hidden = (train.obs["cell_type"] == "type_2") & (train.obs["condition"] == "stimulated")
    assert not hidden.any()
    # without fifteen of the thirty control cells of the type
    assert len(train) == 180 - 30 - 15
    assert len(query) == 15
    assert set(query.obs_names) <= set(train.obs_names)
    assert set(query.obs["condition"]) == {"control"}
    assert set(query.obs["cell_type"]) == {"type_2"}
    assert np.array_equal(query.layers["counts"].toarray(), adata[query.obs_names, query.var_names].X.toarray())
    assert np.array_equal(given[0][0].X.toarray(), train.X.toarray())
    scores = table.loc[["first", "second", "no change"]].select_dtypes("number").drop(columns=["seconds", *CERTAINTY])
    assert (scores == scores.loc["no change"]).all().all()


def dense(cells: AnnData) -> Any:
    return cells.X.toarray() if hasattr(cells.X, "toarray") else cells.X
