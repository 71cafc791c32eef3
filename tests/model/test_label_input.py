"""Bad input to models that annotate, row by row: what a user may hand over by mistake, and what must happen."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi.errors import (
    DeltaviError,
    GeneMatchError,
    GeneMatchWarning,
    InputDataError,
    InputDataWarning,
    KeyClashError,
    LabelWarning,
    UnknownCategoryError,
)
from tests.model.conftest import QUIET, dense, log_normalised, small_adata
from tests.models import classes_of, entry_of

MODELS = pytest.mark.parametrize("model_class", classes_of(annotates=True))


def fitted(model_class: Any, adata: AnnData, *, setup: dict[str, Any] | None = None, **train: Any) -> Any:
    model_class.setup_anndata(adata, **{"labels_key": "cell_type", **(setup or {})})
    model = model_class(adata, **entry_of(model_class).init)
    model.train(**{"max_epochs": 3, "batch_size": 32, "train_size": 0.7, **QUIET, **train})
    return model


def with_labels(labels: Any) -> AnnData:
    adata = small_adata()
    adata.obs["cell_type"] = labels if callable(getattr(labels, "reindex", None)) else np.asarray(labels, dtype=object)
    return adata


# -- labels --------------------------------------------------------------------------------------------------


@MODELS
def test_all_cells_unlabelled(model_class: Any) -> None:
    for labels, setup in ((["unknown"] * 144, {"unlabeled_category": "unknown"}), ([None] * 144, {})):
        with pytest.raises(DeltaviError, match="none of the 144 cells has a label"):
            fitted(model_class, with_labels(labels), setup=setup)


@MODELS
def test_one_class_only(model_class: Any) -> None:
    with pytest.raises(DeltaviError, match="at least 2"):
        fitted(model_class, with_labels(["B"] * 144))
    with pytest.raises(DeltaviError, match="at least 2"):
        fitted(model_class, with_labels(["B"] * 100 + ["unknown"] * 44), setup={"unlabeled_category": "unknown"})


@MODELS
def test_a_class_with_one_cell_is_learned_and_kept_out_of_calibration(model_class: Any) -> None:
    adata = with_labels(["rare", *small_adata().obs["cell_type"].astype(str)[1:]])
    with pytest.warns(LabelWarning, match="single cell"):
        model = fitted(model_class, adata)
    assert 0 in model.train_indices
    assert "rare" in model.predict(soft=True).columns
    assert np.isfinite(model.get_novelty_scores().select_dtypes("number")).all().all()


@MODELS
def test_a_label_column_that_does_not_exist(model_class: Any) -> None:
    with pytest.raises(UnknownCategoryError, match="Did you mean 'cell_type'"):
        fitted(model_class, small_adata(), setup={"labels_key": "celltype"})


@MODELS
def test_a_typo_in_the_unlabelled_name(model_class: Any) -> None:
    adata = with_labels(["unknown"] * 44 + ["B", "T"] * 50)
    with pytest.raises(UnknownCategoryError, match="Did you mean 'unknown'"):
        fitted(model_class, adata, setup={"unlabeled_category": "Unknwon"})


@MODELS
def test_a_label_that_is_called_like_rejected_cells(model_class: Any) -> None:
    adata = with_labels(["unassigned"] * 44 + ["B", "T"] * 50)
    with pytest.warns(LabelWarning), pytest.raises(KeyClashError, match="unlabeled_category='unassigned'"):
        fitted(model_class, adata)
    model = fitted(model_class, adata, setup={"unlabeled_category": "unassigned"})
    assert set(model.predict()) <= {"B", "T"}


@MODELS
@pytest.mark.parametrize(
    "names", [[3, 1, 2], ["T|B, µ", "naïve/CD4+ ", "3"], pd.array(["a", "b", "c"], dtype="string")], ids=str
)
def test_labels_of_any_kind_come_back_as_text(model_class: Any, names: Any, tmp_path: Any) -> None:
    codes = pd.Categorical(small_adata().obs["cell_type"]).codes
    adata = with_labels(pd.Series(names).iloc[codes].set_axis(small_adata().obs_names))
    model = fitted(model_class, adata)
    assert set(model.label_names) == {str(name) for name in names}
    kept = model.predict(keep_observed=True)
    assert kept.tolist() == [str(names[code]) for code in codes]
    model.save(tmp_path / "model")
    assert model_class.load(tmp_path / "model").predict(adata, keep_observed=True).tolist() == kept.tolist()


@MODELS
def test_missing_labels_are_unlabelled(model_class: Any, caplog: pytest.LogCaptureFixture) -> None:
    labels = small_adata().obs["cell_type"].astype(str).to_numpy(dtype=object)
    labels[:20] = None
    with caplog.at_level(logging.INFO, logger="deltavi"):
        model = fitted(model_class, with_labels(labels))
    assert "20 of 144 cells" in caplog.text
    assert set(model.predict().iloc[:20]) <= {"type_1", "type_2", "type_3"}


@MODELS
def test_unused_categories_are_no_labels(model_class: Any) -> None:
    labels = small_adata().obs["cell_type"].astype(str).astype("category").cat.add_categories(["never"])
    assert list(fitted(model_class, with_labels(labels)).predict(soft=True)) == ["type_1", "type_2", "type_3"]


# -- values --------------------------------------------------------------------------------------------------


@MODELS
def test_log_normalised_or_scaled_instead_of_counts(model_class: Any) -> None:
    logs, scaled = log_normalised(small_adata()), small_adata()
    x = dense(scaled.X)
    scaled.X = 1e4 * x / x.sum(1, keepdims=True)
    for adata, word in ((logs, "log-normalised"), (scaled, "scaled per cell")):
        model_class.setup_anndata(adata, labels_key="cell_type")
        with pytest.raises(InputDataError, match=word) as caught:
            model_class(adata, **entry_of(model_class).init)
        assert "raw counts" in str(caught.value)
        assert "check_input=False" in str(caught.value)
        model_class(adata, check_input=False, **entry_of(model_class).init)


@MODELS
def test_a_query_on_another_scale_is_refused(model_class: Any) -> None:
    model = fitted(model_class, small_adata())
    with pytest.raises(InputDataError, match="query"):
        model.predict(log_normalised(small_adata()))


@MODELS
def test_nan_in_a_query_names_the_cell(model_class: Any) -> None:
    model, query = fitted(model_class, small_adata()), small_adata()
    x = dense(query.X).astype(np.float64)
    x[7, 3] = np.nan
    query.X = x
    with pytest.raises(InputDataError, match=query.obs_names[7]):
        model.predict(query)


@MODELS
def test_a_training_cell_without_counts_is_unassigned(model_class: Any) -> None:
    adata = small_adata()
    x = dense(adata.X)
    x[[3, 90]] = 0
    adata.X = sparse.csr_matrix(x)
    with pytest.warns(InputDataWarning, match="2 cells have no counts at all"):
        model = fitted(model_class, adata)
    for query in (None, adata):
        with pytest.warns(InputDataWarning, match="2 cells have no counts at all"):
            labels = model.predict(query)
        assert np.flatnonzero(labels == "unassigned").tolist() == [3, 90]
    assert model.predict(indices=[1, 2]).isin(model.label_names).all()


@MODELS
def test_a_gene_without_counts_and_a_constant_gene(model_class: Any) -> None:
    adata = small_adata()
    x = dense(adata.X)
    x[:, 7], x[:, 8] = 0, 3
    adata.X = sparse.csr_matrix(x)
    assert np.isfinite(fitted(model_class, adata).predict(soft=True)).all().all()


@MODELS
def test_a_value_beyond_single_precision_gives_no_nan(model_class: Any) -> None:
    adata = small_adata()
    x = dense(adata.X).astype(np.float64)
    x[3, 2] = 1e12
    adata.X = x
    with pytest.warns(InputDataWarning, match="2\\^24"):
        model = fitted(model_class, adata)
    assert np.isfinite(model.predict(soft=True)).all().all()


@MODELS
def test_few_cells(model_class: Any) -> None:
    with pytest.warns(LabelWarning, match="single cell"), pytest.raises(DeltaviError, match="too few"):
        fitted(model_class, small_adata()[[0, 2]].copy())


# -- genes ---------------------------------------------------------------------------------------------------


@MODELS
def test_shuffled_and_extra_genes_change_nothing(model_class: Any) -> None:
    model, query = fitted(model_class, small_adata()), small_adata()
    expected = model.predict(soft=True)
    shuffled = query[:, np.random.default_rng(0).permutation(query.n_vars)].copy()
    names = [*query.var_names, "EXTRA1", "EXTRA2"]
    x = np.concatenate([dense(query.X), np.full((query.n_obs, 2), 1000)], axis=1)
    extra = AnnData(X=sparse.csr_matrix(x), obs=query.obs.copy(), var=pd.DataFrame(index=names))
    for other in (shuffled, extra, extra[:, ::-1]):
        np.testing.assert_allclose(model.predict(other, soft=True), expected, atol=1e-6)
        assert model.predict(other).tolist() == model.predict().tolist()


@MODELS
def test_missing_genes_warn_and_too_few_are_an_error(model_class: Any) -> None:
    model, query = fitted(model_class, small_adata()), small_adata()
    with pytest.warns(GeneMatchWarning):
        labels = model.predict(query[:, :30].copy())
    padded = small_adata()
    x = dense(padded.X)
    x[:, 30:] = 0
    padded.X = sparse.csr_matrix(x)
    assert labels.tolist() == model.predict(padded).tolist()
    for n in (10, 3):
        with pytest.raises(GeneMatchError, match="genes"):
            model.predict(query[:, :n].copy())
    query.var_names = [f"other{i}" for i in range(query.n_vars)]
    with pytest.raises(GeneMatchError, match="genes"):
        model.predict(query)
