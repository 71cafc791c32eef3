"""Spaces in which cells are shifted: genes or principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deltavi._errors import DeltaviError
from deltavi._types import Rows, is_sparse
from deltavi.metrics.genes import fit_principal_components

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

    from deltavi.arrays.matrix import Vector


class GeneSpace:
    """Cells move in expression itself; positions are log1p CP10k values, (n_cells, n_genes)."""

    name = "genes"
    nearest_metric = "correlation"  # of expression profiles: blind to depth, which Euclidean distances are not

    def points(self, x: Rows) -> Rows:
        """Positions of cells, (n_cells, n_genes)."""
        return x

    def moved(self, x: Rows, vector: Vector) -> Vector:
        """Expression of cells after moving them by `vector`, dense, (n_cells, n_genes)."""
        return np.asarray((x.toarray() if is_sparse(x) else x) + vector)


@dataclass(frozen=True)
class PCASpace:
    """Cells move among principal component scores, (n_cells, n_components), and are mapped back to genes."""

    pca: PCA
    name = "pca"
    nearest_metric = "euclidean"

    def points(self, x: Rows) -> Vector:
        """Positions of cells, (n_cells, n_components)."""
        return np.asarray(self.pca.transform(x))

    def moved(self, x: Rows, vector: Vector) -> Vector:
        """Expression of cells after moving them by `vector`, (n_cells, n_genes)."""
        return np.asarray(self.pca.inverse_transform(self.points(x) + vector))


def build_space(name: str, x: Rows, n_components: int) -> GeneSpace | PCASpace:
    """Make the space of that name from training expression `x`, (n_cells, n_genes)."""
    if name == GeneSpace.name:
        return GeneSpace()
    if name == PCASpace.name:
        return PCASpace(fit_principal_components(x, n_components=n_components, name="adata"))
    raise DeltaviError(f"The space {name!r} does not exist. Known: {GeneSpace.name!r}, {PCASpace.name!r}.")
