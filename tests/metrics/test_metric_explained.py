"""Squared error without the noise of measurement, and the share of the response explained."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.errors import GeneMatchError, InputDataError
from deltavi.metrics import SquaredError, explained, pearson_delta, score_prediction, squared_error

SEEDS = st.integers(0, 2**32 - 1)
N_GENES = 60


def scene(seed, n_cells=40, size=0.5, noise=0.6):
    """Control cells that are predicted from, other control cells, real cells, and the true response."""
    rng = np.random.default_rng(seed)
    level, response = rng.uniform(1, 3, N_GENES), size * rng.normal(size=N_GENES)
    draws = noise * rng.normal(size=(3, n_cells, N_GENES))
    return level + draws[0], level + draws[1], level + response + draws[2], response


def by_hand(predicted, real, control, reference):
    """The formula of the page of metrics, word for word."""
    p, d = predicted.mean(0) - control.mean(0), real.mean(0) - reference.mean(0)
    noise = (real.var(0, ddof=1) / len(real) + reference.var(0, ddof=1) / len(reference)).sum()
    return ((p - d) ** 2).sum() - noise, (d**2).sum() - noise, noise


@given(seed=SEEDS)
@settings(deadline=None, max_examples=25)
def test_parts_by_hand(seed):
    control, reference, real, response = scene(seed)
    predicted = control + 0.7 * response
    error, size, noise = by_hand(predicted, real, control, reference)
    found = squared_error(predicted, real, control=control, reference=reference)
    np.testing.assert_allclose(dataclasses.astuple(found), (error, size, noise), rtol=1e-9, atol=1e-9)
    assert explained(predicted, real, control=control, reference=reference) == pytest.approx(1 - error / size)
    same = squared_error(predicted, real, control=control)
    np.testing.assert_allclose(dataclasses.astuple(same), by_hand(predicted, real, control, control), rtol=1e-9)


def test_numbers_one_can_check():
    """Control at 0, others at -1 and 1, real at 3 and 5: d is 4, its noise 1 + 1; half of it is predicted."""
    cells = np.array([[0.0], [0.0]])
    reference, real = np.array([[-1.0], [1.0]]), np.array([[3.0], [5.0]])
    found = squared_error(cells + 2, real, control=cells, reference=reference)
    assert found == SquaredError(2.0**2 - 2, 4.0**2 - 2, 2.0)
    assert found.explained == 1 - 2 / 14


@given(seed=SEEDS)
@settings(deadline=None, max_examples=25)
def test_no_change_is_zero_and_the_order_of_cells_and_genes_decides_nothing(seed):
    control, reference, real, response = scene(seed)
    assert explained(control, real, control=control, reference=reference) == 0
    rng, genes = np.random.default_rng(seed), np.random.default_rng(seed).permutation(N_GENES)
    cells = [control + response, real, control, reference]
    expected = explained(cells[0], cells[1], control=cells[2], reference=cells[3])
    for changed in (
        [rng.permutation(part)[:, genes] for part in cells],
        [sp.csr_matrix(part) for part in cells],
        [sp.csc_array(part) for part in cells],
    ):
        found = explained(changed[0], changed[1], control=changed[2], reference=changed[3])
        assert found == pytest.approx(expected, rel=1e-9)


def test_sums_over_hold_outs_count_each_by_its_size():
    parts = [SquaredError(1.0, 10.0, 0.5), SquaredError(3.0, 2.0, 0.5), SquaredError(-0.5, -1.0, 2.0)]
    assert sum(parts, SquaredError.nothing()) == SquaredError(3.5, 11.0, 3.0)
    assert (parts[0] + parts[1]).explained == 1 - 4 / 12
    assert np.isnan(parts[2].explained)
    assert np.isnan(SquaredError.nothing().explained)
    with pytest.raises(TypeError):
        parts[0] + 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        parts[0].noise = 0.0


@given(seed=SEEDS)
@settings(deadline=None, max_examples=25)
def test_of_changes_is_of_cells(seed):
    control, reference, real, response = scene(seed)
    noise = real.var(0, ddof=1) / len(real) + reference.var(0, ddof=1) / len(reference)
    expected = dataclasses.astuple(squared_error(control + response, real, control=control, reference=reference))
    for given_noise in (noise, noise.sum()):
        found = SquaredError.of_changes(response, real.mean(0) - reference.mean(0), noise=given_noise)
        np.testing.assert_allclose(dataclasses.astuple(found), expected, rtol=1e-9, atol=1e-9)


def totals(predict, *, n_cells, size=0.3, n_repeats=150, apart=True):
    """Parts summed over many experiments, and the mean legacy score of each."""
    parts, legacy = SquaredError.nothing(), []
    for seed in range(n_repeats):
        control, reference, real, response = scene(seed, n_cells=n_cells, size=size)
        predicted = predict(control, response)
        parts += squared_error(predicted, real, control=control, reference=reference if apart else None)
        legacy.append(pearson_delta(predicted, real, control=control))
    return parts, float(np.mean(legacy))


def test_smoothing_buys_a_correlation_but_explains_nothing():
    """Level differs little between genes here, so that shrinking removes noise of the control mean."""

    def shrunk(control, _):
        return control + 0.2 * (2.0 - control.mean(0))

    apart, legacy = totals(shrunk, n_cells=5, size=0.1)
    same, _ = totals(shrunk, n_cells=5, size=0.1, apart=False)
    assert legacy > 0.1
    assert apart.explained < 0.02
    # with the same cells on both sides it would seem to explain something
    assert same.explained > apart.explained + 0.1


def test_the_estimate_is_unbiased_however_few_the_cells():
    """Half of the response explains three quarters of it; more noise on both sides raises nothing."""
    for n_cells in (5, 20, 80):
        parts, _ = totals(lambda control, response: control + 0.5 * response, n_cells=n_cells)
        assert parts.explained == pytest.approx(0.75, abs=0.03)
        size = N_GENES * 0.3**2
        assert parts.squared_size / 150 == pytest.approx(size, rel=0.1)
    truth, _ = totals(lambda control, response: control + response, n_cells=5)
    assert truth.explained == pytest.approx(1, abs=0.04)


@given(seed=SEEDS, extra=st.floats(0.1, 1.0))
@settings(deadline=None, max_examples=15)
def test_noise_on_both_sides_does_not_raise_the_score(seed, extra):
    """Means over draws of noise that is added to prediction and measurement alike."""
    control, reference, real, response = scene(seed, n_cells=50)
    clean = squared_error(control + 0.8 * response, real, control=control, reference=reference)
    rng, noisy = np.random.default_rng(seed), SquaredError.nothing()
    for _ in range(20):
        more = extra * rng.normal(size=(4, *real.shape))
        cells = [x + e for x, e in zip((control + 0.8 * response, real, control, reference), more, strict=True)]
        noisy += squared_error(cells[0], cells[1], control=cells[2], reference=cells[3])
    # the noise of the prediction is an error of the prediction: two means of 50 cells
    own = 2 * extra**2 * N_GENES / 50
    assert noisy.explained <= clean.explained + 0.1
    assert noisy.squared_error / 20 == pytest.approx(clean.squared_error + own, abs=0.25 * clean.squared_size)


def test_the_record_of_scores_holds_the_same():
    control, reference, real, response = scene(0)
    predicted = control + 0.5 * response
    apart = squared_error(predicted, real, control=control, reference=reference)
    score = score_prediction(predicted, real, control=control, reference=reference)
    assert (score.squared_error, score.squared_size, score.noise) == dataclasses.astuple(apart)
    assert score.explained == apart.explained
    same = score_prediction(predicted, real, control=control)
    assert same.explained == explained(predicted, real, control=control)
    # nothing but these depends on the cells beside
    ours = {name: value for name, value in score.as_dict().items() if value != same.as_dict()[name]}
    assert set(ours) == {"explained", "squared_error", "squared_size", "noise"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0, 2.0], [1.0], 0.0), GeneMatchError, r"shapes \(2,\) and \(1,\), and the noise \(\)"),
        (([[1.0]], [[1.0]], 0.0), GeneMatchError, r"one number for each gene"),
        (([1.0], [1.0], [0.1, 0.1]), GeneMatchError, r"the noise \(2,\)"),
        (([1.0], [np.nan], 0.0), InputDataError, "missing or infinite"),
        (([1.0], [1.0], -1.0), InputDataError, "is negative"),
        (([1.0], [1.0], np.inf), InputDataError, "infinite"),
    ],
)
def test_changes_that_make_no_sense(arguments, error, message):
    predicted, real, noise = arguments
    with pytest.raises(error, match=message):
        SquaredError.of_changes(predicted, real, noise=noise)


@pytest.mark.parametrize("function", [squared_error, explained, score_prediction])
def test_one_cell_has_no_noise(function):
    control, reference, real, _ = scene(0)
    with pytest.raises(InputDataError, match="reference has 1 cell"):
        function(control, real, control=control, reference=reference[:1])
    with pytest.raises(InputDataError, match=r"(real|perturbed) has 1 cell"):
        function(control, real[:1], control=control, reference=reference)
    with pytest.raises(InputDataError, match="control has 1 cell"):
        function(control, real, control=control[:1])
    with pytest.raises(GeneMatchError, match="numbers of genes differ"):
        function(control, real, control=control, reference=reference[:, :5])
