"""Agreement with pertpy, whose numbers on the cells below were computed once and written down.

They are those of ``pertpy.tools.Distance(metric)(PREDICTED, REAL)`` of pertpy 1.0.3 on Python 3.11 with numpy 2.4.6 and
statsmodels 0.14.6 (with 0.15 it cannot be imported). pertpy is no dependency. Where it defines a distance otherwise,
the test names the difference and computes both.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from deltavi.metrics import e_distance, energy_distance, mmd, mse_delta, mse_of_means, pearson_delta, r2_of_means


def scene():
    """Predicted, real and control cells from uniform numbers only, whose stream no version of numpy changes."""
    rng = np.random.default_rng(20)
    level = 2 * rng.random(12)

    def draw(n_cells, shift):
        cells = level + shift + rng.random((n_cells, 12)) - 0.5
        return np.where(rng.random(cells.shape) < 0.3, 0.0, np.clip(cells, 0, None))

    effect = np.where(np.arange(12) % 3 == 0, 1.0, 0.1)
    return draw(25, 0.7 * effect), draw(40, effect), draw(30, 0.0)


PREDICTED, REAL, CONTROL = scene()

PERTPY = {
    "edistance": 0.19033162436216333,
    "edistance, cell_wise_metric sqeuclidean": 0.45350949127702656,
    "mmd, linear": 0.22675474563851594,
    "mmd, rbf, gamma 1": 0.0686868546101593,
    "mmd, rbf, gamma 0.05": 0.022042566992007462,
    "mse": 0.01889622880320943,
    "pearson_distance": 0.03242668817916916,
    "pearson_distance of cells minus the control mean": 1 - 0.9497365948798036,
    "r2_distance": 0.1416795934218662,
}


def test_the_cells_are_those_the_numbers_were_made_with():
    sums = [cells.sum() for cells in (PREDICTED, REAL, CONTROL)]
    assert sums == pytest.approx([218.80359086568302, 396.17855353748337, 210.4422891642214], rel=1e-12)


def test_e_distance_is_pertpys_with_squared_distances():
    assert e_distance(PREDICTED, REAL) == pytest.approx(PERTPY["edistance, cell_wise_metric sqeuclidean"])


def test_the_energy_distance_is_pertpys_default():
    assert energy_distance(PREDICTED, REAL) == pytest.approx(PERTPY["edistance"])
    assert e_distance(PREDICTED, REAL) > 2 * energy_distance(PREDICTED, REAL)


@pytest.mark.parametrize("gamma", [1, 0.05])
def test_mmd_of_one_bandwidth_is_pertpys_gaussian_kernel(gamma):
    expected = PERTPY[f"mmd, rbf, gamma {gamma}"]
    assert mmd(PREDICTED, REAL, bandwidths=1 / np.sqrt(2 * gamma)) == pytest.approx(expected)


def test_pertpys_default_mmd_is_half_the_e_distance():
    """With a linear kernel the discrepancy is the squared distance of the means."""
    assert e_distance(PREDICTED, REAL) / 2 == pytest.approx(PERTPY["mmd, linear"])


def test_mse_is_pertpys():
    assert mse_of_means(PREDICTED, REAL) == pytest.approx(PERTPY["mse"])
    assert mse_delta(PREDICTED, REAL, control=CONTROL) == pytest.approx(PERTPY["mse"])


def test_r2_is_the_square_of_pertpys_pearson_as_in_scgen():
    assert r2_of_means(PREDICTED, REAL) == pytest.approx((1 - PERTPY["pearson_distance"]) ** 2)
    scgen = stats.linregress(PREDICTED.mean(axis=0), REAL.mean(axis=0)).rvalue ** 2
    assert r2_of_means(PREDICTED, REAL) == pytest.approx(scgen)


def test_pertpys_r2_is_a_coefficient_of_determination():
    x, y = PREDICTED.mean(axis=0), REAL.mean(axis=0)
    determination = 1 - np.sum((x - y) ** 2) / np.sum((x - x.mean()) ** 2)  # it takes the prediction for the truth
    assert 1 - determination == pytest.approx(PERTPY["r2_distance"])
    assert r2_of_means(PREDICTED, REAL) > determination


def test_pearson_delta_is_pertpys_pearson_of_changes():
    expected = 1 - PERTPY["pearson_distance of cells minus the control mean"]
    assert pearson_delta(PREDICTED, REAL, control=CONTROL) == pytest.approx(expected)
