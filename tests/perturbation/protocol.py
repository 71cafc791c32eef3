"""The benchmark protocol in plain numpy and scipy: the oracle of baselines and scores."""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from tests.perturbation import plain_kriging


def prediction(train, query, space, shift):
    """Predicted expression of the control cells in `query`, all of one type, and the weight of every training type."""
    control = (train.obs["condition"] == "control").to_numpy()
    types = train.obs["cell_type"].astype(str).to_numpy()
    points, start = np.asarray(train.X), np.asarray(query.X)
    if space == "pca":
        pca = PCA(min(50, *points.shape), random_state=0).fit(points)
        points, start = pca.transform(points), pca.transform(start)
    seen = [u for u in np.unique(types[~control]) if u in types[control]]
    means = np.array([points[control & (types == u)].mean(0) for u in seen])
    changes = np.array([points[~control & (types == u)].mean(0) for u in seen]) - means
    if shift == "gp":
        cells = [[points[rows & (types == u)].astype(float) for u in seen] for rows in (control, ~control)]
        weights = plain_kriging.weights_from_cells(*cells, start.mean(0, dtype=float))
    else:
        weights = _weights(means, start.mean(0), shift, space)
    moved = start + weights @ changes if weights.any() else start
    expression = np.clip(pca.inverse_transform(moved) if space == "pca" else moved, 0, None)
    return expression, dict(zip(seen, weights.tolist(), strict=True))


def _weights(means, query, shift, space):
    distance = ((means - query) ** 2).sum(1)
    if shift == "none":
        return np.zeros(len(means))
    if shift == "paired":
        return np.full(len(means), 1 / len(means))
    if shift == "nearest":
        closeness = [np.corrcoef(mean, query)[0, 1] for mean in means] if space == "genes" else -distance
        return np.eye(len(means))[np.argmax(closeness)]
    weights = np.exp(-(distance - distance.min()) / (0.2 * distance.mean()))
    return weights / weights.sum()


def score(predicted, real, control, components):
    """The protocol's scores under the names of this package."""
    p, r, c = predicted.mean(0), real.mean(0), control.mean(0)
    t = np.nan_to_num(stats.ttest_ind(real, control, axis=0, equal_var=False).statistic)
    top = np.argsort(-np.abs(t))[:100]
    return {
        "pearson_delta": pearson(p - c, r - c),
        "pearson_delta_top": pearson((p - c)[top], (r - c)[top]),
        "r2_of_means": pearson(p, r) ** 2,
        "r2_of_means_top": pearson(p[top], r[top]) ** 2,
        "mse_top": ((p - r)[top] ** 2).mean(),
        "e_distance": e_distance(predicted, real, components),
    }


def pearson(a, b):
    return stats.pearsonr(a, b)[0] if a.std() > 0 and b.std() > 0 else 0.0


def e_distance(x, y, components):
    x, y, rng = x @ components, y @ components, np.random.default_rng(0)
    x, y = x[rng.permutation(len(x))[:500]], y[rng.permutation(len(y))[:500]]

    def mean_distance(a, b):
        return cdist(a, b, "sqeuclidean").mean()

    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


def halves(real):
    """One random half of the cells and the other."""
    order = np.random.default_rng(0).permutation(len(real))
    return real[order[: len(real) // 2]], real[order[len(real) // 2 :]]
