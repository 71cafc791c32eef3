"""Tables of changes that are measured from an AnnData: values, storage, groups, bad input."""

from __future__ import annotations

import logging
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, InputDataWarning, UnknownCategoryError
from deltavi.perturbation import ResponseModel
from deltavi.tl import responses

CONDITIONS = ("ctrl", "A", "B", "A+B", "B+A")


@pytest.fixture
def cells() -> AnnData:
    """Counts of three types under five conditions of four names, in no order."""
    rng = np.random.default_rng(0)
    rows = [(c, t, b) for c in CONDITIONS for t in ("T", "NK", "B cell") for b in ("1", "2") for _ in range(6)]
    obs = pd.DataFrame(rows, columns=["condition", "cell_type", "donor"], index=[f"cell{i}" for i in range(len(rows))])
    counts = rng.poisson(rng.gamma(1.0, 3.0, 25), (len(rows), 25)).astype(np.float32)
    found = AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(25)]))
    return found[rng.permutation(len(rows))].copy()


def logs(adata: AnnData) -> np.ndarray:
    counts = np.asarray(adata.X.todense(), dtype=np.float64)
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True))


def test_changes_are_differences_of_means(cells: AnnData) -> None:
    table = responses(cells, condition_key="condition", control="ctrl", context_keys="cell_type")
    assert table.contexts == ("B cell", "NK", "T")
    assert table.perturbations == ("A", "B")
    assert sorted(table.pairs) == [(t, p) for t in table.contexts for p in ("A", "A+B", "B")]
    x, condition, of_type = logs(cells), cells.obs["condition"].to_numpy(), cells.obs["cell_type"].to_numpy()
    for row, (context, name) in enumerate(table.pairs):
        treated = np.isin(condition, ["A+B", "B+A"] if name == "A+B" else [name]) & (of_type == context)
        control = (condition == "ctrl") & (of_type == context)
        np.testing.assert_allclose(table.changes[row], x[treated].mean(0) - x[control].mean(0), atol=1e-5)
        assert table.n_perturbed[row] == treated.sum()
        assert table.parts[row].tolist() == [float("A" in name), float("B" in name)]
        place = table.contexts.index(context)
        np.testing.assert_allclose(table.control_means[place], x[control].mean(0), atol=1e-6)
        assert table.n_control[place] == control.sum() == 12


def test_variances_are_those_within_groups(cells: AnnData) -> None:
    """With groups of one size their mean, but for what few cells are moderated by."""
    table = responses(cells[cells.obs["condition"] != "B+A"], condition_key="condition", control="ctrl")
    x, condition = logs(cells), cells.obs["condition"].to_numpy()
    groups = [x[condition == name].var(0, ddof=1) for name in ("ctrl", "A", "B", "A+B")]
    # the control mean is part of three changes
    expected = (3 * groups[0] + sum(groups[1:])) / 6
    np.testing.assert_allclose(table.variances[0], expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
@pytest.mark.parametrize(
    "form", ["dense", "csc", "backed", "backed csc", "dask", "lazy", "lazy zarr", "view", "integers"]
)
def test_every_storage_gives_the_same(cells: AnnData, form: str, tmp_path: Path) -> None:
    asked = {"condition_key": "condition", "control": "ctrl", "context_keys": ["cell_type", "donor"]}
    expected = responses(cells, **asked)
    other = cells.copy()
    if form == "dense":
        other.X = cells.X.toarray()
    if "csc" in form:
        other.X = sparse.csc_matrix(cells.X)
    if form == "integers":
        other.X = cells.X.astype(np.int16)
    if form == "dask":
        array = pytest.importorskip("dask.array")
        other.X = array.from_array(cells.X.toarray(), chunks=(50, 25))
    if form == "view":
        other = anndata.concat([cells, cells], index_unique="-")[: cells.n_obs]
    if form.startswith("backed"):
        other.write_h5ad(tmp_path / "cells.h5ad")
        other = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    if form.startswith("lazy"):
        pytest.importorskip("xarray")
        path = tmp_path / ("cells.zarr" if "zarr" in form else "cells.h5ad")
        (other.write_zarr if "zarr" in form else other.write_h5ad)(path)
        other = anndata.experimental.read_lazy(path)
    found = responses(other, **asked)
    assert found.pairs == expected.pairs
    np.testing.assert_allclose(found.changes, expected.changes, atol=1e-5)
    np.testing.assert_allclose(found.variances, expected.variances, atol=1e-6)


def test_a_lazy_file_is_told_what_it_lacks(cells: AnnData, tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    cells.layers["counts"] = cells.X.copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    lazy = anndata.experimental.read_lazy(tmp_path / "cells.h5ad")
    expected = responses(cells, condition_key="condition", control="ctrl", layer="counts")
    found = responses(lazy, condition_key="condition", control="ctrl", layer="counts")
    np.testing.assert_allclose(found.changes, expected.changes, atol=1e-6)
    with pytest.raises(UnknownCategoryError, match=r"'donr'.*'donor'"):
        responses(lazy, condition_key="condition", control="ctrl", context_keys="donr")
    with pytest.raises(UnknownCategoryError, match="layer 'count'"):
        responses(lazy, condition_key="condition", control="ctrl", layer="count")


def test_logs_are_taken_as_they_are_and_layers_too(cells: AnnData) -> None:
    expected = responses(cells, condition_key="condition", control="ctrl")
    cells.layers["logs"] = sparse.csr_matrix(logs(cells))
    found = responses(cells, condition_key="condition", control="ctrl", layer="logs")
    np.testing.assert_allclose(found.changes, expected.changes, atol=1e-5)
    with pytest.raises(DeltaviError, match="size_factor_key"):
        cells.obs["total"] = 100.0
        responses(cells, condition_key="condition", control="ctrl", layer="logs", size_factor_key="total")


def test_totals_over_more_genes_may_be_named(cells: AnnData) -> None:
    totals = np.asarray(cells.X.sum(1)).ravel()
    cells.obs["total"] = totals
    part = cells[:, :10].copy()
    found = responses(part, condition_key="condition", control="ctrl", size_factor_key="total")
    expected = responses(cells, condition_key="condition", control="ctrl")
    np.testing.assert_allclose(found.changes, expected.changes[:, :10], atol=1e-5)
    part.obs.loc[part.obs_names[3], "total"] = np.nan
    with pytest.raises(InputDataError, match="total counts, and is no such number in 1 of"):
        responses(part, condition_key="condition", control="ctrl", size_factor_key="total")


def test_keys_make_contexts_and_missing_values_are_left_out(cells: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    cells.obs.loc[cells.obs_names[:2], "donor"] = None
    cells.obs.loc[cells.obs_names[2:5], "condition"] = None
    with caplog.at_level(logging.INFO, logger="deltavi"):
        table = responses(cells, condition_key="condition", control="ctrl", context_keys=("cell_type", "donor"))
    assert "5 cells have no condition or context" in caplog.text
    assert table.keys == ("cell_type", "donor")
    assert table.levels[0] == ("B cell", "1")
    assert table.contexts[0] == "B cell, 1"
    assert table.n_perturbed.sum() + table.n_control.sum() == cells.n_obs - 5


# -- groups that are small, missing or misnamed ----------------------------------------------------------------


def test_contexts_without_controls_are_left_out_with_a_warning(cells: AnnData) -> None:
    kept = cells[~((cells.obs["condition"] == "ctrl") & (cells.obs["cell_type"] == "NK"))]
    with pytest.warns(InputDataWarning, match="1 of 3 contexts have no control cells .* left out: 'NK'"):
        table = responses(kept, condition_key="condition", control="ctrl", context_keys="cell_type")
    assert table.contexts == ("B cell", "T")
    with pytest.raises(InputDataError, match="None of the 2 contexts has 2 control cells"):
        nested = cells.copy()
        nested.obs["batch"] = np.where(nested.obs["condition"] == "ctrl", "1", "2")
        nested = nested[~(nested.obs["condition"] == "ctrl")]
        nested.obs.loc[nested.obs_names[0], "condition"] = "ctrl"
        responses(nested, condition_key="condition", control="ctrl", context_keys="donor", min_cells=2)


def test_contexts_nested_in_batches_are_compared_with_their_own_controls(cells: AnnData) -> None:
    """Controls in one batch and treated cells in another: nothing can be compared."""
    cells.obs["batch"] = np.where(cells.obs["condition"] == "ctrl", "first", "second")
    with pytest.raises(InputDataError, match="No perturbed cells are left beside the controls"):
        responses(cells, condition_key="condition", control="ctrl", context_keys=["cell_type", "batch"])


def test_a_perturbation_in_one_context_only_and_two_contexts_only_work(cells: AnnData) -> None:
    kept = cells[(cells.obs["condition"] != "B") | (cells.obs["cell_type"] == "T")]
    kept = kept[kept.obs["cell_type"] != "NK"]
    table = responses(kept, condition_key="condition", control="ctrl", context_keys="cell_type")
    assert ("T", "B") in table.pairs
    assert ("B cell", "B") not in table.pairs
    found = ResponseModel.fit(table).predict("B", context="B cell")
    assert "shrunken_mean" in found.flags[0]


def test_groups_of_one_cell_take_the_variance_of_the_others(cells: AnnData) -> None:
    of_a = np.flatnonzero((cells.obs["condition"] == "A") & (cells.obs["cell_type"] == "T"))
    kept = cells[np.setdiff1d(np.arange(cells.n_obs), of_a[1:])]
    table = responses(kept, condition_key="condition", control="ctrl", context_keys="cell_type")
    row = table.pairs.index(("T", "A"))
    assert table.n_perturbed[row] == 1
    assert (table.squared_errors[row] > table.variances[table.context_of[row]]).all()
    assert ("T", "A") not in responses(
        kept, condition_key="condition", control="ctrl", context_keys="cell_type", min_cells=2
    ).pairs
    single = cells[[int(np.flatnonzero(cells.obs["condition"] == name)[0]) for name in ("ctrl", "A")]]
    with pytest.raises(InputDataError, match="Each of the 2 groups is a single cell"):
        responses(single, condition_key="condition", control="ctrl")


def test_one_group_alone_is_refused(cells: AnnData) -> None:
    with pytest.raises(InputDataError, match="No perturbed cells are left"):
        responses(cells[cells.obs["condition"] == "ctrl"], condition_key="condition", control="ctrl")


def test_names_of_the_control_are_seen(cells: AnnData) -> None:
    cells.obs["condition"] = cells.obs["condition"].replace({"B": "ctrl+A"})
    table = responses(cells, condition_key="condition", control="ctrl")
    assert table.names == ["A", "A+B"]
    cells.obs["condition"] = cells.obs["condition"].replace({"A": "Ctrl"})
    with pytest.warns(InputDataWarning, match="'Ctrl' beside the control 'ctrl'"):
        responses(cells, condition_key="condition", control="ctrl")
    cells.obs["condition"] = cells.obs["condition"].replace({"ctrl": "ctrl+X"})
    with pytest.warns(InputDataWarning), pytest.raises(InputDataError, match="no cells that are 'ctrl' alone"):
        responses(cells, condition_key="condition", control="ctrl")


def test_values_of_other_kinds_are_refused(cells: AnnData) -> None:
    asked = {"condition_key": "condition", "control": "ctrl"}
    for wrong, message in ((-1.0, "negative"), (np.nan, "NaN"), (np.inf, "infinite")):
        broken = cells.copy()
        broken.X.data[7] = wrong
        with pytest.raises(InputDataError, match=message):
            responses(broken, **asked)
    scaled = cells.copy()
    scaled.X = scaled.X * 31.7
    with pytest.raises(InputDataError, match=r"no log1p CP10k|not whole"):
        responses(scaled, **asked)


def test_columns_and_genes_that_do_not_exist_are_named(cells: AnnData) -> None:
    with pytest.raises(UnknownCategoryError, match="Did you mean 'condition'"):
        responses(cells, condition_key="conditon", control="ctrl")
    with pytest.raises(UnknownCategoryError, match="ctrl"):
        responses(cells, condition_key="condition", control="control")
    with pytest.raises(UnknownCategoryError, match="cell_type"):
        responses(cells, condition_key="condition", control="ctrl", context_keys="celltype")
    with pytest.raises(UnknownCategoryError, match="layer"):
        responses(cells, condition_key="condition", control="ctrl", layer="counts")
    with pytest.raises(DeltaviError, match="context_keys"):
        responses(cells, condition_key="condition", control="ctrl", contexts="cell_type")  # type: ignore[call-arg]
    with pytest.raises(DeltaviError, match="min_cells"):
        responses(cells, condition_key="condition", control="ctrl", min_cells=0)
    cells.var_names = ["same"] * cells.n_vars
    with pytest.raises(GeneMatchError, match="more than once"):
        responses(cells, condition_key="condition", control="ctrl")


def test_variances_of_a_context_without_perturbed_cells_are_those_of_its_control_cells(cells: AnnData) -> None:
    hidden = (cells.obs["cell_type"] == "NK") & (cells.obs["condition"] != "ctrl")
    kept = cells[~hidden.to_numpy()].copy()
    table = responses(kept, condition_key="condition", control="ctrl", context_keys="cell_type")
    place = table.contexts.index("NK")
    of_controls = logs(kept)[(kept.obs["cell_type"] == "NK").to_numpy()].var(0, ddof=1)
    others = np.delete(table.variances, place, axis=0).mean(0)
    # moderated by what is typical, between which it lies
    assert (np.abs(table.variances[place] - of_controls) <= np.abs(others - of_controls) + 1e-6).all()
    assert table.variances[place].mean() > 0.5 * others.mean()
