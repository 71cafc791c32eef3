"""Counts that look like those of a screen, drawn and written block by block, sorted by cell type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

CONTROL = "control"
TYPE_KEY, CONDITION_KEY, DONOR_KEY = "cell_type", "condition", "donor"
# Cells that are drawn and written at a time.
BLOCK = 2048
# Log expression: with this spread one entry in ten is not zero.
MEAN, SPREAD, DISPERSION = -3.2, 1.8, 2.0
MARKERS, RESPONDING = 0.1, 0.05
PERTURBED = 0.5
# Entries of a chunk and of a shard of Zarr: about 128 and 8,192 cells of 200 entries.
CHUNK, SHARD = 25_600, 64 * 25_600
# Storage by its name: suffix of the file, and arguments of its arrays.
STORAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "h5ad": (".h5ad", {}),
    "h5ad gzip": (".gzip.h5ad", {"compression": "gzip"}),
    "zarr": (".zarr", {"chunks": (CHUNK,), "shards": (SHARD,)}),
}


@dataclass(frozen=True)
class Screen:
    """Cells of a few types under a control and a few perturbations.

    Parameters
    ----------
    n_cells, n_genes
        Their numbers.
    n_types, n_conditions
        Types, in the order of the file, and conditions, the first of which is the control.
    seed
        Seed of everything.
    """

    n_cells: int
    n_genes: int = 2000
    n_types: int = 10
    n_conditions: int = 5
    seed: int = 0
    profiles: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "profiles", self._drawn_profiles())

    def _drawn_profiles(self) -> np.ndarray:
        """Expected counts by type and condition, ``(n_types, n_conditions, n_genes)``."""
        generator = np.random.default_rng(self.seed)
        base = generator.normal(MEAN, SPREAD, self.n_genes)
        shape = self.n_types, 1, self.n_genes
        identity = generator.normal(0, 1, shape) * (generator.random(shape) < MARKERS)
        responds = generator.random((self.n_conditions, self.n_genes)) < RESPONDING
        response = generator.normal(0, 1, (self.n_conditions, self.n_genes)) * responds
        response[0] = 0
        own = 1 + 0.3 * generator.normal(size=shape)
        return np.exp(base + identity + own * response).astype(np.float32)

    def obs(self) -> pd.DataFrame:
        """Type, condition and donor of every cell, sorted by type."""
        generator = np.random.default_rng([self.seed, 1])
        types = np.arange(self.n_cells) * self.n_types // self.n_cells
        names = [CONTROL, *(f"perturbation {i}" for i in range(1, self.n_conditions))]
        # half of the cells are not perturbed
        perturbed = generator.random(self.n_cells) < PERTURBED
        condition = perturbed * generator.integers(1, self.n_conditions, self.n_cells)
        donor = generator.integers(0, 4, self.n_cells)
        columns = {
            TYPE_KEY: pd.Categorical.from_codes(types, [f"type {i}" for i in range(self.n_types)]),
            CONDITION_KEY: pd.Categorical.from_codes(condition, names),
            DONOR_KEY: pd.Categorical.from_codes(donor, [f"donor {i}" for i in range(4)]),
        }
        return pd.DataFrame(columns, index=pd.Index([f"cell{i}" for i in range(self.n_cells)], dtype=str))

    def blocks(self, obs: pd.DataFrame) -> Iterator[sparse.csr_matrix]:
        """Counts of the cells of `obs`, from the first to the last."""
        types, conditions = (obs[key].cat.codes.to_numpy() for key in (TYPE_KEY, CONDITION_KEY))
        for start in range(0, self.n_cells, BLOCK):
            generator = np.random.default_rng([self.seed, 2, start])
            cells = slice(start, min(start + BLOCK, self.n_cells))
            mean = self.profiles[types[cells], conditions[cells]]
            depth = np.exp(generator.normal(0, 0.4, (len(mean), 1))).astype(np.float32)
            rate = generator.standard_gamma(DISPERSION, size=mean.shape, dtype=np.float32) / DISPERSION * mean * depth
            yield sparse.csr_matrix(generator.poisson(rate).astype(np.float32))

    def write(self, folder: Path) -> dict[str, Path]:
        """Write the cells in every storage, unless they are there; the files by storage."""
        paths = {name: folder / f"{self.n_cells}x{self.n_genes}{suffix}" for name, (suffix, _) in STORAGE.items()}
        if all(path.exists() for path in paths.values()):
            return paths
        folder.mkdir(parents=True, exist_ok=True)
        obs = self.obs()
        # shards are those of STORAGE, of which anndata's own setting would warn
        with anndata.settings.override(auto_shard_zarr_v3=False):
            stores = {name: _begun(path, obs, self.n_genes) for name, path in paths.items()}
            for number, block in enumerate(self.blocks(obs)):
                for name, store in stores.items():
                    if number == 0:
                        write_elem(store, "X", block, dataset_kwargs=STORAGE[name][1])
                    else:
                        sparse_dataset(store["X"]).append(block)
        for store in stores.values():
            if isinstance(store, h5py.File):
                store.close()
        return paths


def _begun(path: Path, obs: pd.DataFrame, n_genes: int) -> h5py.File | zarr.Group:
    """A file with everything but the matrix."""
    store = zarr.open_group(path, mode="w", zarr_format=3) if path.suffix == ".zarr" else h5py.File(path, "w")
    var = pd.DataFrame(index=pd.Index([f"gene{i}" for i in range(n_genes)], dtype=str))
    write_elem(store, "/", AnnData(obs=obs, var=var))
    return store
