"""Cells with a number of their own, in memory and in files, for the tests of the data module."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import torch
import zarr
from anndata import AnnData
from anndata.experimental import read_lazy
from scipy import sparse

from deltavi.dataloaders import CellsDataModule
from deltavi.pp import concat_lazy
from deltavi.testing._cells import small_adata

COLUMNS: dict[str, Any] = {"batch_key": "batch", "labels_key": "cell_type", "continuous_covariate_keys": ["number"]}
# so that a file of the cells is read in several pools
BLOCKS: dict[str, Any] = {"block_rows": 1, "buffer_rows": 32}
NUMBER = "extra_continuous_covs"


def numbered(**options: Any) -> AnnData:
    """Cells sorted by type, whose covariate is their position."""
    adata = small_adata(**options)
    adata = adata[np.argsort(adata.obs["cell_type"].astype(str).to_numpy(), kind="stable")].copy()
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    adata.obs["number"] = np.arange(adata.n_obs, dtype=float)
    return adata


def written(adata: AnnData, path: Path) -> Path:
    with warnings.catch_warnings():
        # of anndata, about the format of its next release
        warnings.simplefilter("ignore")
        (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(path)
    return path


def of_zarr(adata: AnnData, folder: Path) -> AnnData:
    group = zarr.open_group(written(adata, folder / "cells.zarr"), mode="r")
    return AnnData(anndata.io.sparse_dataset(group["X"]), obs=adata.obs.copy(), var=adata.var.copy())


FORMS: dict[str, Callable[[AnnData, Path], AnnData]] = {
    "memory": lambda adata, folder: adata,
    "dense": lambda adata, folder: AnnData(adata.X.toarray(), obs=adata.obs, var=adata.var),
    "h5ad": lambda adata, folder: anndata.read_h5ad(written(adata, folder / "a.h5ad"), backed="r"),
    "zarr": of_zarr,
    "lazy": lambda adata, folder: read_lazy(written(adata, folder / "a.h5ad")),
    "joined": lambda adata, folder: concat_lazy(
        [written(adata[:50].copy(), folder / "a.h5ad"), written(adata[50:].copy(), folder / "b.zarr")]
    ),
}


def numbers(batches: Iterable[dict[str, Any]]) -> list[list[int]]:
    """Positions of the cells of each mini-batch."""
    return [batch[NUMBER].ravel().long().tolist() for batch in batches]


def flat(batches: Iterable[dict[str, Any]]) -> list[int]:
    return [cell for batch in numbers(batches) for cell in batch]


def of_rank(module: CellsDataModule, rank: int, world: int) -> CellsDataModule:
    """The module as it is in one of several processes."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world, strategy=strategy)  # type: ignore[assignment]
    return module
