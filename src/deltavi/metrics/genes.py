"""Genes that respond, and the axes along which cells vary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from deltavi._reading import known_arguments
from deltavi._types import is_sparse
from deltavi.arrays.matrix import as_matrix, check_count
from deltavi.arrays.tables import align, gene_names
from deltavi.metrics.significance import check_two_cells, moments, welch_t

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deltavi.arrays.matrix import Matrix
    from deltavi.metrics.significance import Moments


@known_arguments
def top_differential_genes(control: Matrix, perturbed: Matrix, *, n: int = 100) -> NDArray[np.intp]:
    """Positions of the genes that differ most between two groups of cells, by decreasing Welch ``|t|``.

    ``t_g = (mean(perturbed) - mean(control)) / sqrt(var(perturbed) / n_perturbed + var(control) / n_control)`` with
    sample variances; genes that are constant in both groups get t = 0.

    Parameters
    ----------
    control, perturbed
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse.
    n
        Number of genes; all if there are fewer.

    Returns
    -------
    Positions, (min(n, n_genes),); equal ``|t|`` keep the order of the genes.

    Raises
    ------
    InputDataError
        A matrix has fewer than two cells or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    It misleads because ``|t|`` grows with the number of cells, and cells of one donor are not independent: the order is
    a ranking, not a test. Source: Welch (1947), Biometrika 34.
    """
    n = check_count(n, "n")
    found = align({"control": control, "perturbed": perturbed})
    found.require_one_order("The result names genes")
    x, y = found.matrices
    check_two_cells(control=x, perturbed=y)
    return ranked_genes(moments(x), moments(y))[:n]


def ranked_genes(control: Moments, perturbed: Moments) -> NDArray[np.intp]:
    """All genes by decreasing ``|t|``, (n_genes,)."""
    return np.argsort(-np.abs(welch_t(control, perturbed)), kind="stable")


def fit_principal_components(x: Matrix, *, n_components: int, name: str = "x") -> PCA:
    """Fit a principal component analysis of cells, reproducibly.

    Parameters
    ----------
    x
        Expression, (n_cells, n_genes), log1p CP10k; sparse input is centred implicitly and stays sparse.
    n_components
        Number of components, lowered to min(n_cells, n_genes) where that is less.
    name
        Name of `x` in errors.
    """
    n_components = check_count(n_components, "n_components")
    matrix = as_matrix(x, name)
    smallest = min(matrix.shape)
    if is_sparse(matrix) and n_components >= smallest:
        matrix = matrix.toarray()  # the sparse solver finds fewer than all components, and such a matrix is narrow
    return PCA(min(n_components, smallest), random_state=0).fit(matrix)


@known_arguments
def principal_axes(x: Matrix, *, n_components: int = 50) -> np.ndarray | pd.DataFrame:
    """Principal axes of cells: the projection in which the E-distance is usually taken.

    Orthonormal directions of decreasing variance in log1p CP10k space, by scikit-learn's PCA with ``random_state=0``.

    Parameters
    ----------
    x
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse; usually all real cells of an experiment.
    n_components
        Number of axes; at most min(n_cells, n_genes) are returned.

    Returns
    -------
    Axes in columns, (n_genes, n_components); of an AnnData or a DataFrame a DataFrame with the genes as index, which
    the metrics match by name.

    Raises
    ------
    InputDataError
        The matrix is empty or holds NaN or infinite values.

    Notes
    -----
    It misleads where the response of a rare cell type is not among the main axes of variation: distances in the
    projection do not reflect it. For large dense input scikit-learn approximates the minor axes by a randomised solver;
    for sparse input it is exact. A small distance, as between halves of the same cells, may differ by a few per cent.
    Source: Pearson (1901), Philosophical Magazine 2; scikit-learn's implementation.
    """
    genes = gene_names(x, "x")
    axes = np.asarray(fit_principal_components(x, n_components=n_components).components_.T)
    return axes if genes is None else pd.DataFrame(axes, index=genes)
