"""What a baseline refuses, with the name, the number and the way out."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from anndata import AnnData

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, KeyClashError, UnknownCategoryError
from deltavi.perturbation import ShiftBaseline

KEYS = {"condition_key": "condition", "labels_key": "cell_type"}
CONDITIONS = {"control": "control", "perturbation": "stimulated"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control": "contrl", "perturbation": "stimulated"}, "control condition 'contrl' .* Did you mean 'control'"),
        (
            {"control": "control", "perturbation": "stimulate"},
            "perturbation condition 'stimulate' .* Did you mean 'stimulated'",
        ),
        ({**CONDITIONS, "labels": "monocytes"}, "'monocytes' is not in the data. Did you mean 'monocyte'"),
        ({**CONDITIONS, "labels": ["B", "XX"]}, "'XX' is not in the data. Known: 'B', 'CD4 T', 'NK', 'monocyte'"),
    ],
)
def test_misspelt_names_are_corrected(baseline, adata, options, message):
    for query in (None, adata):
        with pytest.raises(UnknownCategoryError, match=message):
            baseline.predict_perturbation(query, **options)


def test_query_without_control_cells(baseline, adata):
    stimulated = adata[(adata.obs["condition"] == "stimulated").to_numpy()]
    with pytest.raises(UnknownCategoryError, match="control condition 'control' is not in the data"):
        baseline.predict_perturbation(stimulated, **CONDITIONS)


def test_label_without_control_cells(adata, split):
    train, _, real = split(adata)
    mixed = anndata.concat([real, train[(train.obs["cell_type"] != "NK").to_numpy()]])
    with pytest.raises(UnknownCategoryError, match="label of control cells 'NK'"):
        ShiftBaseline(train, **KEYS).predict_perturbation(mixed, **CONDITIONS, labels="NK")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control": "control", "perturbation": "control"}, "control and perturbation are both 'control'"),
        ({**CONDITIONS, "labels": []}, "labels is empty"),
        ({**CONDITIONS, "shift": "similar"}, "shift estimator 'similar' does not exist"),
        ({**CONDITIONS, "shift": [1.0]}, r"shape \(1,\)"),
        ({**CONDITIONS, "bandwidth": 0}, "bandwidth must be"),
    ],
)
def test_bad_options(baseline, options, message):
    with pytest.raises(DeltaviError, match=message):
        baseline.predict_perturbation(**options)


def test_labels_need_a_column(adata, split):
    train, query, _ = split(adata)
    del query.obs["cell_type"]
    with pytest.raises(DeltaviError, match="needs a label column; labels_key is 'cell_type'"):
        ShiftBaseline(train, **KEYS).predict_perturbation(query, **CONDITIONS, labels="NK")


@pytest.mark.parametrize(("key", "given"), [("condition_key", "conditoin"), ("labels_key", "celltype")])
def test_misspelt_columns(adata, key, given):
    with pytest.raises(UnknownCategoryError, match=rf"obs column '{given}' is not in the data. Did you mean"):
        ShiftBaseline(adata, **{**KEYS, key: given})


def test_unknown_space(adata):
    with pytest.raises(DeltaviError, match=r"space 'umap' does not exist. Known: 'genes', 'pca'"):
        ShiftBaseline(adata, **KEYS, space="umap")


def test_cells_without_label(adata):
    unlabelled = adata.copy()
    unlabelled.obs["cell_type"] = adata.obs["cell_type"].astype(object).where(np.arange(adata.n_obs) >= 40, None)
    baseline = ShiftBaseline(unlabelled, **KEYS)
    n_missing = int((adata.obs["condition"] == "control").to_numpy()[:40].sum())
    with pytest.raises(InputDataError, match=rf"{n_missing} control cells have no label in obs\['cell_type'\]"):
        baseline.predict_perturbation(**CONDITIONS)
    assert baseline.predict_perturbation(**CONDITIONS, labels="B").n_obs > 0


def test_columns_of_an_earlier_prediction_are_no_clash_and_others_are(baseline, adata):
    predicted = baseline.predict_perturbation(adata, **CONDITIONS)
    back = baseline.predict_perturbation(predicted, control="stimulated", perturbation="control")
    assert set(back.obs["deltavi_source_condition"]) == {"stimulated"}
    joined = anndata.concat([adata, predicted], join="outer", index_unique="-")
    assert ShiftBaseline(joined, **KEYS).predict_perturbation(**CONDITIONS).n_obs == predicted.n_obs
    for cells in (adata, joined):
        taken = cells.copy()
        taken.obs["deltavi_source_condition"] = "clinic"
        with pytest.raises(KeyClashError, match="'deltavi_source_condition', which a prediction writes; rename or"):
            baseline.predict_perturbation(taken, **CONDITIONS)


def spoil(adata, value):
    adata.X[3, 4] = value
    return adata


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: spoil(a, np.nan), "NaN or infinite values in 1 of"),
        (lambda a: spoil(a, np.inf), "NaN or infinite values in 1 of"),
        (lambda a: spoil(a, -0.5), "holds 1 negative values"),
        (lambda a: spoil(a, 1e4), "looks like counts .*normalize_total"),
        (lambda a: AnnData(np.rint(3 * a.X), obs=a.obs, var=a.var), "looks like counts"),
        (lambda a: AnnData(obs=a.obs, var=a.var), "adata has no X"),
    ],
)
def test_expression_that_cannot_be_used(adata, baseline, change, message):
    query = adata[(adata.obs["condition"] == "control").to_numpy()].copy()
    bad = change(query)
    with pytest.raises(InputDataError, match=message):
        baseline.predict_perturbation(bad, **CONDITIONS)
    with pytest.raises(InputDataError, match=message):
        ShiftBaseline(bad, **KEYS)


def test_repeated_genes(adata, baseline):
    repeated = adata.copy()
    repeated.var_names = ["gene0", "gene0", *adata.var_names[2:]]
    for call in (
        lambda: ShiftBaseline(repeated, **KEYS),
        lambda: baseline.predict_perturbation(repeated, **CONDITIONS),
    ):
        with pytest.raises(GeneMatchError, match=r"1 gene names that occur more than once .'gene0'.*make_unique"):
            call()


def test_missing_genes(adata, baseline):
    with pytest.raises(GeneMatchError, match=r"lacks 2 of 30 genes .'gene0', 'gene1'"):
        baseline.predict_perturbation(adata[:, 2:], **CONDITIONS)
    renamed = adata.copy()
    renamed.var_names = [f"ENSG{i}" for i in range(adata.n_vars)]
    with pytest.raises(GeneMatchError, match=r"lacks 30 of 30 genes .*it holds 'ENSG0'"):
        baseline.predict_perturbation(renamed, **CONDITIONS)
