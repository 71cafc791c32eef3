"""Uniform noise of a cell, independent of other cells, their order, and batches."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deltavi.kernels import kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORD, WORD_BITS = 0xFFFFFFFF, 32


@dataclass(frozen=True, eq=False)
class States:
    """States of the generators of many cells, which are drawn from together.

    Parameters
    ----------
    values
        ``(n_cells, 4)`` as :mod:`deltavi.kernels.draws` has them; moved on by every draw.
    """

    values: NDArray[np.uint64]

    def generators(self) -> list[np.random.Generator]:
        """One generator of NumPy per cell, which goes on from here."""
        return [np.random.Generator(_bits_at(row)) for row in self.values.tolist()]

    def moved_to(self, generators: Sequence[np.random.Generator]) -> None:
        """Go on from where these `generators` are."""
        for row, generator in enumerate(generators):
            position = generator.bit_generator.state["state"]["state"]
            self.values[row, :2] = position >> 2 * WORD_BITS, position & (1 << 2 * WORD_BITS) - 1


# One generator of NumPy per cell, or their states.
Generators = Sequence[np.random.Generator] | States


def cell_generators(names: Sequence[str], *, seed: int) -> Generators:
    """One generator per cell, seeded by `seed` and the cell's name."""
    keys = [zlib.crc32(str(name).encode()) for name in names]
    found = kernels("draws")
    if found is None or seed < 0:
        return [np.random.default_rng([seed, key]) for key in keys]
    states = np.empty((len(keys), 4), dtype=np.uint64)
    found.seed_states(_words(seed), np.array(keys, dtype=np.uint64), states)
    return States(states)


def uniforms(generators: Generators, n_genes: int) -> NDArray[np.float64]:
    """Next uniform draws of every cell, ``(n_cells, n_genes)``."""
    if isinstance(generators, States):
        return _filled(generators, n_genes)
    drawn = [generator.random(n_genes) for generator in generators]
    return np.stack(drawn) if drawn else np.zeros((0, n_genes))


def normals(generators: Generators, n_dims: int) -> NDArray[np.float64]:
    """Next standard normal draws of every cell, ``(n_cells, n_dims)``."""
    each = generators.generators() if isinstance(generators, States) else generators
    drawn = [generator.standard_normal(n_dims) for generator in each]
    if isinstance(generators, States):
        generators.moved_to(each)
    return np.stack(drawn) if drawn else np.zeros((0, n_dims))


def _filled(states: States, n_genes: int) -> NDArray[np.float64]:
    found = kernels("draws")
    if found is None:
        # kernels were switched off after these cells were seeded
        each = states.generators()
        drawn = uniforms(each, n_genes)
        states.moved_to(each)
        return drawn
    filled = np.empty((len(states.values), n_genes))
    found.fill_uniforms(states.values, filled)
    return filled


def _words(seed: int) -> NDArray[np.uint64]:
    """Words of 32 bits of a seed, the lowest first."""
    words, left = [int(seed) & WORD], int(seed) >> WORD_BITS
    while left:
        words.append(left & WORD)
        left >>= WORD_BITS
    return np.array(words, dtype=np.uint64)


def _bits_at(row: list[int]) -> np.random.PCG64:
    bits = np.random.PCG64(0)
    position, increment = (high << 2 * WORD_BITS | low for high, low in (row[:2], row[2:]))
    state = bits.state
    state["state"]["state"], state["state"]["inc"] = position, increment
    bits.state = state
    return bits
