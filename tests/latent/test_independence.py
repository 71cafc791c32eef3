"""The penalty that makes latent positions independent of the condition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.latent import condition_mmd
from deltavi.latent._independence import WIDTHS

SIZES = {"n_conditions": 2, "n_labels": 3}


def codes(values) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32)[:, None]


def by_hand(z, condition, label, *, n_conditions, n_labels) -> float:
    """Loops over labels, pairs of conditions, kernels and pairs of cells."""
    known = label < n_labels
    z, condition, label = z[known], condition[known], label[known]
    distances = ((z[:, None] - z[None]) ** 2).sum(-1)
    typical = distances.mean()
    kernel = np.mean([np.exp(-distances / (width * typical)) for width in WIDTHS], axis=0)
    total = weight = 0.0
    for u in range(n_labels):
        for a in range(n_conditions):
            for b in range(n_conditions):
                first, second = (np.flatnonzero((label == u) & (condition == c)) for c in (a, b))
                if a == b or min(len(first), len(second)) < 2:
                    continue
                inside = [np.mean([kernel[i, j] for i in group for j in group if i != j]) for group in (first, second)]
                across = np.mean([kernel[i, j] for i in first for j in second])
                share = len(first) * len(second) / (len(first) + len(second))
                total += share * (sum(inside) - 2 * across)
                weight += share
    return total / weight if weight else 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 3))
def test_equals_loops_over_pairs_of_cells(seed: int, n_conditions: int, n_labels: int) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(24, 3))
    condition, label = rng.integers(n_conditions, size=24), rng.integers(n_labels + 1, size=24)
    sizes = {"n_conditions": n_conditions, "n_labels": n_labels}
    found = condition_mmd(torch.from_numpy(z), codes(condition), codes(label), **sizes)
    assert found.item() == pytest.approx(by_hand(z, condition, label, **sizes), abs=1e-9)


def test_grows_with_the_distance_between_conditions() -> None:
    rng = np.random.default_rng(0)
    z, condition, label = rng.normal(size=(200, 4)), np.arange(200) % 2, np.zeros(200)
    found = [
        condition_mmd(torch.from_numpy(z + shift * condition[:, None]), codes(condition), codes(label), **SIZES).item()
        for shift in (0.0, 0.5, 1.0, 2.0, 8.0)
    ]
    assert abs(found[0]) < 0.02
    assert found == sorted(found)
    assert found[-1] < 2


def test_conditions_with_other_shares_of_labels_are_not_moved() -> None:
    # label 0 lies far from label 1; only their shares differ between conditions
    rng = np.random.default_rng(1)
    label = np.r_[np.zeros(90), np.ones(10), np.zeros(10), np.ones(90)]
    condition = np.r_[np.zeros(100), np.ones(100)]
    z = torch.from_numpy(rng.normal(size=(200, 2)) + 10 * label[:, None])
    assert abs(condition_mmd(z, codes(condition), codes(label), **SIZES).item()) < 0.05
    assert condition_mmd(z, codes(condition), codes(0 * label), **SIZES).item() > 0.3


@pytest.mark.parametrize(
    ("condition", "label"),
    [([0, 0, 0], [0, 0, 0]), ([0, 1, 0], [0, 0, 0]), ([0, 1, 0, 1], [0, 1, 2, 0]), ([0, 1, 0, 1], [3, 3, 3, 3])],
    ids=["one condition", "a single cell", "no label in both", "all unlabelled"],
)
def test_nothing_to_compare_is_zero(condition: list[int], label: list[int]) -> None:
    z = torch.randn(len(label), 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = condition_mmd(z, codes(condition), codes(label), **SIZES)
    assert found.item() == 0
    found.backward()
    assert torch.isfinite(z.grad).all()


def test_gradient_brings_conditions_together() -> None:
    generator = torch.Generator().manual_seed(0)
    condition, label = torch.arange(80) % 2, torch.zeros(80)
    z = (torch.randn(80, 2, generator=generator) + 3 * condition[:, None]).requires_grad_()
    optimiser = torch.optim.Adam([z], lr=0.1)
    start = condition_mmd(z, codes(condition), codes(label), **SIZES).item()
    for _ in range(100):
        optimiser.zero_grad()
        condition_mmd(z, codes(condition), codes(label), **SIZES).backward()
        optimiser.step()
    assert condition_mmd(z, codes(condition), codes(label), **SIZES).item() < 0.1 * start
    assert torch.isfinite(z).all()


def test_cells_in_one_place_have_finite_gradients() -> None:
    z = torch.zeros(8, 2, requires_grad=True)
    condition_mmd(z, codes(torch.arange(8) % 2), codes(torch.zeros(8)), **SIZES).backward()
    assert torch.isfinite(z.grad).all()
