"""The gene filter of ACTINN, against the lines of its program."""

from __future__ import annotations

import numpy as np
import pytest

from deltavi.annotation import informative_genes


def log_expression(n_genes: int, *, n_cells: int = 60, seed: int = 0) -> np.ndarray:
    """``(n_cells, n_genes)``, every gene expressed."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 4.0, n_genes), (n_cells, n_genes))
    counts[0] += 1
    return np.log2(1 + 1e4 * counts / counts.sum(1, keepdims=True))


def as_in_the_program(x: np.ndarray) -> np.ndarray:
    """Ma and Pellegrini's two steps, on genes by cells."""
    genes, total_set = np.arange(x.shape[1]), x.T
    expr = np.sum(total_set, axis=1)
    kept = np.logical_and(expr >= np.percentile(expr, 1), expr <= np.percentile(expr, 99))
    genes, total_set = genes[kept], total_set[kept]
    cv = np.std(total_set, axis=1) / np.mean(total_set, axis=1)
    return genes[np.logical_and(cv >= np.percentile(cv, 1), cv <= np.percentile(cv, 99))]


@pytest.mark.parametrize("n_genes", [5, 101, 500, 1234])
def test_it_keeps_the_genes_the_program_keeps(n_genes: int) -> None:
    x = log_expression(n_genes)
    mask = informative_genes(x.mean(0), x.std(0))
    np.testing.assert_array_equal(np.flatnonzero(mask), as_in_the_program(x))
    assert 0 < mask.sum() < n_genes


def test_genes_without_expression_are_left_out_and_change_nothing() -> None:
    x = log_expression(300)
    padded = np.zeros((len(x), 900))
    padded[:, ::3] = x
    mask = informative_genes(padded.mean(0), padded.std(0))
    np.testing.assert_array_equal(mask[::3], informative_genes(x.mean(0), x.std(0)))
    assert not mask[1::3].any()
    assert not mask[2::3].any()


def test_genes_of_constant_expression_do_no_harm() -> None:
    x = log_expression(300)
    x[:, 50] = np.median(x.mean(0))
    mask = informative_genes(x.mean(0), x.std(0))
    # the steadiest of all
    assert not mask[50]
    assert mask.sum() > 250
    assert informative_genes(np.ones(7), np.zeros(7)).all()


def test_ties_at_a_percentile_are_all_kept_whatever_their_rounding() -> None:
    """Genes seen in one cell only all have the same, largest, coefficient of variation."""
    x = log_expression(200)
    single = np.zeros((len(x), 40))
    single[np.arange(40), np.arange(40)] = np.linspace(0.1, 9, 40)
    x = np.concatenate([x, single], axis=1)
    mask = informative_genes(x.mean(0), x.std(0))
    # but for the rarest, which the first step takes
    assert mask[200:].sum() == 40 - (x.mean(0)[200:] < np.percentile(x.mean(0), 1)).sum()
    noise = 1 + 1e-12 * np.random.default_rng(0).normal(size=(2, x.shape[1]))
    np.testing.assert_array_equal(informative_genes(x.mean(0) * noise[0], x.std(0) * noise[1]), mask)


def test_few_genes_or_none() -> None:
    assert not informative_genes(np.array([1.0, 2.0]), np.array([1.0, 1.0])).any()
    assert not informative_genes(np.zeros(4), np.zeros(4)).any()
    assert informative_genes(np.zeros(0), np.zeros(0)).shape == (0,)


def test_percentiles_can_be_chosen() -> None:
    x = log_expression(400)
    assert informative_genes(x.mean(0), x.std(0), percentiles=(0, 100)).all()
    assert informative_genes(x.mean(0), x.std(0), percentiles=(25, 75)).sum() == pytest.approx(100, abs=2)
