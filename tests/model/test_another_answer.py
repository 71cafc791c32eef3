"""Answers that mean something else than was asked: measured responses, forgotten depth, unknown batches."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

from deltavi.errors import DeltaviError, DeltaviWarning, LibrarySizeWarning, NotHeldOutWarning, UnknownBatchWarning
from deltavi.model import ACTINN, LABELVI, MIXVI, SCGEN, VAE
from deltavi.pp import highly_variable_genes
from deltavi.tl import predict_held_out
from tests.model.conftest import QUIET, log_normalised, small_adata, train
from tests.models import classes_of, entry_of

KEYS = {"condition_key": "condition", "labels_key": "cell_type"}
ASK = {"control": "control", "perturbation": "stimulated"}


def fitted(cls: Any, adata: AnnData | None = None, setup: dict[str, Any] = KEYS, **settings: Any) -> Any:
    entry = entry_of(cls)
    adata = entry.on_its_scale(small_adata() if adata is None else adata)
    return train(cls, adata, epochs=1, setup=setup, **{**entry.init, "n_latent": 3, **settings})


def without(adata: AnnData, **held_out: str) -> AnnData:
    mask = np.all([adata.obs[key] == value for key, value in held_out.items()], axis=0)
    return adata[~mask].copy()


def own_weight(predicted: AnnData, label: str) -> float:
    table = predicted.uns["deltavi"]["own_weights"].set_index("query")
    return float(table.loc[label, "own_weight"])


def names() -> list[str]:
    return sorted(small_adata().obs["cell_type"].astype(str).unique())


# -- responses that were trained on --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scgen() -> SCGEN:
    return fitted(SCGEN)


@pytest.mark.parametrize("cls", classes_of(predicts=True))
def test_every_model_warns_of_a_label_whose_response_it_saw_and_of_no_other(cls: Any) -> None:
    seen, hidden, _ = names()
    model = fitted(cls, without(small_adata(), cell_type=hidden, condition="stimulated"))
    with pytest.warns(NotHeldOutWarning, match="hold them out") as caught:
        predicted = model.predict_perturbation(**ASK, labels=[seen, hidden])
    said = [str(w.message) for w in caught if w.category is NotHeldOutWarning]
    assert len(said) == 1
    assert seen in said[0]
    assert hidden not in said[0]
    assert own_weight(predicted, seen) > 0
    assert own_weight(predicted, hidden) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotHeldOutWarning)
        model.predict_perturbation(**ASK, labels=hidden)


@pytest.mark.parametrize("route", ["z", "w"])
def test_the_routes_of_a_mixture_cannot_tell_the_weight_and_warn(route: str) -> None:
    model = fitted(MIXVI, n_w=1, conditional=True)
    with pytest.warns(NotHeldOutWarning, match="unknown weight"):
        predicted = model.predict_perturbation(**ASK, labels=names()[0], shift=route)
    assert np.isnan(own_weight(predicted, names()[0]))


@pytest.mark.parametrize(("shift", "expected"), [("nearest", 1.0), ("paired", 1 / 3), ("global", 1 / 3)])
def test_the_weight_is_that_of_the_labels_own_cells(scgen: SCGEN, shift: str, expected: float) -> None:
    label = names()[0]
    with pytest.warns(NotHeldOutWarning, match=f"{expected:.0%}"):
        predicted = scgen.predict_perturbation(**ASK, labels=label, shift=shift, similarity_space="latent")
    assert own_weight(predicted, label) == pytest.approx(expected)


def test_the_weight_is_the_mean_of_shift_and_measured_change(scgen: SCGEN) -> None:
    label = names()[0]
    weights = [
        own_weight(scgen.predict_perturbation(**ASK, labels=label, empirical_weight=share), label)
        for share in (0, 0.5, 1)
    ]
    assert weights[1] == pytest.approx((weights[0] + weights[2]) / 2)
    assert weights[0] != weights[2]


def test_a_given_vector_and_a_joined_target_describe_nothing(scgen: SCGEN) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotHeldOutWarning)
        predicted = scgen.predict_perturbation(**ASK, shift=np.zeros(3, dtype=np.float32))
    assert (predicted.uns["deltavi"]["own_weights"]["own_weight"] == 0).all()
    three = small_adata()
    three.obs["condition"] = np.where(np.arange(three.n_obs) % 5 == 0, "other", three.obs["condition"].astype(str))
    model = fitted(SCGEN, three)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotHeldOutWarning)
        model.predict_perturbation(control="control", perturbation="stimulated+other")


def test_training_cells_are_known_by_name_and_other_cells_are_logged(
    scgen: SCGEN, caplog: pytest.LogCaptureFixture
) -> None:
    own = small_adata()
    own = own[own.obs["condition"] == "control"].copy()
    with pytest.warns(NotHeldOutWarning):
        scgen.predict_perturbation(own, **ASK)
    own.obs_names = "new-" + own.obs_names
    with warnings.catch_warnings(), caplog.at_level(logging.INFO, "deltavi"):
        warnings.simplefilter("error", NotHeldOutWarning)
        scgen.predict_perturbation(own, **ASK)
    assert "of other donors perhaps" in caplog.text


def test_a_batch_of_its_own_that_was_held_out_is_predicted() -> None:
    adata = without(small_adata(), batch="batch_1", condition="stimulated")
    adata.obs["batch"] = adata.obs["batch"].astype(str)
    first = adata.obs["batch"].unique().tolist()
    model = fitted(SCGEN, adata, {**KEYS, "batch_key": "batch"})
    held = [b for b in first if not ((adata.obs["batch"] == b) & (adata.obs["condition"] == "stimulated")).any()]
    assert len(held) == 1
    cells = adata[(adata.obs["batch"] == held[0]) & (adata.obs["condition"] == "control")].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotHeldOutWarning)
        model.predict_perturbation(cells, **ASK)


def test_our_own_evaluation_holds_out_and_the_weights_can_be_written(scgen: SCGEN, tmp_path: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotHeldOutWarning)
        result = predict_held_out(small_adata(), label=names()[0], **ASK, max_epochs=1, n_genes=20)
    result.predicted.write_h5ad(tmp_path / "p.h5ad")
    table = read_h5ad(tmp_path / "p.h5ad").uns["deltavi"]["own_weights"]
    assert table["own_weight"].tolist() == [0.0]


# -- sequencing depth ----------------------------------------------------------------------------------------


def size_factor(cls: Any, adata: AnnData, **setup: Any) -> Any:
    arguments = {key: column for key, column in entry_of(cls).setup.items() if key in KEYS}
    cls.setup_anndata(adata, **arguments, **setup)
    return cls(adata).registry_["setup_args"]["size_factor_key"]


@pytest.mark.parametrize("cls", classes_of(reads="counts"))
def test_totals_that_a_selection_stored_are_used(cls: Any, caplog: pytest.LogCaptureFixture) -> None:
    few = highly_variable_genes(small_adata(), n_top=20)
    with caplog.at_level(logging.INFO, "deltavi"):
        assert size_factor(cls, few.copy(), layer="counts") == "total_counts"
    assert "size_factor_key='total_counts'" in caplog.text
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeltaviWarning)
        assert size_factor(cls, few, layer="counts", size_factor_key=False) is None


def test_the_choice_is_kept_in_files_and_asked_of_queries(tmp_path: Any) -> None:
    few = highly_variable_genes(small_adata(), n_top=20)
    model = train(VAE, few.copy(), epochs=1, setup={**KEYS, "layer": "counts"}, n_hidden=8, n_latent=3)
    plain = train(VAE, few.copy(), epochs=1, setup={**KEYS, "layer": "counts", "size_factor_key": False}, n_hidden=8)
    query = few.copy()
    del query.obs["total_counts"]
    with pytest.raises(DeltaviError, match="total_counts"):
        model.get_latent_representation(query)
    assert plain.get_latent_representation(query).shape == (query.n_obs, 10)
    model.save(tmp_path / "a")
    plain.save(tmp_path / "b")
    assert VAE.load(tmp_path / "a", adata=few.copy())._setup_argument("size_factor_key") == "total_counts"
    assert VAE.load(tmp_path / "b", adata=few.copy())._setup_argument("size_factor_key") is None


@pytest.mark.parametrize("change", ["gone", "halved", "zero"])
def test_a_stored_total_that_is_no_longer_right_is_not_used(change: str) -> None:
    few = highly_variable_genes(small_adata(), n_top=20)
    if change == "gone":
        del few.obs["total_counts"]
    else:
        few.obs["total_counts"] *= 0.01 if change == "halved" else np.r_[0, np.ones(few.n_obs - 1)]
    with pytest.warns(LibrarySizeWarning, match="is not used"):
        assert size_factor(VAE, few, layer="counts") is None


def test_no_mark_where_all_genes_are_kept() -> None:
    assert "deltavi_total_counts" not in highly_variable_genes(small_adata(), n_top=1000).uns


@pytest.mark.parametrize("name", ["total_counts", "n_counts", "nCount_RNA", "nUMI", "n_umi", "total_umis", "sum"])
def test_columns_of_totals_over_more_genes_are_pointed_at(name: str) -> None:
    adata = small_adata()
    del adata.obs["total_counts"]
    adata.obs[name] = np.asarray(adata.X.sum(1)).ravel()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeltaviWarning)
        assert size_factor(VAE, adata.copy()) is None
        assert size_factor(VAE, adata[:, :20].copy(), size_factor_key=name) == name
    with pytest.warns(LibrarySizeWarning, match=f"size_factor_key='{name}'") as caught:
        assert size_factor(VAE, adata[:, :20].copy()) is None
    assert len([w for w in caught if issubclass(w.category, DeltaviWarning)]) == 1


def test_columns_that_are_no_totals_and_logarithms_are_left_alone() -> None:
    adata = small_adata()[:, :20].copy()
    del adata.obs["total_counts"]
    adata.obs["n_counts"] = 1.0
    adata.obs["total_counts_mt"] = 1e6
    adata.obs["n_umi"] = "many"
    logs = log_normalised(small_adata()[:, :20].copy())
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeltaviWarning)
        assert size_factor(VAE, adata) is None
        VAE.setup_anndata(logs, **KEYS)
        VAE(logs, gene_likelihood="normal")


@pytest.mark.parametrize(("in_raw", "said"), [("counts", "adata.raw.X.sum"), ("logs", "holds no counts")])
def test_raw_with_more_genes_is_pointed_at(in_raw: str, said: str) -> None:
    adata = small_adata()
    del adata.obs["total_counts"]
    whole = adata if in_raw == "counts" else log_normalised(adata)
    few = adata[:, :20].copy()
    few.raw = whole
    with pytest.warns(LibrarySizeWarning, match="genes were selected") as caught:
        size_factor(VAE, few)
    assert any(said in str(w.message) for w in caught if w.category is LibrarySizeWarning)


# -- rejection in batches that training did not see ----------------------------------------------------------


@pytest.fixture(scope="module")
def annotated() -> AnnData:
    return small_adata(n_per_group=40)


@pytest.mark.parametrize("cls", classes_of(annotates=True, has_batches=True))
def test_rejection_promises_nothing_in_a_new_batch(cls: Any, annotated: AnnData) -> None:
    model = fitted(cls, annotated.copy(), {"labels_key": "cell_type", "batch_key": "batch"})
    query = annotated.copy()
    query.obs_names = "new-" + query.obs_names
    query.obs["batch"] = np.where(np.arange(query.n_obs) < 50, "lab 9", query.obs["batch"].astype(str))
    with pytest.warns(UnknownBatchWarning, match=r"for 50 of \d+ cells.*'lab 9'"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*did not see")
        model.predict(query, reject=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeltaviWarning)
        warnings.filterwarnings("ignore", message=".*did not see")
        model.predict(query, indices=np.arange(60, 90), reject=0.1)
        model.predict(query)
        model.predict(reject=0.1)


def test_a_mapped_query_keeps_the_calibration_of_other_batches(annotated: AnnData, tmp_path: Any) -> None:
    model = fitted(LABELVI, annotated.copy(), {"labels_key": "cell_type", "batch_key": "batch"})
    query = annotated.copy()
    query.obs_names, query.obs["batch"] = "new-" + query.obs_names, pd.Categorical(["lab 9"] * query.n_obs)
    query.obs["cell_type"] = pd.Categorical([None] * query.n_obs, categories=["a"])
    mapped = LABELVI.load_query_data(query, model)
    mapped.train(max_epochs=1, **QUIET)
    mapped.save(tmp_path / "m")
    for one in (mapped, LABELVI.load(tmp_path / "m", adata=query)):
        with pytest.warns(UnknownBatchWarning, match="lab 9"):
            one.predict(reject=0.1)


def test_a_model_without_batches_logs_it_of_other_cells(annotated: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    ACTINN.setup_anndata(annotated, labels_key="cell_type")
    model = ACTINN(annotated, n_hidden=4)
    model.train(max_epochs=1, **QUIET)
    with caplog.at_level(logging.INFO, "deltavi"):
        model.predict(reject=0.1)
        assert "holds for cells like" not in caplog.text
        model.predict(annotated.copy(), reject=0.1)
    assert "holds for cells like" in caplog.text
