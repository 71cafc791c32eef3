"""Learning on real counts: the benchmark protocol's numbers, leaving out one cell type of seven at a time."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from deltavi.metrics import principal_axes
from deltavi.perturbation import BASELINES, SPLIT_HALF, baseline_predictions, compare, conclusion
from tests.perturbation import protocol

# means over the seven types: Pearson delta, R2 of the top means, E-distance
PUBLISHED = {
    "no change": (0.000, 0.268, 348.9),
    "mean shift": (0.868, 0.766, 97.2),
    "PCA mean shift": (0.873, 0.779, 97.4),
    "nearest shift": (0.899, 0.850, 56.6),
    "similarity shift": (0.923, 0.883, 34.8),
    SPLIT_HALF: (0.969, 0.983, 4.4),
}
METHODS = [name for name in PUBLISHED if name in BASELINES]
# The distance of two halves is noise along the minor axes. Those are approximated by a randomised solver, and its seed
# and the version of scanpy, which chooses the genes, move that number by 4 per cent, in the protocol too.
TOLERANCE = {SPLIT_HALF: 0.05}


def log_expression(path):
    """Log1p CP10k expression of 2,000 variable genes, dense; the type with too few cells is left out."""
    adata = anndata.read_h5ad(path)
    adata = adata[adata.obs["cell_type"] != "Megakaryocyte"].copy()
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=2000, flavor="seurat_v3", layer="counts", batch_key="condition")
    adata = adata[:, adata.var["highly_variable"]].copy()
    del adata.layers["counts"]
    # the solver that scikit-learn takes for dense input is the one behind the protocol's numbers
    adata.X = adata.X.toarray()
    return adata


def leave_one_out(adata, cell_type, components):
    """Scores of the package and of the protocol for one held-out type."""
    of_type = (adata.obs["cell_type"] == cell_type).to_numpy()
    stimulated = (adata.obs["condition"] == "stimulated").to_numpy()
    train, control, real = adata[~(of_type & stimulated)], adata[of_type & ~stimulated], adata[of_type & stimulated]
    names = {
        "condition_key": "condition",
        "labels_key": "cell_type",
        "control": "control",
        "perturbation": "stimulated",
    }
    table = compare(baseline_predictions(train, control, **names), real, control, components=components)

    pairs = {name: (protocol.prediction(train, control, *BASELINES[name])[0], real.X) for name in METHODS}
    pairs[SPLIT_HALF] = protocol.halves(real.X)
    expected = {name: protocol.score(*pair, control.X, components) for name, pair in pairs.items()}
    return table, pd.DataFrame(expected).T


@pytest.fixture(scope="module")
def tables(kang_path):
    """Tables of the package and of the protocol, one row per method and type."""
    adata = log_expression(kang_path)
    components = principal_axes(adata.X)
    names = sorted(adata.obs["cell_type"].unique())
    assert len(names) == 7
    pairs = [leave_one_out(adata, name, components) for name in names]
    return [pd.concat(dict(zip(names, parts, strict=True))) for parts in zip(*pairs, strict=True)]


@pytest.fixture(scope="module")
def table(tables):
    """Mean scores of the package over the seven types."""
    return tables[0].groupby(level=1, sort=False).mean()


@pytest.mark.slow
@pytest.mark.parametrize("method", PUBLISHED)
def test_the_protocols_numbers(table, method):
    correlation, r2, distance = PUBLISHED[method]
    scores = table.loc[method]
    assert scores["pearson_delta"] == pytest.approx(correlation, abs=2e-3)
    assert scores["r2_of_means_top"] == pytest.approx(r2, abs=2e-3)
    assert scores["e_distance"] == pytest.approx(distance, rel=TOLERANCE.get(method, 0.01))


@pytest.mark.slow
def test_every_type_and_method_equals_the_protocol(tables):
    """The same program written twice, run on the same cells: equal up to single precision."""
    table, expected = tables
    assert len(table) == 7 * (len(BASELINES) + 1)
    assert len(expected) == 7 * len(PUBLISHED)
    np.testing.assert_allclose(table.loc[expected.index, expected.columns], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_what_the_scores_say(table):
    """Similar types predict best; shifts in few components lose spread, which the E-distance does not see."""
    shifts = table.drop(index=["no change", SPLIT_HALF])
    assert shifts["pearson_delta"].idxmax() in ("similarity shift", "GP shift", "PCA similarity shift")
    assert (shifts["e_distance"] < table.loc["no change", "e_distance"]).all()
    in_components = shifts.index.str.startswith("PCA")
    assert shifts.loc[in_components, "variance_ratio"].max() < shifts.loc[~in_components, "variance_ratio"].min()
    assert conclusion(table, "mean shift").startswith("mean shift did not beat the best baseline on share explained")
