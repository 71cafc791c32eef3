"""Expected counts from the logits of shares, and gradients, beside torch in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deltavi.kernels import kernels

# Maxima are kept side by side, 128 of them: lengths on either side of their multiples.
LENGTHS = [1, 2, 127, 128, 129, 255, 256, 257, 2001]
LIBRARY = np.array([1.0, 350.0, 2e5], dtype=np.float32)


def drawn(n_genes: int, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(n_genes).normal(0, scale, (len(LIBRARY), n_genes)).astype(np.float32)


def rates_of(logits: np.ndarray) -> np.ndarray:
    found, module = logits.copy(), kernels("shares")
    assert module is not None
    module.rates(found, LIBRARY)
    return found


def exact(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits, -1) * torch.from_numpy(LIBRARY).double()[:, None]


@pytest.mark.parametrize("n_genes", LENGTHS)
def test_rates_are_shares_of_the_library(n_genes: int) -> None:
    logits = drawn(n_genes)
    expected = exact(torch.from_numpy(logits).double()).numpy()
    np.testing.assert_allclose(rates_of(logits), expected, rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("place", [0, 1, 126, 127, 128, 255, 256, 299])
def test_the_largest_logit_is_found_wherever_it_is(place: int) -> None:
    """Without it, exponentials of such logits overflow."""
    logits = drawn(300)
    logits[:, place] += 500
    expected = np.zeros_like(logits)
    expected[:, place] = LIBRARY
    np.testing.assert_allclose(rates_of(logits), expected, rtol=2e-6, atol=1e-20)


@pytest.mark.parametrize("place", [0, 127, 128, 299])
def test_a_row_with_nan_has_no_rates(place: int) -> None:
    logits = drawn(300)
    logits[1, place] = np.nan
    found = rates_of(logits)
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[[0, 2]], rates_of(drawn(300))[[0, 2]])


@pytest.mark.parametrize("n_genes", LENGTHS)
def test_gradients_by_logits(n_genes: int) -> None:
    logits = torch.from_numpy(drawn(n_genes)).double().requires_grad_()
    slopes = np.random.default_rng(1).normal(size=logits.shape).astype(np.float32)
    exact(logits).backward(torch.from_numpy(slopes).double())
    assert logits.grad is not None
    found, module = slopes.copy(), kernels("shares")
    assert module is not None
    module.by_logits(found, rates_of(drawn(n_genes)), LIBRARY)
    np.testing.assert_allclose(found / LIBRARY[:, None], logits.grad.numpy() / LIBRARY[:, None], atol=2e-6)
