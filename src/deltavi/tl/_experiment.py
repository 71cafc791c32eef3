"""Data of one hold-out: training cells, control cells to predict from, and real cells to compare with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from deltavi._types import IntArray, Rows
from deltavi.metrics import principal_axes, top_differential_genes
from deltavi.perturbation import compare
from deltavi.perturbation.inputs import as_names
from deltavi.pp import highly_variable_genes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from deltavi.tl._splits import HoldOut

# Genes over which the scores named "top" are taken.
N_TOP = 100


@dataclass(frozen=True, eq=False)
class Experiment:
    """One hold-out on its genes: log1p CP10k in X, raw counts in ``layers["counts"]``, totals over all genes in obs.

    Parameters
    ----------
    train
        All cells but those held out, on which methods are trained.
    query
        Control cells whose response is predicted; they are among `train`.
    real
        The cells held out, for scores only.
    reference
        Control cells that no method sees, for scores only; none of labels with too few.
    components
        Axes of all real cells, (n_genes, n_components), in which scores measure distances.
    """

    train: AnnData
    query: AnnData
    real: AnnData
    reference: AnnData
    components: NDArray[np.float64]


def prepare(
    adata: AnnData,
    part: HoldOut,
    *,
    condition_key: str,
    layer: str | None,
    n_genes: int,
    genes_from_all_cells: bool,
) -> Experiment:
    """Choose genes without the cells that no method sees, by default, and normalise cell by cell.

    These cells are processed separately from the start, so that not even the type of a number depends on them.
    """
    hidden = part.hidden
    visible = adata[~hidden]
    if genes_from_all_cells:
        genes = highly_variable_genes(adata, n_top=n_genes, condition_key=condition_key, layer=layer).var_names
        train = highly_variable_genes(visible, n_top=adata.n_vars, layer=layer)[:, genes].copy()
    else:
        train = highly_variable_genes(visible, n_top=n_genes, condition_key=condition_key, layer=layer)
    unseen = highly_variable_genes(adata[hidden], n_top=adata.n_vars, layer=layer)[:, train.var_names].copy()
    is_real = part.held_out[hidden]
    axes = _axes(train, unseen, hidden)
    return Experiment(train, train[part.query[~hidden]].copy(), unseen[is_real].copy(), unseen[~is_real].copy(), axes)


def _axes(train: AnnData, unseen: AnnData, hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Principal axes of all cells in the order of the data, (n_genes, n_components)."""
    everything = sparse.vstack([train.X, unseen.X], format="csr")
    places = np.argsort(np.concatenate([np.flatnonzero(~hidden), np.flatnonzero(hidden)]))
    return np.asarray(principal_axes(everything[places]))


def training_ranking(
    train: AnnData, *, control: str, perturbation: str, condition_key: str, labels_key: str
) -> IntArray:
    """Positions of the genes that respond most in training, (n_genes,), the first the strongest.

    Genes are ranked within each label that training saw in both conditions (Welch ``|t|``), and the ranks averaged.
    """
    conditions, labels = as_names(train.obs[condition_key]), as_names(train.obs[labels_key])
    ranks = []
    for label in sorted({name for name in labels if name is not None}):
        groups = [np.flatnonzero((labels == label) & (conditions == name)) for name in (control, perturbation)]
        if min(map(len, groups)) >= 2:
            order = top_differential_genes(train.X[groups[0]], train.X[groups[1]], n=train.n_vars)
            ranks.append(np.argsort(order))
    return np.argsort(np.mean(ranks, axis=0), kind="stable") if ranks else np.arange(train.n_vars)


def score(
    predictions: Mapping[str, Rows],
    real: Rows,
    control: Rows,
    *,
    reference: Rows | None = None,
    components: NDArray[np.float64] | None,
    ranking: NDArray[np.intp] | None = None,
    split_half: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of predictions of the same cells by :func:`deltavi.perturbation.compare`.

    With `ranking`, positions of all genes, the scores of top genes are taken over the first of these instead of those
    that the real cells show to respond.
    """
    options: dict[str, Any] = {"split_half": split_half, "seed": seed}
    table = compare(predictions, real, control, reference=reference, components=components, n_top=N_TOP, **options)
    if ranking is None:
        return table
    for size, names in _scores_of_top_genes(table.columns).items():
        genes = ranking[:size]
        chosen = {name: cells[:, genes] for name, cells in predictions.items()}
        # over these genes alone every one of them is a top gene
        of_top = compare(chosen, real[:, genes], control[:, genes], n_top=len(genes), **options)
        table = table.assign(**{name: of_top[name] for name in names})
    return table


def _scores_of_top_genes(names: Iterable[str]) -> dict[int, list[str]]:
    """Scores that are taken over top genes, by the number of genes: those named so, and the direction accuracy."""
    sizes: dict[int, list[str]] = {}
    for name in names:
        named = re.search(r"_top(\d*)$", name)
        if named or name == "direction_accuracy":
            sizes.setdefault(int(named.group(1) or N_TOP) if named else N_TOP, []).append(name)
    return sizes
