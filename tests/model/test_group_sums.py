"""Means of all conditions and labels in one pass, against means of each by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from deltavi._cp10k import cp10k_factors
from deltavi.model import _training_means
from deltavi.model._group_sums import group_means, group_sums
from deltavi.model._training_means import TrainingMeans
from deltavi.perturbation.estimators import ALL_CELLS

N, G = 2100, 12
RNG = np.random.default_rng(0)
COUNTS = sparse.csr_matrix(RNG.poisson(0.7, (N, G)).astype(np.float32))
TOTALS = np.asarray(COUNTS.sum(1)).ravel()
POSITIONS = RNG.standard_normal((N, 3)).astype(np.float32)
CONDITIONS = np.array(["stimulated", "control", "A+B"], dtype=object)[RNG.integers(0, 3, N)]
LABELS = np.array(list("xyz"), dtype=object)[RNG.integers(0, 3, N)]
# a label that one condition lacks
LABELS[(CONDITIONS == "A+B") & (LABELS == "y")] = "x"


def means(**replaced: Any) -> TrainingMeans:
    given = {"totals": TOTALS, "conditions": CONDITIONS, "labels": LABELS, **replaced}
    return TrainingMeans.from_cells(POSITIONS, COUNTS, **given)


@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "no labels"])
@pytest.mark.parametrize("totals", [TOTALS, None], ids=["counts", "logs"])
def test_they_are_those_of_each_condition_by_itself(labels: Any, totals: Any) -> None:
    found = means(labels=labels, totals=totals)
    everyone = np.full(N, ALL_CELLS, dtype=object)
    weights = None if totals is None else cp10k_factors(totals)
    assert list(found.positions) == list(dict.fromkeys(CONDITIONS))
    for condition in found.positions:
        inside, groups = condition == CONDITIONS, everyone if labels is None else labels
        for kept, values, grouping, factors, log in (
            (found.positions, POSITIONS, groups, None, False),
            (found.expression, COUNTS, groups, weights, False),
            (found.overall_positions, POSITIONS, everyone, None, False),
            (found.overall_expression, COUNTS, everyone, weights, False),
            (found.log_expression, COUNTS, groups, weights, totals is not None),
        ):
            alone = group_means(values, grouping, inside, factors, log=log)
            assert kept is not None
            assert kept[condition].labels == alone.labels
            assert kept[condition].n_cells == alone.n_cells
            np.testing.assert_array_equal(kept[condition].means, alone.means)
            np.testing.assert_array_equal(kept[condition].errors, alone.errors)


def test_a_mean_is_the_mean() -> None:
    found = means()
    chosen = (CONDITIONS == "control") & (LABELS == "z")
    scaled = COUNTS.toarray()[chosen] / np.maximum(TOTALS[chosen], 1)[:, None] * 1e4
    group = found.expression["control"]
    np.testing.assert_allclose(group.means[group.labels.index("z")], scaled.mean(0), rtol=1e-6)
    logs = found.log_expression["control"] if found.log_expression else group
    np.testing.assert_allclose(logs.means[logs.labels.index("z")], np.log1p(scaled).mean(0), rtol=1e-6)


def test_the_matrix_is_read_once_for_any_number_of_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = _training_means.wanted_blocks

    def counted(x: Any, *args: Any) -> Iterator[Any]:
        for rows, block in original(x, *args):
            if x is COUNTS:
                read.append(len(rows))
            yield rows, block

    monkeypatch.setattr(_training_means, "wanted_blocks", counted)
    means(conditions=np.array([f"p{i % 40}" for i in range(N)], dtype=object))
    assert sum(read) == N


def test_cells_of_no_group_count_nowhere() -> None:
    codes = np.where(np.arange(N) % 2 == 0, 0, -1)[None]
    ((sums, squares),) = group_sums(COUNTS, codes)
    np.testing.assert_allclose(sums, COUNTS[::2].sum(0), rtol=1e-6)
    np.testing.assert_allclose(squares, COUNTS[::2].power(2).sum(0), rtol=1e-6)
