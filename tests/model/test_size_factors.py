"""Relative size factors, which count in the unit of the training cells everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from deltavi import _keys
from deltavi.errors import UnknownCategoryError
from deltavi.model import ACTINN, LABELVI, SCGEN, VAE
from deltavi.model._asked import totals_of
from deltavi.model.recipe import Part
from tests.model.conftest import QUIET, SETUP, dense, small_adata

INIT = {"n_hidden": 16, "n_latent": 3}
AS_THEY_ARE = {"control": "control", "perturbation": "stimulated", "shift": "none", "empirical_weight": 0.0}


def relative(*, seed: int = 0) -> AnnData:
    """Cells with pooled estimates around one for size factors, in `pooled`."""
    adata = small_adata(seed=seed)
    factors = dense(adata.X).sum(1) * np.random.default_rng(seed).lognormal(0.0, 0.6, adata.n_obs)
    adata.obs["pooled"] = factors / factors.mean()
    return adata


def fitted(model_class: Any, adata: AnnData, **setup: Any) -> Any:
    keys = {"labels_key": "cell_type"} if model_class is ACTINN else SETUP
    model_class.setup_anndata(adata, **{**keys, "size_factor_key": "pooled", **setup})
    model = model_class(adata, **({} if model_class is ACTINN else INIT))
    model.train(max_epochs=1, batch_size=32, **QUIET)
    return model


@pytest.mark.parametrize("model_class", [VAE, SCGEN, LABELVI])
def test_a_prediction_of_a_cell_does_not_depend_on_the_others(model_class: Any) -> None:
    model, query = fitted(model_class, relative()), relative(seed=1)
    query.obs_names = "query-" + query.obs_names
    order = np.argsort(query.obs["pooled"].to_numpy(), kind="stable")
    small = query[np.sort(order[: query.n_obs // 3])].copy()
    of_all, of_few = (model.predict_perturbation(cells, **AS_THEY_ARE) for cells in (query, small))
    same = of_all[of_few.obs_names]
    assert 0 < of_few.n_obs < of_all.n_obs
    np.testing.assert_allclose(dense(of_few.X), dense(same.X), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(dense(of_few.layers[_keys.LAYER_COUNTS]), dense(same.layers[_keys.LAYER_COUNTS]))


def test_the_unit_is_that_of_the_training_cells_and_a_file_keeps_it(tmp_path: Path) -> None:
    adata = relative()
    model = fitted(SCGEN, adata)
    mean_total = dense(adata.X).sum(1).mean()
    np.testing.assert_allclose(totals_of(model, adata), adata.obs["pooled"] * mean_total, rtol=1e-6)
    query = relative(seed=2)
    query.X = query.X * 5
    aligned = model._validate_anndata(query)
    np.testing.assert_allclose(totals_of(model, aligned), query.obs["pooled"] * mean_total, rtol=1e-6)
    model.save(tmp_path / "model")
    again = SCGEN.load(tmp_path / "model", adata)
    np.testing.assert_array_equal(totals_of(again, again._validate_anndata(query)), totals_of(model, aligned))


def test_totals_of_all_genes_stay_as_they_are() -> None:
    adata = small_adata()
    adata.obs["pooled"] = 3.0 * dense(adata.X).sum(1)
    model = fitted(SCGEN, adata)
    np.testing.assert_array_equal(totals_of(model, adata), adata.obs["pooled"])
    assert model.module.scale_activation == "softmax_rest"


def test_the_unit_of_annotation_is_that_of_the_cells_it_learns_from() -> None:
    adata = relative()
    totals = dense(adata.X).sum(1)
    unit = totals.mean() / adata.obs["pooled"].mean()
    assert float(fitted(LABELVI, relative()).module.size_factor_unit) == pytest.approx(unit, rel=1e-6)
    actinn = fitted(ACTINN, adata)
    # networks in turn learn from all labelled cells
    assert float(actinn.module.size_factor_unit) == pytest.approx(unit, rel=0.2)
    query = relative(seed=1)
    query.obs_names = "query-" + query.obs_names
    few = query[: query.n_obs // 3].copy()
    of_all, of_few = (actinn.predict(cells, soft=True) for cells in (query, few))
    np.testing.assert_allclose(of_few, of_all.loc[few.obs_names], rtol=1e-5, atol=1e-6)


def test_a_condition_that_the_networks_do_not_know_is_an_error() -> None:
    adata = small_adata()
    VAE.setup_anndata(adata, **SETUP)
    told = VAE(adata, condition_in_decoder=True, **INIT)
    assert told._condition("stimulated").code == 1
    with pytest.raises(UnknownCategoryError, match=r"'stimulatde'.*'stimulated'"):
        told._condition("stimulatde")


class CountedVAE(VAE):
    """A model that also keeps how many cells there were."""

    n_kept: int | None = None


def count(model: CountedVAE) -> None:
    model.n_kept = model.adata.n_obs


def restore(model: CountedVAE, extra: dict[str, Any]) -> None:
    model.n_kept = extra["n_kept"]


N_KEPT = Part("n_kept", fit=count, saved=lambda model: {"n_kept": model.n_kept}, restore=restore)
CountedVAE.keeps = (*VAE.keeps, N_KEPT)


def test_what_a_part_keeps_goes_with_the_model(tmp_path: Path) -> None:
    adata = small_adata()
    CountedVAE.setup_anndata(adata, **SETUP)
    model = CountedVAE(adata, **INIT)
    model.train(max_epochs=1, batch_size=32, **QUIET)
    assert model.n_kept == adata.n_obs
    assert model.training_means is not None
    model.save(tmp_path / "model")
    again = CountedVAE.load(tmp_path / "model", adata)
    assert again.n_kept == adata.n_obs
    assert again.training_means is not None
