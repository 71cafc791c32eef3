"""Size of a response beside its noise: calibrated without one, and found where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.errors import DeltaviError, InputDataError
from deltavi.metrics import signal_z
from deltavi.metrics.signals import _size_by_noise

SEEDS = st.integers(0, 2**32 - 1)


def groups(seed, n_real=40, n_control=40, shift=0.0, ratio=1.0, n_genes=50):
    """Cells that share programmes, so that genes are not independent; real cells spread `ratio` times as far."""
    rng = np.random.default_rng(seed)
    programmes = 0.5 * np.random.default_rng(0).normal(size=(4, n_genes))

    def cells(n):
        return rng.normal(size=(n, n_genes)) + rng.normal(size=(n, 4)) @ programmes

    return 5 + shift + ratio * cells(n_real), 5 + cells(n_control)


def test_the_statistic_by_hand():
    real, control = groups(0, 12, 30, shift=0.2)
    together = np.concatenate([real, control])
    is_real = np.arange(42) < 12
    names = np.stack([is_real, np.random.default_rng(1).permutation(is_real)])
    expected = []
    for mask in names:
        x, y = together[mask], together[~mask]
        noise = x.var(0, ddof=1).sum() / len(x) + y.var(0, ddof=1).sum() / len(y)
        expected.append(((x.mean(0) - y.mean(0)) ** 2).sum() / noise)
    for form in (np.asarray, sp.csr_matrix):
        found = _size_by_noise(form(together), (together**2).sum(1), names)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(("n_real", "n_control", "ratio"), [(40, 40, 1.0), (100, 20, 0.5), (20, 100, 2.0)])
def test_without_a_response_it_is_around_zero(n_real, n_control, ratio):
    """Also where sizes and spreads differ, which a plain permutation of means would take for a response."""
    found = np.array([signal_z(*groups(seed, n_real, n_control, ratio=ratio), seed=seed) for seed in range(80)])
    assert abs(found.mean()) < 0.5
    assert 0.6 < found.std() < 1.5
    assert (found > 3).mean() <= 0.05


def test_it_grows_with_the_response_and_with_the_cells():
    weak, strong = (np.mean([signal_z(*groups(s, shift=by)) for s in range(5)]) for by in (0.15, 0.5))
    many = np.mean([signal_z(*groups(s, 200, 200, shift=0.15)) for s in range(5)])
    assert weak < many
    assert strong > 3


@given(seed=SEEDS)
@settings(deadline=None, max_examples=15)
def test_the_order_and_form_of_cells_decide_nothing(seed):
    real, control = groups(seed, 15, 20, shift=0.3)
    expected, rng = signal_z(real, control, seed=seed % 100), np.random.default_rng(seed)
    options = {"seed": seed % 100}
    assert signal_z(rng.permutation(real), rng.permutation(control), **options) == pytest.approx(expected, rel=1e-6)
    assert signal_z(sp.csr_matrix(real), sp.csc_matrix(control), **options) == pytest.approx(expected, rel=1e-6)
    assert signal_z(sp.csr_matrix(real), control, **options) == pytest.approx(expected, rel=1e-6)


def test_seeds_and_more_permutations():
    cells = groups(0, shift=0.2)
    assert signal_z(*cells) == signal_z(*cells)
    assert signal_z(*cells) != signal_z(*cells, seed=1)
    few, many = (np.std([signal_z(*cells, n_permutations=n, seed=s) for s in range(10)]) for n in (20, 400))
    assert many < few


def test_cells_that_do_not_vary():
    same = np.full((5, 3), 0.1)
    assert signal_z(same, same) == 0
    assert signal_z(same + 1, same) == np.inf
    assert signal_z(np.zeros((4, 3)), np.zeros((6, 3))) == 0


@pytest.mark.parametrize(("name", "value"), [("n_permutations", 5), ("n_permutations", 2.5), ("seed", -1)])
def test_bad_numbers(name, value):
    with pytest.raises(DeltaviError, match=name):
        signal_z(*groups(0), **{name: value})


def test_a_single_cell():
    real, control = groups(0)
    with pytest.raises(InputDataError, match="real has 1 cell"):
        signal_z(real[:1], control)
    with pytest.raises(InputDataError, match="control has 1 cell"):
        signal_z(real, control[:1])
