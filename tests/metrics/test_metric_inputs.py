"""Bad input is refused by every metric, with an error that says what is wrong and where."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from deltavi import metrics
from deltavi.errors import DeltaviError, GeneMatchError, InputDataError

GOOD = np.random.default_rng(0).gamma(1, 1, (6, 5))

PAIRWISE = {
    "r2_of_means": lambda x, y: metrics.r2_of_means(x, y),
    "mse_of_means": lambda x, y: metrics.mse_of_means(x, y),
    "pearson_delta": lambda x, y: metrics.pearson_delta(x, y, control=GOOD),
    "direction_accuracy": lambda x, y: metrics.direction_accuracy(x, y, control=GOOD, genes=None),
    "mse_delta": lambda x, y: metrics.mse_delta(x, y, control=GOOD),
    "r2_of_variances": lambda x, y: metrics.r2_of_variances(x, y),
    "e_distance": lambda x, y: metrics.e_distance(x, y),
    "energy_distance": lambda x, y: metrics.energy_distance(x, y),
    "explained": lambda x, y: metrics.explained(x, y, control=GOOD),
    "squared_error": lambda x, y: metrics.squared_error(x, y, control=GOOD),
    "signal_z": lambda x, y: metrics.signal_z(x, y),
    "mmd": lambda x, y: metrics.mmd(x, y),
    "differential_genes": lambda x, y: metrics.differential_genes(x, y),
    "differential_overlap": lambda x, y: metrics.differential_overlap(x, y, control=GOOD),
    "deg_overlap": lambda x, y: metrics.deg_overlap(x, y, control=GOOD),
    "perturbation_discrimination": lambda x, y: metrics.perturbation_discrimination(
        x, {"a": y, "b": GOOD}, perturbation="a", control=GOOD
    ),
    "variance_ratio": lambda x, y: metrics.variance_ratio(x, y),
    "top_differential_genes": lambda x, y: metrics.top_differential_genes(x, y),
    "score_prediction": lambda x, y: metrics.score_prediction(x, y, control=GOOD),
}
SINGLE = {"zero_fraction": metrics.zero_fraction, "principal_axes": metrics.principal_axes}


def with_value(value):
    bad = GOOD.copy()
    bad[[1, 4], 2] = value
    return bad


@pytest.fixture(params=PAIRWISE)
def metric(request):
    return PAIRWISE[request.param]


@pytest.fixture(params=SINGLE)
def single(request):
    return SINGLE[request.param]


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(metric, form, value):
    bad = form(with_value(value))
    for arguments in ((bad, GOOD), (GOOD, bad)):
        with pytest.raises(InputDataError, match=r"NaN or infinite values in 2 of 6 cells \(rows 1, 4\)"):
            metric(*arguments)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_in_one_matrix(single, form, value):
    with pytest.raises(InputDataError, match=r"x holds NaN or infinite values in 2 of 6 cells \(rows 1, 4\)"):
        single(form(with_value(value)))


def test_infinities_that_cancel_are_found():
    bad = GOOD.copy()
    bad[0, 0], bad[1, 0] = np.inf, -np.inf
    with pytest.raises(InputDataError, match="2 of 6 cells"):
        metrics.r2_of_means(bad, GOOD)


def test_large_but_finite_values_are_allowed():
    assert metrics.r2_of_means(GOOD.astype(np.float32) * 1e37, GOOD) == pytest.approx(1, rel=1e-5)
    assert metrics.r2_of_means(GOOD * 1e-300, GOOD) == pytest.approx(1)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("shape", [(0, 5), (6, 0), (0, 0)])
def test_empty_input(metric, form, shape):
    empty = form(np.zeros(shape))
    for arguments in ((empty, GOOD), (GOOD, empty)):
        with pytest.raises(InputDataError, match=f"is empty: {shape[0]} cells x {shape[1]} genes"):
            metric(*arguments)


def test_empty_matrix(single):
    for empty in (np.zeros((0, 5)), sp.csr_matrix((6, 0))):
        with pytest.raises(InputDataError, match="x is empty"):
            single(empty)


def test_different_numbers_of_genes(metric):
    with pytest.raises(GeneMatchError, match=r"numbers of genes differ: .* 4.* 5"):
        metric(GOOD[:, :4], GOOD)


@pytest.mark.parametrize(
    "name",
    [
        *("pearson_delta", "mse_delta", "direction_accuracy"),
        *("differential_overlap", "deg_overlap", "score_prediction", "explained", "squared_error"),
    ],
)
def test_control_with_other_genes(name):
    with pytest.raises(GeneMatchError, match="control has 5"):
        PAIRWISE[name](GOOD[:, :4], GOOD[:, :4])


NO_MATRICES = [
    (GOOD[0], r"must be an array or sparse matrix .* shape \(5,\)"),
    (AnnData(obs=pd.DataFrame(index=list("abcdef"))), "has no X"),
    ([[1.0, 2.0], [3.0]], "got list"),
    (None, "got NoneType"),
    (GOOD.astype(object), "must hold numbers, got dtype object"),
    (np.array([["a", "b"]]), "must hold numbers"),
    (GOOD + 0j, "must hold numbers"),
]


@pytest.mark.parametrize(("bad", "message"), NO_MATRICES)
def test_what_is_no_matrix(metric, bad, message):
    for arguments in ((bad, GOOD), (GOOD, bad)):
        with pytest.raises(InputDataError, match=message):
            metric(*arguments)


@pytest.mark.parametrize(("bad", "message"), NO_MATRICES)
def test_what_is_no_single_matrix(single, bad, message):
    with pytest.raises(InputDataError, match=message):
        single(bad)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float32])
def test_other_number_types_are_converted(dtype):
    x = (GOOD > 0.7).astype(dtype)
    expected = metrics.mse_of_means(x.astype(float), GOOD)
    assert metrics.mse_of_means(x, GOOD) == pytest.approx(expected)
    assert metrics.mse_of_means(sp.csr_matrix(x.astype(np.float32 if dtype == np.float16 else dtype)), GOOD) == (
        pytest.approx(expected)
    )


def test_errors_name_the_argument():
    with pytest.raises(InputDataError, match=r"^real is empty"):
        metrics.r2_of_means(GOOD, GOOD[:0])
    with pytest.raises(InputDataError, match=r"^control is empty"):
        metrics.pearson_delta(GOOD, GOOD, control=GOOD[:0])


@pytest.mark.parametrize(
    ("genes", "error", "message"),
    [
        ([], DeltaviError, "selects no gene"),
        (np.zeros(5, dtype=bool), DeltaviError, "selects no gene"),
        (np.ones(4, dtype=bool), GeneMatchError, "mask genes has 4 entries for 5 genes"),
        ([0, 5], GeneMatchError, "outside 0..4"),
        ([-1], GeneMatchError, "outside 0..4"),
        (["IFI6"], DeltaviError, "positions or a boolean mask, not names"),
        ([0.5], DeltaviError, "positions or a mask"),
        ([[0, 1]], DeltaviError, "one-dimensional"),
    ],
)
def test_bad_choice_of_genes(genes, error, message):
    with pytest.raises(error, match=message):
        metrics.r2_of_means(GOOD, GOOD, genes=genes)
    with pytest.raises(error, match=message):
        metrics.direction_accuracy(GOOD, GOOD, control=GOOD, genes=genes)


def test_ranking_needs_two_cells_of_each_group():
    with pytest.raises(InputDataError, match="control has 1 cell"):
        metrics.top_differential_genes(GOOD[:1], GOOD)
    with pytest.raises(InputDataError, match="perturbed has 1 cell"):
        metrics.top_differential_genes(GOOD, GOOD[:1])


@pytest.mark.parametrize("value", [0, -1, 2.5, True, None, "3", np.nan])
def test_counts_must_be_positive_whole_numbers(value):
    with pytest.raises(DeltaviError, match=r"max_cells must be a whole number of at least 1"):
        metrics.e_distance(GOOD, GOOD, max_cells=value)
    with pytest.raises(DeltaviError, match="n must be a whole number of at least 1"):
        metrics.top_differential_genes(GOOD, GOOD, n=value)
    with pytest.raises(DeltaviError, match="n_components must be"):
        metrics.principal_axes(GOOD, n_components=value)


@pytest.mark.parametrize("shape", [(4, 2), (5,), (2, 5)])
def test_components_that_do_not_fit(shape):
    with pytest.raises(GeneMatchError, match=r"components must be \(n_genes, n_components\) with 5 rows"):
        metrics.e_distance(GOOD, GOOD, components=np.ones(shape))


def test_every_error_is_a_value_error():
    assert issubclass(DeltaviError, ValueError)


def test_public_names_are_documented_and_take_two_positions_at_most():
    for name in metrics.__all__:
        thing = getattr(metrics, name)
        assert thing.__doc__
        if inspect.isfunction(thing):
            parameters = inspect.signature(thing).parameters.values()
            assert sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) <= 2
            assert "misleads" in thing.__doc__, f"{name} must say how it can mislead"
