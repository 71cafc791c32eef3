"""A prediction belongs to its cells: neither their order nor the seed moves what is no noise."""

from __future__ import annotations

import numpy as np
import pytest

from deltavi.model import SCGEN
from deltavi.model._empirical_response import ResponseEvidence
from tests.model.conftest import dense, train
from tests.model.test_empirical_weight import ASK, SETUP, SMALL, cells

# More cells of a label than the 256 or 300 that the scale of a shift and the measured response look at.
MANY = 330


@pytest.fixture(scope="module")
def model() -> SCGEN:
    return train(SCGEN, cells(n_per_group=MANY), epochs=3, setup=SETUP, **SMALL)


def test_the_order_of_cells_changes_nothing(model: SCGEN) -> None:
    adata = model.adata[model.adata.obs["condition"] == "control"].copy()
    order = np.random.default_rng(0).permutation(adata.n_obs)
    expected = model.predict_perturbation(adata, **ASK)
    found = model.predict_perturbation(adata[order].copy(), **ASK)[expected.obs_names]
    # sums run in another order; a value at the edge of two counts may then fall on the other side
    close = np.isclose(dense(found.X), dense(expected.X), atol=1e-4)
    assert close.mean() > 0.9999
    np.testing.assert_allclose(found.layers["rate"], expected.layers["rate"], rtol=1e-3)
    for name in ("deltavi_change", "deltavi_lower", "deltavi_upper"):
        np.testing.assert_allclose(found.varm[name], expected.varm[name], atol=1e-3)


@pytest.mark.parametrize("n_cells", [12, MANY])
def test_the_seed_moves_no_expectation(model: SCGEN, n_cells: int) -> None:
    query = model.adata[model.adata.obs["condition"] == "control"]
    query = query[query.obs["cell_type"] == "type_2"][:n_cells].copy()
    first, second = (model.predict_perturbation(query, seed=seed, **ASK) for seed in (0, 1))
    np.testing.assert_array_equal(first.layers["rate"], second.layers["rate"])
    np.testing.assert_array_equal(first.obsm["X_deltavi"], second.obsm["X_deltavi"])
    assert (dense(first.layers["counts"]) != dense(second.layers["counts"])).any()


@pytest.mark.parametrize("n_cells", [12, 200])
def test_the_cells_of_every_seed_have_the_agreed_mean(
    model: SCGEN, n_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moves are found at the very quantiles the cells are drawn at; expected ones leave what chance does."""
    query = model.adata[model.adata.obs["condition"] == "control"]
    query = query[query.obs["cell_type"] == "type_2"][:n_cells].copy()

    def spread() -> float:
        """How far the means of well expressed genes differ between seeds."""
        of = [model.predict_perturbation(query, seed=seed, empirical_weight=1, **ASK) for seed in range(3)]
        return float(
            np.std([p.varm["deltavi_change"]["type_2"] for p in of], axis=0)[dense(query.X).mean(0) > 5].mean()
        )

    drawn = spread()
    expected = ResponseEvidence.shifted
    monkeypatch.setattr(
        ResponseEvidence,
        "shifted",
        lambda self, target, groups, drawn=False: expected(self, target, groups),
    )
    # counts of a dozen cells are whole numbers, which reach a mean by steps
    assert drawn < (0.5 if n_cells > 100 else 0.7) * spread()


def test_few_cells_reach_the_agreed_mean(model: SCGEN) -> None:
    query = model.adata[model.adata.obs["condition"] == "control"]
    query = query[query.obs["cell_type"] == "type_2"][:5].copy()
    own, agreed, kriged = (model.predict_perturbation(query, empirical_weight=c, **ASK) for c in (0, 0.5, 1))
    changes = [p.varm["deltavi_change"]["type_2"].to_numpy() for p in (own, agreed, kriged)]
    assert np.corrcoef(changes[1], (changes[0] + changes[2]) / 2)[0, 1] > 0.9
