"""A model and its AnnData stay in step: what a user may do to obs after setup, and what must happen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from deltavi.errors import DeltaviError, InputDataError, UnknownCategoryError
from deltavi.model import SCGEN, VAE
from tests.model.conftest import QUIET, SETUP, dense, small_adata, train
from tests.models import classes_of

ASK = {"control": "control", "perturbation": "stimulated"}
SMALL = {"n_hidden": 8, "n_latent": 2}
MODELS = pytest.mark.parametrize("model_class", classes_of(decodes=True, reads="counts"))
COLUMNS = pytest.mark.parametrize("key", ["condition", "cell_type", "batch"])


def swap(adata: AnnData, key: str, rows: list[int]) -> None:
    """Give the cells in `rows` another category that exists."""
    values = adata.obs[key].astype(str).to_numpy(dtype=object)
    names = sorted(set(values))
    for row in rows:
        values[row] = names[(names.index(values[row]) + 1) % len(names)]
    adata.obs[key] = values


def small_model(model_class: Any, adata: AnnData, **setup: Any) -> Any:
    return train(model_class, adata, setup=setup or SETUP, epochs=1, **SMALL)


# -- edits ---------------------------------------------------------------------------------------------------


@MODELS
@COLUMNS
def test_an_edited_column_is_an_error_in_every_verb(adata: AnnData, model_class: Any, key: str) -> None:
    model = small_model(model_class, adata)
    before = model.get_latent_representation()
    original = adata.obs[key].copy()
    swap(adata, key, [1, 4, 6, 9])
    names = adata.obs_names
    for ask in (
        model.get_latent_representation,
        lambda: model.predict_perturbation(**ASK),
        model.get_normalized_expression,
        model.get_elbo,
    ):
        with pytest.raises(DeltaviError, match=f"obs\\['{key}'\\] was edited") as caught:
            ask()
        message = str(caught.value)
        assert f"4 of {adata.n_obs} cells changed" in message
        assert f"'{names[1]}', '{names[4]}', '{names[6]}' and 1 more" in message
        assert "Undo the edit" in message
        assert "run setup_anndata again and train a new model" in message
    adata.obs[key] = original
    np.testing.assert_array_equal(model.get_latent_representation(), before)


@COLUMNS
def test_a_missing_value_since_setup_is_an_edit(adata: AnnData, key: str) -> None:
    model = small_model(VAE, adata)
    values = adata.obs[key].astype(object)
    values.iloc[3] = np.nan
    adata.obs[key] = values
    with pytest.raises(DeltaviError, match=f"1 of {adata.n_obs} cells changed"):
        model.get_latent_representation()


@MODELS
def test_an_edit_between_setup_and_training_is_found_before_the_first_step(adata: AnnData, model_class: Any) -> None:
    model_class.setup_anndata(adata, **SETUP)
    model = model_class(adata, **SMALL)
    swap(adata, "cell_type", [0])
    with pytest.raises(DeltaviError, match=f"1 of {adata.n_obs} cells changed"):
        model.train(max_epochs=1, batch_size=32, **QUIET)
    assert not model.is_trained


def test_setting_up_again_takes_the_edit_over(adata: AnnData) -> None:
    old = small_model(VAE, adata)
    swap(adata, "cell_type", [0, 1])
    small_model(VAE, adata).get_latent_representation()
    with pytest.raises(DeltaviError, match=f"2 of {adata.n_obs} cells changed"):
        old.get_latent_representation()


@MODELS
@COLUMNS
def test_a_column_that_went_away(adata: AnnData, model_class: Any, key: str) -> None:
    model = small_model(model_class, adata)
    before = adata.obs[key].copy()
    del adata.obs[key]
    with pytest.raises(DeltaviError, match=f"obs\\['{key}'\\], registered for {adata.n_obs} cells") as caught:
        model.get_latent_representation()
    assert f"'{adata.obs_names[0]}'" in str(caught.value)
    assert "Put it back" in str(caught.value)
    adata.obs[key] = before
    model.get_latent_representation()


@pytest.mark.parametrize("setup", [SETUP, {}], ids=["registered", "default"])
def test_a_column_of_codes_that_went_away_comes_back_with_setup(adata: AnnData, setup: Any) -> None:
    VAE.setup_anndata(adata, **setup)
    model = VAE(adata, **SMALL)
    model.train(max_epochs=1, batch_size=32, **QUIET)
    before = model.get_latent_representation()
    adata.obs = adata.obs[["condition", "cell_type", "batch", "total_counts"]]
    with pytest.raises(DeltaviError, match=f"obs\\['_scvi_batch'\\].* for {adata.n_obs} cells, is gone") as caught:
        model.get_latent_representation()
    assert "setup_anndata with the same arguments" in str(caught.value)
    VAE.setup_anndata(adata, **setup)
    np.testing.assert_array_equal(model.get_latent_representation(), before)


# -- what is no edit -----------------------------------------------------------------------------------------


@MODELS
@COLUMNS
@pytest.mark.parametrize("dtype", ["object", "category", "string", "string[pyarrow]"])
def test_another_type_of_column_is_no_edit(adata: AnnData, model_class: Any, key: str, dtype: str) -> None:
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    model = small_model(model_class, adata)
    adata.obs[key] = adata.obs[key].astype(str).astype(dtype)
    model.predict_perturbation(**ASK)


@pytest.mark.parametrize("dtype", [str, "category", "Int64", float, object])
def test_numbers_may_turn_into_text_and_back(adata: AnnData, dtype: Any) -> None:
    # as text, 10 comes before 9: codes made afresh would be others
    adata.obs["batch"] = np.where(adata.obs["batch"] == adata.obs["batch"].iloc[0], 9, 10)
    model = small_model(VAE, adata)
    before = model.get_latent_representation()
    registered = np.asarray(adata.obs["_scvi_batch"])
    adata.obs["batch"] = adata.obs["batch"].astype(dtype)
    np.testing.assert_array_equal(model.get_latent_representation(), before)
    SCGEN.setup_anndata(adata, condition_key="condition")
    np.testing.assert_array_equal(model.get_latent_representation(), before)
    np.testing.assert_array_equal(adata.obs["_scvi_batch"], registered)


def test_categories_without_cells_may_come_and_go(adata: AnnData) -> None:
    adata.obs["cell_type"] = adata.obs["cell_type"].astype("category").cat.add_categories(["never", "A first one"])
    model = small_model(VAE, adata)
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.remove_unused_categories()
    model.get_latent_representation()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories(["A later one"])
    model.get_latent_representation()


def test_other_columns_are_free(adata: AnnData) -> None:
    model = small_model(VAE, adata)
    adata.obs["leiden"] = "0"
    adata.obs["total_counts"] = 1.0
    adata.obs = adata.obs[adata.obs.columns[::-1]]
    model.get_latent_representation()


def test_without_keys_nothing_is_compared(adata: AnnData) -> None:
    VAE.setup_anndata(adata)
    model = VAE(adata, **SMALL)
    model.train(max_epochs=1, batch_size=32, **QUIET)
    adata.obs = adata.obs.drop(columns=["cell_type", "batch", "condition"])
    adata.obs["labels"], adata.obs["batch"] = "new", "new"
    model.get_latent_representation()


def test_cells_left_out_in_place_are_answered_for_as_a_query(adata: AnnData) -> None:
    model = small_model(VAE, adata)
    kept = np.asarray(adata.obs["cell_type"] != "type_1")
    before = model.get_latent_representation()[kept]
    known = list(model._categories("labels"))
    adata._inplace_subset_obs(kept)
    with pytest.raises(DeltaviError, match=f"{(~kept).sum()} of {len(kept)} cells went away"):
        model.get_latent_representation()
    # set up afresh, without the type that went, codes are others
    SCGEN.setup_anndata(adata, **SETUP)
    with pytest.raises(DeltaviError, match=r"adata\.copy\(\)"):
        model.get_latent_representation()
    np.testing.assert_allclose(model.get_latent_representation(adata.copy()), before, atol=1e-6)
    assert list(model._categories("labels")) == known


# -- one AnnData, several registrations ----------------------------------------------------------------------


def test_two_models_with_other_columns_keep_to_their_own(adata: AnnData) -> None:
    adata.obs["half"] = np.where(np.arange(adata.n_obs) % 2, "odd", "even")
    first = small_model(VAE, adata, labels_key="cell_type")
    reference = first.get_latent_representation()
    own = np.asarray(adata.obs["_scvi_labels"]).copy()
    second = small_model(SCGEN, adata, labels_key="half", batch_key="batch")
    assert set(adata.obs["_scvi_labels"]) == {0, 1}
    np.testing.assert_array_equal(first.get_latent_representation(), reference)
    np.testing.assert_array_equal(adata.obs["_scvi_labels"], own)
    second.get_latent_representation()
    assert set(adata.obs["_scvi_labels"]) == {0, 1}
    np.testing.assert_array_equal(np.ravel(first.adata_manager.get_from_registry("labels")), own)


def test_a_model_trains_on_its_own_columns_though_another_was_set_up_since(adata: AnnData) -> None:
    adata.obs["half"] = np.where(np.arange(adata.n_obs) % 2, "odd", "even")
    reference = small_model(VAE, small_adata(), batch_key="batch").get_latent_representation()
    VAE.setup_anndata(adata, batch_key="batch")
    model = VAE(adata, **SMALL)
    SCGEN.setup_anndata(adata, batch_key="half")
    model.train(max_epochs=1, batch_size=32, **QUIET)
    np.testing.assert_array_equal(model.get_latent_representation(), reference)


def test_an_edit_is_found_though_another_model_was_set_up_since(adata: AnnData) -> None:
    model = small_model(VAE, adata)
    swap(adata, "cell_type", [0, 2])
    SCGEN.setup_anndata(adata, **SETUP)
    with pytest.raises(DeltaviError, match=f"obs\\['cell_type'\\] was edited.* 2 of {adata.n_obs} cells"):
        model.get_latent_representation()


def test_a_registration_that_cannot_be_repeated_can_be_later(adata: AnnData) -> None:
    model = small_model(VAE, adata)
    before = model.get_latent_representation()
    SCGEN.setup_anndata(adata, **SETUP)
    count = adata.X.data[0]
    adata.X.data[0] = np.nan
    with pytest.raises(InputDataError, match="1 NaN"):
        model.get_latent_representation()
    assert list(model._categories("labels")) == ["type_1", "type_2", "type_3"]
    adata.X.data[0] = count
    np.testing.assert_array_equal(model.get_latent_representation(), before)


def test_a_cleared_uns_is_written_again(adata: AnnData) -> None:
    model = small_model(SCGEN, adata)
    before = model.get_latent_representation()
    adata.uns.clear()
    np.testing.assert_array_equal(model.get_latent_representation(), before)


def test_a_refused_setup_can_be_repeated(adata: AnnData) -> None:
    values = adata.obs["cell_type"].astype(object)
    values.iloc[3] = np.nan
    adata.obs["cell_type"] = values
    before = adata.obs.copy()
    with pytest.raises(InputDataError, match="missing"):
        VAE.setup_anndata(adata, **SETUP)
    assert list(adata.obs) == list(before)
    adata.obs["cell_type"] = values.fillna("type_1")
    VAE.setup_anndata(adata, **SETUP)


def test_a_refused_setup_leaves_an_older_model_as_it_is(adata: AnnData) -> None:
    model = small_model(VAE, adata)
    before = model.get_latent_representation()
    with pytest.raises(UnknownCategoryError, match="nope"):
        SCGEN.setup_anndata(adata, batch_key="condition", labels_key="nope")
    np.testing.assert_array_equal(model.get_latent_representation(), before)


# -- files and queries ---------------------------------------------------------------------------------------


@MODELS
def test_a_loaded_model_watches_its_columns_too(adata: AnnData, model_class: Any, tmp_path: Path) -> None:
    model = small_model(model_class, adata)
    model.save(tmp_path / "model", save_anndata=True)
    attached = model_class.load(tmp_path / "model")
    latent = attached.get_latent_representation()
    np.testing.assert_allclose(latent, model.get_latent_representation(), atol=1e-6)
    swap(attached.adata, "batch", [7])
    with pytest.raises(DeltaviError, match=f"1 of {adata.n_obs} cells changed .for example '{adata.obs_names[7]}'"):
        attached.get_latent_representation()


def test_a_mapped_query_without_labels_may_get_them(adata: AnnData) -> None:
    reference = small_model(VAE, adata, labels_key="cell_type", batch_key="batch")
    query = small_adata(seed=1)
    query.obs["batch"] = "new"
    del query.obs["cell_type"]
    mapped = VAE.load_query_data(query, reference)
    mapped.train(max_epochs=1, batch_size=32, **QUIET)
    query.obs["cell_type"] = "type_1"
    mapped.get_latent_representation()
    query.obs["batch"] = adata.obs["batch"].to_numpy()
    with pytest.raises(DeltaviError, match=f"obs\\['batch'\\] was edited.*{query.n_obs} of {query.n_obs} cells"):
        mapped.get_latent_representation()


def test_queries_are_not_held_to_what_they_were(adata: AnnData) -> None:
    model = small_model(SCGEN, adata)
    query = small_adata()
    first = model.predict_perturbation(query, **ASK)
    swap(query, "cell_type", [0, 1, 2])
    second = model.predict_perturbation(query, **ASK)
    assert dense(first.X).shape == dense(second.X).shape
