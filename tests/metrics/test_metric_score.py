"""The record of all scores: every field is the public function of its name."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi import metrics
from deltavi.errors import DeltaviError
from deltavi.metrics import PredictionScore, score_prediction

SEEDS = st.integers(0, 2**32 - 1)
FIELDS = [field.name for field in dataclasses.fields(PredictionScore)]


def scene(seed, n_genes=40):
    """Control, real and predicted cells; half of the genes respond, the prediction is half right."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.5, 3, n_genes)
    effect = np.where(np.arange(n_genes) % 2, rng.normal(0, 1, n_genes), 0)

    def draw(n_cells, shift):
        return np.clip(level + shift + rng.normal(0, 0.4, (n_cells, n_genes)), 0, None)

    return draw(30, 0.5 * effect), draw(40, effect), draw(35, 0)


@given(seed=SEEDS, n_top=st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_every_field_is_the_function_of_its_name(seed, n_top):
    predicted, real, control = scene(seed)
    axes = metrics.principal_axes(real, n_components=5)
    top = metrics.top_differential_genes(control, real, n=n_top)
    score = score_prediction(predicted, real, control=control, components=axes, n_top=n_top)
    expected = {
        "pearson_delta": metrics.pearson_delta(predicted, real, control=control),
        "pearson_delta_top": metrics.pearson_delta(predicted, real, control=control, genes=top),
        "r2_of_means": metrics.r2_of_means(predicted, real),
        "r2_of_means_top": metrics.r2_of_means(predicted, real, genes=top),
        "mse_top": metrics.mse_of_means(predicted, real, genes=top),
        "direction_accuracy": metrics.direction_accuracy(predicted, real, control=control, genes=top),
        "e_distance": metrics.e_distance(predicted, real, components=axes),
        "variance_ratio": metrics.variance_ratio(predicted, real),
        "zero_fraction": metrics.zero_fraction(predicted),
        "mse_delta": metrics.mse_delta(predicted, real, control=control),
        "r2_of_variances": metrics.r2_of_variances(predicted, real),
        "mmd": metrics.mmd(predicted, real, components=axes),
        "differential_f1": metrics.differential_overlap(predicted, real, control=control).f1,
        "deg_overlap": metrics.deg_overlap(predicted, real, control=control, n=n_top),
        "energy_distance": metrics.energy_distance(predicted, real, components=axes),
        "explained": metrics.explained(predicted, real, control=control),
        **dataclasses.asdict(metrics.squared_error(predicted, real, control=control)),
    }
    for n in (20, 50):
        chosen = metrics.top_differential_genes(control, real, n=n)
        expected[f"pearson_delta_top{n}"] = metrics.pearson_delta(predicted, real, control=control, genes=chosen)
        expected[f"mse_top{n}"] = metrics.mse_of_means(predicted, real, genes=chosen)
    assert score.as_dict() == expected


def test_fields_and_dictionary_have_the_documented_order():
    assert FIELDS == [
        "pearson_delta",
        "pearson_delta_top",
        "r2_of_means",
        "r2_of_means_top",
        "mse_top",
        "direction_accuracy",
        "e_distance",
        "variance_ratio",
        "zero_fraction",
        "pearson_delta_top20",
        "pearson_delta_top50",
        "mse_top20",
        "mse_top50",
        "mse_delta",
        "r2_of_variances",
        "mmd",
        "differential_f1",
        "deg_overlap",
        "energy_distance",
        "explained",
        "squared_error",
        "squared_size",
        "noise",
    ]
    predicted, real, control = scene(0)
    score = score_prediction(predicted, real, control=control)
    assert list(score.as_dict()) == FIELDS
    assert all(type(value) is float for value in score.as_dict().values())


def test_score_cannot_be_changed():
    predicted, real, control = scene(0)
    score = score_prediction(predicted, real, control=control)
    with pytest.raises(dataclasses.FrozenInstanceError):
        score.mse_top = 0.0


@given(seed=SEEDS)
@settings(deadline=None, max_examples=30)
def test_sparse_equals_dense_and_order_is_irrelevant(seed):
    matrices = scene(seed)
    rng = np.random.default_rng(seed)
    genes = rng.permutation(40)
    predicted, real, control = matrices
    expected = list(score_prediction(predicted, real, control=control).as_dict().values())
    for changed in (
        [sp.csr_matrix(matrix) for matrix in matrices],
        [rng.permutation(matrix)[:, genes] for matrix in matrices],
    ):
        score = score_prediction(changed[0], changed[1], control=changed[2])
        np.testing.assert_allclose(list(score.as_dict().values()), expected, rtol=1e-9, atol=1e-9)


def test_inputs_are_left_untouched():
    for form in (np.asarray, sp.csr_matrix, sp.csc_matrix):
        matrices = [form(matrix) for matrix in scene(1)]
        kept = [matrix.copy() for matrix in matrices]
        score_prediction(matrices[0], matrices[1], control=matrices[2])
        for matrix, original in zip(matrices, kept, strict=True):
            assert (matrix != original).sum() == 0
            assert type(matrix) is type(original)


def test_numbers_of_top_genes_do_not_depend_on_n_top():
    predicted, real, control = scene(2, n_genes=80)
    one, other = (score_prediction(predicted, real, control=control, n_top=n).as_dict() for n in (5, 60))
    changed = {name for name in FIELDS if one[name] != other[name]}
    assert changed == {
        *("pearson_delta_top", "r2_of_means_top", "mse_top"),
        *("direction_accuracy", "deg_overlap"),
    }
    fifty = score_prediction(predicted, real, control=control, n_top=50)
    assert (fifty.mse_top, fifty.pearson_delta_top) == (one["mse_top50"], one["pearson_delta_top50"])
    assert len({one["mse_top20"], one["mse_top50"], one["mse_delta"]}) == 3


def test_a_single_predicted_cell_can_be_scored_but_not_tested():
    predicted, real, control = scene(3)
    score = score_prediction(predicted[:1], real, control=control).as_dict()
    missing = {name for name, value in score.items() if np.isnan(value)}
    assert missing == {"differential_f1", "deg_overlap"}


@pytest.mark.parametrize("n_top", [0, -3, 2.5, True])
def test_bad_number_of_top_genes(n_top):
    predicted, real, control = scene(0)
    with pytest.raises(DeltaviError, match="n_top must be a whole number"):
        score_prediction(predicted, real, control=control, n_top=n_top)


def test_better_predictions_score_better():
    """Learning: as the predicted fraction of the true response grows to one, every score of the response improves."""
    rng = np.random.default_rng(0)
    level, effect = rng.uniform(1, 3, 60), rng.normal(0, 0.8, 60)
    noise = rng.normal(0, 0.3, (3, 100, 60))
    control, real = level + noise[0], level + effect + noise[1]
    scores = [
        score_prediction(level + fraction * effect + noise[2], real, control=control, n_top=15).as_dict()
        for fraction in (0.0, 0.3, 0.6, 1.0)
    ]
    for worse, better in itertools.pairwise(scores):
        for name in (
            *("pearson_delta", "pearson_delta_top", "pearson_delta_top20"),
            *("pearson_delta_top50", "r2_of_means", "r2_of_means_top", "explained"),
        ):
            assert better[name] > worse[name]
        for name in ("mse_top", "mse_top20", "mse_top50", "mse_delta", "e_distance", "energy_distance", "mmd"):
            assert better[name] < worse[name]
    for name in ("differential_f1", "deg_overlap"):
        assert scores[-1][name] > scores[0][name]
    assert scores[-1]["variance_ratio"] == pytest.approx(1, abs=0.1)
