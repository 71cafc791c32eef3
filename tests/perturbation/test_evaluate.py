"""Tables of scores and the sentence that sums them up."""

from __future__ import annotations

import dataclasses

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownCategoryError
from deltavi.metrics import PredictionScore, principal_axes, score_prediction, signal_z
from deltavi.perturbation import BASELINES, SPLIT_HALF, baseline_predictions, compare, conclusion

FIELDS = [field.name for field in dataclasses.fields(PredictionScore)]
ARGUMENTS = {
    "condition_key": "condition",
    "labels_key": "cell_type",
    "control": "control",
    "perturbation": "stimulated",
}


@pytest.fixture
def trio(adata, split):
    """Predictions, real cells and control cells of a held-out type."""
    train, query, real = split(adata)
    return baseline_predictions(train, query, **ARGUMENTS), real, query


# the table


def test_table_form(trio):
    table = compare(*trio)
    assert list(table.index) == [*BASELINES, "split-half ceiling"]
    assert list(table.columns) == [*FIELDS, "signal_z"]
    assert table.index.name == "method"
    assert all(np.issubdtype(dtype, np.float64) for dtype in table.dtypes)
    assert np.isfinite(table.to_numpy()).all()


def test_rows_are_the_scores(trio):
    predictions, real, control = trio
    axes = principal_axes(real.X, n_components=4)
    table = compare(predictions, real, control, components=axes, n_top=7)
    for name, predicted in predictions.items():
        expected = score_prediction(predicted.X, real.X, control=control.X, components=axes, n_top=7)
        assert table.loc[name, FIELDS].to_dict() == expected.as_dict()
    assert set(table["signal_z"]) == {signal_z(real.X, control.X)}


@pytest.mark.parametrize("seed", [0, 3])
def test_ceiling_is_the_protocols_split(trio, seed):
    predictions, real, control = trio
    order = np.random.default_rng(seed).permutation(real.n_obs)
    half = real.n_obs // 2
    expected = score_prediction(real.X[order[:half]], real.X[order[half:]], control=control.X)
    table = compare(predictions, real, control, seed=seed)
    assert table.loc[SPLIT_HALF, FIELDS].to_dict() == expected.as_dict()


def test_ceiling_is_optional(trio):
    predictions, real, control = trio
    table = compare(predictions, real, control, split_half=False)
    assert list(table.index) == list(BASELINES)
    assert table.equals(compare(predictions, real, control).drop(index=SPLIT_HALF))


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_array])
def test_matrices_and_anndata_agree(trio, form):
    predictions, real, control = trio
    expected = compare(predictions, real, control)
    matrices = {name: form(predicted.X) for name, predicted in predictions.items()}
    np.testing.assert_allclose(compare(matrices, form(real.X), form(control.X)), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(compare(predictions, form(real.X), control), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(compare(matrices, real, control), expected, rtol=1e-6, atol=1e-9)


def test_genes_are_matched_by_name(trio):
    predictions, real, control = trio
    genes = np.random.default_rng(0).permutation(real.n_vars)
    shuffled = {name: predicted[:, genes].copy() for name, predicted in predictions.items()}
    pd.testing.assert_frame_equal(compare(shuffled, real, control[:, genes[::-1]]), compare(predictions, real, control))


def test_inputs_are_left_untouched(trio):
    predictions, real, control = trio
    kept = [data.copy() for data in (*predictions.values(), real, control)]
    compare(predictions, real, control)
    for data, original in zip((*predictions.values(), real, control), kept, strict=True):
        np.testing.assert_array_equal(data.X, original.X)
        pd.testing.assert_frame_equal(data.obs, original.obs)


def test_backed_cells(trio, tmp_path):
    predictions, real, control = trio
    real.write_h5ad(tmp_path / "real.h5ad")
    backed = anndata.read_h5ad(tmp_path / "real.h5ad", backed="r")
    pd.testing.assert_frame_equal(compare(predictions, backed, control), compare(predictions, real, control))


def test_shifts_beat_no_change_and_halves_beat_shifts(experiment, split):
    train, query, real = split(experiment(n_cells=100, response="graded"), "monocyte")
    table = compare(baseline_predictions(train, query, **ARGUMENTS), real, query)
    shifts = table.drop(index=["no change", SPLIT_HALF])
    assert (shifts["e_distance"] < table.loc["no change", "e_distance"]).all()
    assert (shifts["e_distance"] > table.loc[SPLIT_HALF, "e_distance"]).all()
    assert (shifts["pearson_delta"] < table.loc[SPLIT_HALF, "pearson_delta"]).all()
    assert table.loc["no change", "pearson_delta"] == 0


def test_other_control_cells_on_the_side_of_the_truth(trio):
    """The real change of the share explained is measured from them, and from nothing else are any scores."""
    predictions, real, control = trio
    start, reference = control[::2].copy(), control[1::2].copy()
    with_half, without = compare(predictions, real, start, reference=reference), compare(predictions, real, start)
    mine = predictions["mean shift"]
    expected = score_prediction(mine.X, real.X, control=start.X, reference=reference.X)
    assert with_half.loc["mean shift", FIELDS].to_dict() == expected.as_dict()
    assert set(with_half["signal_z"]) == {signal_z(real.X, reference.X)}
    changed = [name for name in FIELDS if not with_half[name].equals(without[name])]
    assert changed == ["explained", "squared_error", "squared_size", "noise"]
    genes = np.random.default_rng(0).permutation(real.n_vars)
    pd.testing.assert_frame_equal(compare(predictions, real, start, reference=reference[:, genes]), with_half)
    named = {"reference": mine}
    assert list(compare(named, real, start, reference=reference, split_half=False).index) == ["reference"]
    with pytest.raises(GeneMatchError, match=r"reference lacks 3 of 30 genes"):
        compare(predictions, real, start, reference=reference[:, 3:])
    with pytest.raises(InputDataError, match="reference has 1 cell"):
        compare(predictions, real, start, reference=reference[:1])


def test_nothing_to_compare(trio):
    _, real, control = trio
    with pytest.raises(DeltaviError, match="predictions is empty"):
        compare({}, real, control)


def test_prediction_named_like_the_ceiling(trio):
    predictions, real, control = trio
    named = {SPLIT_HALF: predictions["mean shift"]}
    with pytest.raises(DeltaviError, match="is the name of the added row"):
        compare(named, real, control)
    assert list(compare(named, real, control, split_half=False).index) == [SPLIT_HALF]


def test_errors_name_the_prediction(trio):
    predictions, real, control = trio
    with pytest.raises(GeneMatchError, match=r"mine lacks 3 of 30 genes \('gene0'"):
        compare({"mine": predictions["mean shift"][:, 3:]}, real, control)
    with pytest.raises(InputDataError, match="mine is empty"):
        compare({"mine": predictions["mean shift"].X[:0]}, real, control)
    with pytest.raises(GeneMatchError, match="numbers of genes differ"):
        compare({"mine": predictions["mean shift"].X[:, 3:]}, real, control)


def test_too_few_real_cells_for_halves(trio):
    predictions, real, control = trio
    with pytest.raises(InputDataError, match="real has 2 cells, too few for two halves"):
        compare(predictions, real[:2], control)
    assert len(compare(predictions, real[:2], control, split_half=False)) == len(BASELINES)
    assert SPLIT_HALF in compare(predictions, real[:3], control).index


# the conclusion


def table_of(**rows):
    """A table of Pearson delta and E-distance."""
    named = {name.replace("_", " "): values for name, values in rows.items()}
    return pd.DataFrame(named, index=["pearson_delta", "e_distance"]).T


BASIS = {"no_change": (0.0, 348.9), "mean_shift": (0.868, 97.2), "similarity_shift": (0.923, 34.8)}


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (
            (0.94, 30.0),
            "SCGEN beat the best baseline on Pearson delta (0.94 against 0.923 of similarity shift) "
            "and on E-distance (30 against 34.8 of similarity shift).",
        ),
        (
            (0.93, 41.25),
            "SCGEN beat the best baseline on Pearson delta (0.93 against 0.923 of similarity shift), "
            "but did not beat it on E-distance (41.25 against 34.8 of similarity shift).",
        ),
        (
            (0.9, 20.0),
            "SCGEN did not beat the best baseline on Pearson delta (0.9 against 0.923 of similarity shift), "
            "but beat it on E-distance (20 against 34.8 of similarity shift).",
        ),
        (
            (0.9, 50.0),
            "SCGEN did not beat the best baseline on Pearson delta (0.9 against 0.923 of similarity shift) "
            "or on E-distance (50 against 34.8 of similarity shift).",
        ),
        (
            (0.923, 20.0),
            "SCGEN equalled the best baseline on Pearson delta (0.923 against 0.923 of similarity shift), "
            "but beat it on E-distance (20 against 34.8 of similarity shift).",
        ),
    ],
)
def test_sentences(scores, sentence):
    assert conclusion(table_of(**BASIS, SCGEN=scores)) == sentence


def test_a_response_that_is_too_small_ranks_nothing(trio):
    _, real, control = trio
    cells = {"SCGEN": control.X, "no change": control.X}
    text = conclusion(compare(cells, control[::2].copy(), control[1::2].copy()))
    assert text.startswith("No method is ranked: the response is too small, ")
    assert text.endswith("standard deviations above its noise, where at least 3 are needed.")
    assert conclusion(compare(cells, real, control)).startswith("SCGEN equalled the best baseline on share explained")


def test_a_table_without_the_share_explained_is_judged_as_before():
    table = table_of(**BASIS, SCGEN=(0.94, 30.0))
    assert conclusion(table) == conclusion(table, metric=("pearson_delta", "e_distance"))
    newer = table.assign(explained=[0.0, 0.5, 0.8, 0.7])
    assert conclusion(newer) == (
        "SCGEN did not beat the best baseline on share explained (0.7 against 0.8 of similarity shift), "
        "but beat it on E-distance (30 against 34.8 of similarity shift)."
    )


def test_the_ceiling_is_no_baseline():
    table = table_of(**BASIS, SCGEN=(0.94, 30.0), **{SPLIT_HALF: (0.97, 4.4)})
    assert SPLIT_HALF in table.index
    assert conclusion(table) == conclusion(table.drop(index=SPLIT_HALF))


def test_best_baseline_is_sought_for_each_metric():
    table = table_of(steady=(0.9, 50.0), close=(0.5, 20.0), SCGEN=(0.8, 30.0))
    assert "of steady)" in conclusion(table)
    assert "of close)" in conclusion(table)


def test_any_row_can_be_judged_by_any_directed_metric(trio):
    table = compare(*trio)
    sentence = conclusion(table, "similarity shift", metric="mse_top")
    assert sentence.startswith("similarity shift ")
    assert "on mse top" in sentence
    best = table.drop(index=["similarity shift", SPLIT_HALF])["mse_top"].min()
    won = table.loc["similarity shift", "mse_top"] < best
    assert ("did not beat" not in sentence) == won
    assert "R2 of means (" in conclusion(table, "mean shift", metric=["r2_of_means", "direction_accuracy"])


def test_conclusion_leaves_the_table_untouched(trio):
    table = compare(*trio)
    kept = table.copy()
    conclusion(table, "mean shift")
    pd.testing.assert_frame_equal(table, kept)


def test_conclusion_of_a_mean_of_tables(trio):
    tables = [compare(*trio, seed=seed) for seed in range(3)]
    mean = pd.concat(tables).groupby(level=0, sort=False).mean()
    assert conclusion(mean, "mean shift") == conclusion(tables[0], "mean shift")


def test_conclusion_errors(trio):
    table = compare(*trio)
    with pytest.raises(UnknownCategoryError, match="method 'SCGEN' is not in the data"):
        conclusion(table)
    with pytest.raises(UnknownCategoryError, match=r"'mean shfit' .* Did you mean 'mean shift'"):
        conclusion(table, "mean shfit")
    with pytest.raises(UnknownCategoryError, match="metric 'mse' is not in the data"):
        conclusion(table, "mean shift", metric="mse")
    for name in ("variance_ratio", "zero_fraction"):
        with pytest.raises(DeltaviError, match=f"'{name}' has no better or worse"):
            conclusion(table, "mean shift", metric=name)
    with pytest.raises(DeltaviError, match="holds no baseline"):
        conclusion(table.loc[["mean shift", SPLIT_HALF]], "mean shift")
    with pytest.raises(DeltaviError, match="names a method twice"):
        conclusion(pd.concat([table, table]), "mean shift")
    table.loc["no change", "e_distance"] = np.nan
    with pytest.raises(DeltaviError, match="'e_distance' holds missing values"):
        conclusion(table, "mean shift")
