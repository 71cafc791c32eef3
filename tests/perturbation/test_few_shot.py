"""Responses corrected by a few treated cells: against formulas, in their limits, and against simulated truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deltavi.perturbation.few_shot import Update, update

N_GENES = 50


def corrected(seed: int = 0, *, n_cells: int = 6, **given: Any) -> tuple[dict[str, np.ndarray], Update]:
    """Arguments drawn at random but for those `given`, and the answer."""
    rng = np.random.default_rng(seed)
    control = rng.uniform(1, 2, N_GENES)
    drawn: dict[str, Any] = {
        "predicted": rng.normal(0, 1, N_GENES),
        "expected_error": rng.uniform(0.01, 0.2, N_GENES),
        "cells": control + rng.normal(0.5, 1, (n_cells, N_GENES)),
        "control": control,
        "variance": rng.uniform(0.5, 1.5, N_GENES),
        "spread": 0.3,
        **given,
    }
    return drawn, update(**drawn)


def test_without_an_uncertain_length_every_gene_is_a_weighted_mean() -> None:
    given, found = corrected(spread=0.0)
    noise = given["variance"] / len(given["cells"])
    precise = 1 / given["expected_error"], 1 / noise
    measured = given["cells"].mean(0) - given["control"]
    expected = (precise[0] * given["predicted"] + precise[1] * measured) / sum(precise)
    np.testing.assert_allclose(found.change, expected)
    np.testing.assert_allclose(found.narrowing**2 * given["expected_error"], 1 / sum(precise))
    assert found.length == 1


def test_without_errors_of_genes_the_length_alone_moves() -> None:
    given, found = corrected(expected_error=np.zeros(N_GENES))
    np.testing.assert_allclose(found.change, found.length * given["predicted"])
    # a regression of the measured change on the predicted one, shrunk towards one
    noise = given["variance"] / len(given["cells"])
    measured, weight = given["cells"].mean(0) - given["control"], given["predicted"] / noise
    along = (given["cells"] - given["control"]) @ weight
    error = max((weight**2 * noise).sum(), along.var(ddof=1) / len(along)) / (weight @ given["predicted"]) ** 2
    fitted = (weight @ measured) / (weight @ given["predicted"])
    assert found.length == pytest.approx((1 / 0.3**2 + fitted / error) / (1 / 0.3**2 + 1 / error))
    np.testing.assert_array_equal(found.narrowing, 1)


def test_many_cells_speak_for_themselves() -> None:
    given, found = corrected(n_cells=200_000)
    np.testing.assert_allclose(found.change, given["cells"].mean(0) - given["control"], atol=1e-2)


def test_a_prediction_of_no_change_has_no_length() -> None:
    _, found = corrected(predicted=np.zeros(N_GENES))
    assert found.length == 1
    assert np.isfinite(found.change).all()


def test_genes_that_nothing_is_known_of_stay_as_predicted() -> None:
    given, found = corrected(expected_error=np.zeros(N_GENES), variance=np.zeros(N_GENES))
    np.testing.assert_array_equal(found.change, given["predicted"])


@pytest.mark.parametrize("seed", range(3))
def test_order_of_cells_and_genes(seed: int) -> None:
    given, found = corrected(seed)
    rng = np.random.default_rng(seed)
    _, shuffled = corrected(seed, cells=rng.permutation(given["cells"]))
    np.testing.assert_allclose(shuffled.change, found.change)
    genes = rng.permutation(N_GENES)
    again = update(**{name: value[..., genes] if np.ndim(value) else value for name, value in given.items()})
    np.testing.assert_allclose(again.change, found.change[genes])


def test_the_update_errs_less_than_either_of_its_sources() -> None:
    """Lengths, genes and cells drawn from what the formula takes them to be."""
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(200):
        predicted, error = rng.normal(0, 0.5, N_GENES), np.full(N_GENES, 0.02)
        true = (1 + 0.5 * rng.normal()) * predicted + np.sqrt(error) * rng.normal(size=N_GENES)
        cells = true + rng.normal(size=(5, N_GENES))
        zeros = np.zeros(N_GENES)
        found = update(predicted, error, cells, zeros, variance=np.ones(N_GENES), spread=0.5)
        errors.append([((x - true) ** 2).sum() for x in (found.change, predicted, cells.mean(0))])
    ours, prior, measured = np.mean(errors, axis=0)
    assert ours < 0.7 * min(prior, measured)
    # what is expected of the answer by the formula: genes, and a length that is not known exactly
    assert ours == pytest.approx(N_GENES / (1 / 0.02 + 5), rel=0.25)


def test_cells_that_differ_along_the_response_tell_less_of_its_length() -> None:
    given, _ = corrected(expected_error=np.full(N_GENES, 1e-6))
    strengths = np.array([0.0, 4.0, 0.5, 3.5, 1.0, 3.0])[:, None]
    alike = given["control"] + np.full((6, 1), 2.0) * given["predicted"]
    uneven = given["control"] + strengths * given["predicted"]
    lengths = [corrected(expected_error=np.full(N_GENES, 1e-6), cells=cells)[1].length for cells in (alike, uneven)]
    assert 1 < lengths[1] < lengths[0] < 2
