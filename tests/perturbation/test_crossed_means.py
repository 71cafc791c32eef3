"""Tables of changes from means that were computed before: against those measured from the cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from deltavi.perturbation import GroupMeans, ResponseTable
from deltavi.perturbation.crossed_means import table_of_means
from deltavi.tl import responses

KEYS = {"condition_key": "condition", "control": "control", "context_keys": "cell_type"}


def cells(seed: int = 0) -> AnnData:
    """Log expression of three types under a control and three conditions; some groups are missing, or single cells."""
    rng = np.random.default_rng(seed)
    sizes = {("A", "control"): 30, ("A", "x"): 12, ("A", "x+y"): 9, ("B", "control"): 20, ("B", "y"): 5}
    sizes |= {("C", "control"): 7, ("D", "x"): 6, ("B", "x"): 1}
    obs = pd.DataFrame([key for key, n in sizes.items() for _ in range(n)], columns=["cell_type", "condition"])
    obs.index = [f"cell {i}" for i in range(len(obs))]
    x = np.log1p(rng.poisson(rng.gamma(1, 2, 8), (len(obs), 8)) * 1.3)
    return AnnData(x, obs=obs)


def means_of(adata: AnnData) -> dict[str, GroupMeans]:
    """Means by condition and label, written plainly."""
    found = {}
    for condition, rows in adata.obs.groupby("condition").groups.items():
        of = adata[rows]
        names = sorted(of.obs["cell_type"].unique())
        x = [np.asarray(of.X[np.asarray(of.obs["cell_type"] == name)]) for name in names]
        squares = np.stack([((values - values.mean(0)) ** 2).sum(0) for values in x])
        sizes = tuple(len(values) for values in x)
        found[str(condition)] = GroupMeans.of(tuple(names), np.stack([v.mean(0) for v in x]), squares, sizes)
    return found


def as_pairs(table: ResponseTable) -> dict[tuple[str, str], tuple[np.ndarray, float]]:
    return {pair: (table.changes[row], table.n_perturbed[row]) for row, pair in enumerate(table.pairs)}


@pytest.mark.filterwarnings("ignore:.*contexts have no control cells")
def test_a_table_of_means_is_that_of_the_cells() -> None:
    adata = cells()
    expected = responses(adata, **KEYS)
    found = table_of_means(means_of(adata), "control", list(adata.var_names))
    assert found is not None
    assert found.contexts == expected.contexts == ("A", "B", "C")
    assert found.perturbations == expected.perturbations == ("x", "y")
    assert (found.genes, found.control) == (expected.genes, "control")
    np.testing.assert_allclose(found.control_means, expected.control_means, atol=1e-12)
    np.testing.assert_allclose(found.variances, expected.variances, rtol=1e-9)
    np.testing.assert_array_equal(found.n_control, expected.n_control)
    pairs = as_pairs(expected)
    assert as_pairs(found).keys() == pairs.keys()
    for pair, (change, n_cells) in as_pairs(found).items():
        np.testing.assert_allclose(change, pairs[pair][0], atol=1e-6)
        assert n_cells == pairs[pair][1]


def test_names_with_the_control_among_their_parts_are_single() -> None:
    means = means_of(cells())
    means["control+y"] = means.pop("y")
    found = table_of_means(means, "control", [str(g) for g in range(8)])
    assert found is not None
    assert found.perturbations == ("x", "y")


def test_there_is_no_table_of_nothing() -> None:
    means, genes = means_of(cells()), [str(g) for g in range(8)]
    assert table_of_means(means, "placebo", genes) is None
    assert table_of_means({"control": means["control"]}, "control", genes) is None
    assert table_of_means({"control": means["control"].only(("C",)), "x": means["x"]}, "control", genes) is None
    assert table_of_means({**means, "x": replace(means["x"], errors=None)}, "control", genes) is None
    still = {c: replace(group, errors=np.zeros_like(group.means)) for c, group in means.items()}
    assert table_of_means(still, "control", genes) is None
