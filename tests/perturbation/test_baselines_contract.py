"""What a baseline promises: the form of its output, untouched input, every form of AnnData."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

from deltavi.errors import UnknownCategoryError
from deltavi.perturbation import BASELINES, ShiftBaseline

KEYS = {"condition_key": "condition", "labels_key": "cell_type"}
CONDITIONS = {"control": "control", "perturbation": "stimulated"}


def state(adata):
    """Everything of an AnnData that could be changed behind its owner's back."""
    x = adata.X.toarray() if sp.issparse(adata.X) else np.array(adata.X)
    return x, adata.obs.copy(), adata.var.copy(), sorted(map(str, adata.layers)), sorted(adata.uns), sorted(adata.obsm)


def assert_unchanged(adata, before):
    after = state(adata)
    np.testing.assert_array_equal(after[0], before[0])
    pd.testing.assert_frame_equal(after[1], before[1])
    pd.testing.assert_frame_equal(after[2], before[2])
    assert after[3:] == before[3:]


# output


def test_output_form(baseline, adata):
    predicted = baseline.predict_perturbation(adata, **CONDITIONS)
    control = adata[(adata.obs["condition"] == "control").to_numpy()]
    assert isinstance(predicted, AnnData)
    assert predicted.X.dtype == np.float32
    assert predicted.X.min() >= 0
    assert predicted.obs_names.equals(control.obs_names)
    pd.testing.assert_frame_equal(predicted.var, adata.var)
    assert (predicted.obs["condition"] == "stimulated").all()
    assert (predicted.obs["deltavi_source_condition"] == "control").all()
    for column in ("cell_type", "depth"):
        assert predicted.obs[column].tolist() == control.obs[column].tolist()
    used = predicted.uns["deltavi"]
    assert (used["shift"], used["control"], used["perturbation"]) == ("similarity", "control", "stimulated")
    assert set(used["weights"]) == set(used["length"]) == set(adata.obs["cell_type"])


def test_prediction_of_training_cells_is_the_default(baseline, adata):
    np.testing.assert_array_equal(
        baseline.predict_perturbation(**CONDITIONS).X, baseline.predict_perturbation(adata, **CONDITIONS).X
    )


@pytest.mark.parametrize("shift", ["similarity", "global", "none"])
def test_output_survives_a_file(baseline, adata, shift, tmp_path):
    predicted = baseline.predict_perturbation(adata, **CONDITIONS, shift=shift)
    predicted.write_h5ad(tmp_path / "predicted.h5ad")
    again = anndata.read_h5ad(tmp_path / "predicted.h5ad")
    np.testing.assert_array_equal(again.X, predicted.X)
    assert again.uns["deltavi"]["weights"] == predicted.uns["deltavi"]["weights"]
    assert again.obs["condition"].tolist() == predicted.obs["condition"].tolist()


def test_labels_that_files_cannot_hold_as_keys(adata, tmp_path):
    names = {"B": "B/plasma", "NK": "", "monocyte": "CD14|CD16", "CD4 T": "Тα"}
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).map(names)
    predicted = ShiftBaseline(adata, **KEYS).predict_perturbation(**CONDITIONS)
    predicted.write_h5ad(tmp_path / "predicted.h5ad")
    weights = anndata.read_h5ad(tmp_path / "predicted.h5ad").uns["deltavi"]["weights"]
    assert set(weights) == set(weights["%00"]) == {"B%2Fplasma", "%00", "CD14|CD16", "Тα"}
    assert set(predicted.obs["cell_type"]) == set(names.values())


def test_output_goes_straight_into_scanpy(baseline, adata):
    predicted = baseline.predict_perturbation(adata, **CONDITIONS)
    joined = anndata.concat({"real": adata, "predicted": predicted}, label="kind", index_unique="-")
    assert joined.shape == (adata.n_obs + predicted.n_obs, adata.n_vars)
    sc.pp.pca(joined, n_comps=3)
    sc.tl.rank_genes_groups(joined, "kind", method="wilcoxon")
    assert joined.obsm["X_pca"].shape == (joined.n_obs, 3)


def test_output_is_independent_of_the_baseline(baseline, adata):
    first = baseline.predict_perturbation(**CONDITIONS)
    expected = first.X.copy()
    first.X[:] = -1
    first.obs["cell_type"] = "changed"
    first.var["biotype"] = "changed"
    second = baseline.predict_perturbation(**CONDITIONS)
    np.testing.assert_array_equal(second.X, expected)
    assert set(second.obs["cell_type"]) == set(adata.obs["cell_type"])
    assert set(second.var["biotype"]) == {"coding"}


# the user's data


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_user_data_are_left_untouched(adata, space, form):
    adata.X = form(adata.X)
    before = state(adata)
    baseline = ShiftBaseline(adata, **KEYS, space=space)
    for shift in ("similarity", "none"):
        baseline.predict_perturbation(adata, **CONDITIONS, shift=shift)
    assert_unchanged(adata, before)


def test_later_changes_of_the_training_data_have_no_effect(adata, space):
    query = adata.copy()
    baseline = ShiftBaseline(adata, **KEYS, space=space)
    expected = baseline.predict_perturbation(query, **CONDITIONS).X
    adata.X[:] = 0
    adata.obs["condition"] = "changed"
    np.testing.assert_array_equal(baseline.predict_perturbation(query, **CONDITIONS).X, expected)


def test_no_random_state_is_touched(adata, space):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = ShiftBaseline(adata, **KEYS, space=space).predict_perturbation(**CONDITIONS).X
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(1)
    again = ShiftBaseline(adata, **KEYS, space=space).predict_perturbation(**CONDITIONS).X
    np.testing.assert_array_equal(first, again)


# forms of AnnData


def as_view(adata, folder):
    return adata[np.arange(adata.n_obs)]


def as_backed(adata, folder):
    adata.write_h5ad(folder / "backed.h5ad")
    return anndata.read_h5ad(folder / "backed.h5ad", backed="r")


def as_sparse(form):
    def convert(adata, folder):
        changed = adata.copy()
        changed.X = form(adata.X)
        return changed

    return convert


def as_backed_sparse(adata, folder):
    return as_backed(as_sparse(sp.csr_matrix)(adata, folder), folder)


def with_shuffled_genes(adata, folder):
    return adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()


def with_more_genes(adata, folder):
    extra = AnnData(np.full((adata.n_obs, 3), 0.5, dtype=np.float32), obs=adata.obs[[]])
    extra.var_names = ["more0", "more1", "more2"]
    joined = anndata.concat([extra, adata], axis=1)
    joined.obs = adata.obs.copy()
    return joined


def with_strings_for_categories(adata, folder):
    changed = adata.copy()
    for key in KEYS.values():
        changed.obs[key] = changed.obs[key].astype(str)
    return changed


def with_unused_categories(adata, folder):
    changed = adata.copy()
    for key in KEYS.values():
        changed.obs[key] = changed.obs[key].cat.add_categories(["unused"])
    return changed


FORMS = {
    "view": as_view,
    "backed": as_backed,
    "backed sparse": as_backed_sparse,
    "csr": as_sparse(sp.csr_matrix),
    "csc": as_sparse(sp.csc_matrix),
    "sparse array": as_sparse(sp.csr_array),
    "double precision": as_sparse(lambda x: x.astype(np.float64)),
    "Fortran order": as_sparse(np.asfortranarray),
    "shuffled genes": with_shuffled_genes,
    "more genes": with_more_genes,
    "strings": with_strings_for_categories,
    "unused categories": with_unused_categories,
}


@pytest.mark.parametrize("form", FORMS)
def test_query_of_any_form(baseline, adata, form, tmp_path):
    expected = baseline.predict_perturbation(adata, **CONDITIONS)
    predicted = baseline.predict_perturbation(FORMS[form](adata, tmp_path), **CONDITIONS)
    np.testing.assert_allclose(predicted.X, expected.X, atol=1e-5)
    assert predicted.var_names.equals(expected.var_names)
    assert predicted.obs_names.equals(expected.obs_names)


@pytest.mark.parametrize("form", [name for name in FORMS if "genes" not in name])
def test_training_data_of_any_form(adata, space, form, tmp_path):
    options = {**KEYS, "space": space, "n_components": 5}
    expected = ShiftBaseline(adata, **options).predict_perturbation(adata, **CONDITIONS)
    other = ShiftBaseline(FORMS[form](adata, tmp_path), **options)
    np.testing.assert_allclose(other.predict_perturbation(adata, **CONDITIONS).X, expected.X, atol=1e-4)


def test_expression_in_a_layer(adata, space):
    expected = ShiftBaseline(adata, **KEYS, space=space).predict_perturbation(adata, **CONDITIONS)
    moved = adata.copy()
    moved.layers["log"] = adata.X.copy()
    moved.X = np.full(adata.shape, -7.0, dtype=np.float32)
    baseline = ShiftBaseline(moved, **KEYS, space=space, layer="log")
    np.testing.assert_array_equal(baseline.predict_perturbation(moved, **CONDITIONS).X, expected.X)
    with pytest.raises(UnknownCategoryError, match="layer 'log' is not in the data"):
        baseline.predict_perturbation(adata, **CONDITIONS)
    with pytest.raises(UnknownCategoryError, match=r"layer 'lgo' is not in the data. Did you mean 'log'"):
        ShiftBaseline(moved, **KEYS, layer="lgo")


@pytest.mark.parametrize("n_cells", [1, 2])
def test_few_cells(baseline, adata, n_cells):
    few = adata[(adata.obs["condition"] == "control").to_numpy()][:n_cells].copy()
    assert baseline.predict_perturbation(few, **CONDITIONS).shape == (n_cells, adata.n_vars)


def test_numeric_conditions_and_labels(adata):
    numbered = adata.copy()
    numbered.obs["condition"] = (adata.obs["condition"] == "stimulated").astype(int)
    numbered.obs["cell_type"] = adata.obs["cell_type"].cat.codes
    predicted = ShiftBaseline(numbered, **KEYS).predict_perturbation(control=0, perturbation=1, labels=2)
    expected = ShiftBaseline(adata, **KEYS).predict_perturbation(
        **CONDITIONS, labels=adata.obs["cell_type"].cat.categories[2]
    )
    np.testing.assert_allclose(predicted.X, expected.X, atol=1e-6)


def test_repeated_cell_names_are_kept_by_position(adata):
    repeated = adata.copy()
    repeated.obs_names = ["cell"] * adata.n_obs
    expected = ShiftBaseline(adata, **KEYS).predict_perturbation(**CONDITIONS).X
    with pytest.warns(UserWarning, match="Observation names are not unique"):
        predicted = ShiftBaseline(repeated, **KEYS).predict_perturbation(**CONDITIONS)
    np.testing.assert_array_equal(predicted.X, expected)


def test_every_baseline_exists_in_some_space():
    assert {space for space, _ in BASELINES.values()} == {"genes", "pca"}
