"""A few treated cells beside the control cells that are asked about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData

from deltavi.datasets import kang
from deltavi.errors import DeltaviError, InputDataError, UnknownCategoryError
from deltavi.metrics import e_distance, principal_axes
from deltavi.model import MIXVI, PPCA, SCGEN
from deltavi.pp import highly_variable_genes
from tests.model.conftest import dense, log_normalised, train
from tests.model.test_empirical_weight import ASK, SETUP, SMALL, cells

HIDDEN = "type_2"


def hidden_cells(n: int = 6, seed: int = 5) -> AnnData:
    """Stimulated cells of the type that no model has seen stimulated, twice as strongly as others."""
    found = cells(seed=seed)
    chosen = found[(found.obs["cell_type"] == "type_3") & (found.obs["condition"] == "stimulated")][:n].copy()
    chosen.obs["cell_type"] = HIDDEN
    chosen.obs_names = [f"treated {i}" for i in range(chosen.n_obs)]
    return chosen


@pytest.fixture(scope="module")
def model() -> SCGEN:
    """Trained without the stimulated cells of the second type; tests must not change it."""
    return train(SCGEN, cells(), epochs=30, setup=SETUP, **SMALL)


def means(predicted: AnnData, label: str) -> np.ndarray:
    return np.asarray(dense(predicted[(predicted.obs["cell_type"] == label).to_numpy()].X).mean(0))


def test_groups_with_treated_cells_move_towards_them_and_others_stay(model: SCGEN) -> None:
    plain, treated = model.predict_perturbation(**ASK), hidden_cells()
    found = model.predict_perturbation(**ASK, treated=treated)
    x = dense(treated.X)
    measured = np.log1p(x / x.sum(1, keepdims=True) * 1e4).mean(0)
    gaps = [np.square(means(one, HIDDEN) - measured).sum() for one in (found, plain)]
    assert gaps[0] < gaps[1]
    others = (plain.obs["cell_type"] != HIDDEN).to_numpy()
    np.testing.assert_array_equal(dense(found.X)[others], dense(plain.X)[others])


def test_many_treated_cells_outweigh_the_model(model: SCGEN) -> None:
    few, many = (hidden_cells(n) for n in (2, 40))
    x = dense(many.X)
    measured = np.log1p(x / x.sum(1, keepdims=True) * 1e4).mean(0)
    predicted = [model.predict_perturbation(**ASK, treated=one) for one in (few, many)]
    gaps = [np.square(means(one, HIDDEN) - measured).sum() for one in predicted]
    assert gaps[1] < gaps[0]
    widths = [(one.varm["deltavi_upper"][HIDDEN] - one.varm["deltavi_lower"][HIDDEN]).to_numpy() for one in predicted]
    assert (widths[1] <= widths[0]).all()
    assert widths[1].sum() < widths[0].sum()


def test_what_was_used_is_recorded_and_survives_a_file(model: SCGEN, tmp_path: Path) -> None:
    found = model.predict_perturbation(**ASK, treated=hidden_cells())
    found.write_h5ad(tmp_path / "found.h5ad")
    table = ad.read_h5ad(tmp_path / "found.h5ad").uns["deltavi"]["treated"]
    assert table["query"].tolist() == [HIDDEN]
    assert table["n_treated"].tolist() == [6]
    assert table["length"].gt(0).all()
    assert "treated" not in model.predict_perturbation(**ASK).uns["deltavi"]


@pytest.mark.parametrize("options", [{"empirical_weight": 0.0}, {"output": "mean"}, {"n_samples": 3}])
def test_other_options_go_with_it(model: SCGEN, options: dict[str, Any]) -> None:
    plain = model.predict_perturbation(**ASK, labels=HIDDEN, **options)
    found = model.predict_perturbation(**ASK, labels=HIDDEN, treated=hidden_cells(), **options)
    assert not np.allclose(means(found, HIDDEN), means(plain, HIDDEN), atol=1e-3)


def shuffled(adata: AnnData) -> AnnData:
    rng = np.random.default_rng(0)
    return adata[rng.permutation(adata.n_obs)][:, rng.permutation(adata.n_vars)].copy()


def with_others(adata: AnnData) -> AnnData:
    """Together with cells of other conditions and labels."""
    rest = cells(seed=9)
    parts = [adata, rest[rest.obs["condition"] == "control"], rest[rest.obs["cell_type"] == "type_1"]]
    return ad.concat(parts, index_unique="-")


@pytest.mark.parametrize("change", [shuffled, with_others, lambda adata: adata[:, :]])
def test_the_form_of_the_treated_cells_does_not_matter(model: SCGEN, change: Callable[[AnnData], AnnData]) -> None:
    expected = model.predict_perturbation(**ASK, labels=HIDDEN, treated=hidden_cells())
    treated = change(hidden_cells())
    before = treated.copy()
    found = model.predict_perturbation(**ASK, labels=HIDDEN, treated=treated)
    np.testing.assert_allclose(dense(found.X), dense(expected.X), atol=1e-5)
    assert list(treated.obs) == list(before.obs)
    assert not treated.uns


def test_cells_without_a_column_of_conditions_are_all_treated(model: SCGEN) -> None:
    treated = hidden_cells()
    expected = model.predict_perturbation(**ASK, treated=treated)
    del treated.obs["condition"]
    np.testing.assert_array_equal(dense(model.predict_perturbation(**ASK, treated=treated).X), dense(expected.X))


@pytest.mark.parametrize("kind", [PPCA, MIXVI])
def test_other_models_take_them(kind: Any) -> None:
    learned, treated = (log_normalised(x) if kind is PPCA else x for x in (cells(), hidden_cells(20)))
    model = train(kind, learned, epochs=2, setup=SETUP, **({"n_latent": 4} if kind is PPCA else SMALL))
    plain, found = (model.predict_perturbation(**ASK, treated=given) for given in (None, treated))
    x = dense(treated.X)
    measured = (x if kind is PPCA else np.log1p(x / x.sum(1, keepdims=True) * 1e4)).mean(0)
    gaps = [np.square(means(one, HIDDEN) - measured).sum() for one in (found, plain)]
    assert gaps[0] < gaps[1]


# -- bad input -------------------------------------------------------------------------------------------------


def of_control(adata: AnnData) -> AnnData:
    adata.obs["condition"] = "control"
    return adata


def of_a_type_not_asked(adata: AnnData) -> AnnData:
    adata.obs["cell_type"] = "type_1"
    return adata


def negative(adata: AnnData) -> AnnData:
    adata.X = -dense(adata.X)
    return adata


def logarithms(adata: AnnData) -> AnnData:
    adata.X = np.log1p(dense(adata.X) * 1.7)
    return adata


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (of_control, UnknownCategoryError, "no cell of 'stimulated'.*'control'"),
        (of_a_type_not_asked, UnknownCategoryError, "'type_1'.*none of what is asked about.*'type_2'"),
        (negative, InputDataError, "negative"),
        (logarithms, InputDataError, "count"),
        (lambda adata: adata[:0], UnknownCategoryError, "no cell"),
        (lambda adata: adata.X, DeltaviError, "AnnData"),
    ],
)
def test_cells_that_cannot_be_used(model: SCGEN, change: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"(?s){message}"):
        model.predict_perturbation(**ASK, labels=HIDDEN, treated=change(hidden_cells()))


def test_a_cell_is_either_treated_or_a_control(model: SCGEN) -> None:
    query = cells()
    controls = query[(query.obs["cell_type"] == HIDDEN) & (query.obs["condition"] == "control")]
    treated = controls[:3].copy()
    treated.obs["condition"] = "stimulated"
    with pytest.raises(InputDataError, match=r"3 cells of treated.*either treated or a control"):
        model.predict_perturbation(controls.copy(), **ASK, treated=treated)
    # the same name is no reason: barcodes recur
    renamed = hidden_cells(3)
    renamed.obs_names = controls.obs_names[:3]
    model.predict_perturbation(controls.copy(), **ASK, treated=renamed)


def test_a_model_without_labels_has_nothing_to_correct() -> None:
    unlabelled = train(SCGEN, cells(), epochs=1, setup={"condition_key": "condition"}, **SMALL)
    with pytest.raises(DeltaviError, match="labels_key"):
        unlabelled.predict_perturbation(**ASK, treated=hidden_cells())


# -- learning --------------------------------------------------------------------------------------------------


def test_ten_cells_tell_how_strongly_monocytes_respond(kang_path: Path) -> None:
    """Real cells, whose type responds more strongly than what marks it says."""
    adata = highly_variable_genes(kang(kang_path), n_top=1000, condition_key="condition")
    hidden = ((adata.obs["cell_type"] == "CD14+Mono") & (adata.obs["condition"] == "stimulated")).to_numpy()
    real, axes = adata[hidden], principal_axes(adata.X)
    learned = adata[~hidden].copy()
    PPCA.setup_anndata(learned, condition_key="condition", labels_key="cell_type")
    model = PPCA(learned, n_latent=20)
    model.train()
    ask: dict[str, Any] = {**ASK, "labels": "CD14+Mono"}
    without = e_distance(model.predict_perturbation(**ask).X, real.X, components=axes)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(real.n_obs)
        treated, rest = real[order[:10]].copy(), real[order[10:]]
        predicted = model.predict_perturbation(**ask, treated=treated)
        assert e_distance(predicted.X, rest.X, components=axes) < 0.7 * without
