"""Uniform noise of a cell, independent of other cells, their order, and batches."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cell_generators(names: Sequence[str], *, seed: int) -> list[np.random.Generator]:
    """One generator per cell, seeded by `seed` and the cell's name."""
    return [np.random.default_rng([seed, zlib.crc32(str(name).encode())]) for name in names]


def uniforms(generators: Sequence[np.random.Generator], n_genes: int) -> NDArray[np.float64]:
    """Next uniform draws of every cell, ``(n_cells, n_genes)``."""
    drawn = [generator.random(n_genes) for generator in generators]
    return np.stack(drawn) if drawn else np.zeros((0, n_genes))


def normals(generators: Sequence[np.random.Generator], n_dims: int) -> NDArray[np.float64]:
    """Next standard normal draws of every cell, ``(n_cells, n_dims)``."""
    drawn = [generator.standard_normal(n_dims) for generator in generators]
    return np.stack(drawn) if drawn else np.zeros((0, n_dims))
