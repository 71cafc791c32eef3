"""Files and stores that an AnnData reads from."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import zarr
from scipy import sparse

from deltavi.registry.stored_rows import places_of

X = sparse.random(9, 5, density=0.4, format="csr", dtype=np.float32, random_state=0)


def of_h5ad(folder: Path, form: Callable[[sparse.csr_matrix], object] = sparse.csr_matrix) -> ad.AnnData:
    ad.AnnData(form(X)).write_h5ad(folder / "cells.h5ad")
    return ad.read_h5ad(folder / "cells.h5ad", backed="r")


def of_zarr(folder: Path) -> object:
    with warnings.catch_warnings():
        # of anndata, about the format of its next release
        warnings.simplefilter("ignore")
        ad.AnnData(X).write_zarr(folder / "cells.zarr")
    return ad.io.sparse_dataset(zarr.open(folder / "cells.zarr", mode="r")["X"])


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, lambda x: x.toarray()])
def test_a_backed_file(tmp_path: Path, form: Callable[[sparse.csr_matrix], object]) -> None:
    cells = of_h5ad(tmp_path, form)
    assert places_of(cells) == {tmp_path / "cells.h5ad"}
    assert places_of(cells[2:4]) == {tmp_path / "cells.h5ad"}
    cells.file.close()


def test_a_store_as_matrix_or_layer(tmp_path: Path) -> None:
    stored = of_zarr(tmp_path)
    assert places_of(ad.AnnData(stored)) == {tmp_path / "cells.zarr"}
    assert places_of(ad.AnnData(X, layers={"counts": stored})) == {tmp_path / "cells.zarr"}


def test_several_places(tmp_path: Path) -> None:
    backed = of_h5ad(tmp_path)
    both = ad.AnnData(backed.X, layers={"counts": of_zarr(tmp_path)})
    assert places_of(both) == {tmp_path / "cells.h5ad", tmp_path / "cells.zarr"}
    backed.file.close()


@pytest.mark.parametrize("cells", [None, "cells.h5ad", ad.AnnData(X), ad.AnnData(obs={"a": np.arange(3)})])
def test_nothing_is_read_from_disk(cells: object) -> None:
    assert places_of(cells) == set()


def test_a_copy_in_memory_reads_nothing(tmp_path: Path) -> None:
    backed = of_h5ad(tmp_path)
    assert places_of(backed.to_memory()) == set()
    backed.file.close()
