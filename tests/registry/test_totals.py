"""Totals of cells, and rows that are read from among others."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from deltavi.model import VAE
from deltavi.registry import checks
from deltavi.registry.checks import wanted_blocks
from deltavi.registry.fields import ExpressionField
from deltavi.registry.totals import cell_totals

N_CELLS, N_GENES, BLOCK = 37, 11, 8
STORAGES = ("csr", "csc", "dense", "backed csr", "backed csc", "backed dense")
SOME = {
    "none": [],
    "one": [20],
    "last": [36],
    "a stretch": list(range(5, 19)),
    "far apart": [0, 7, 8, 9, 23, 31, 36],
    "all": list(range(N_CELLS)),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "BLOCK_ROWS", BLOCK)


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.asarray(rng.poisson(0.7, (N_CELLS, N_GENES)), dtype=np.float32)


def stored(counts: np.ndarray, storage: str, folder: Path) -> object:
    form = storage.removeprefix("backed ")
    x = counts if form == "dense" else sparse.csr_matrix(counts) if form == "csr" else sparse.csc_matrix(counts)
    if not storage.startswith("backed"):
        return x
    ad.AnnData(x).write_h5ad(folder / "cells.h5ad")
    return ad.read_h5ad(folder / "cells.h5ad", backed="r").X


@pytest.mark.parametrize("cells", SOME.values(), ids=SOME)
@pytest.mark.parametrize("storage", STORAGES)
def test_totals_of_some_cells_are_those_of_all(
    counts: np.ndarray, storage: str, cells: list[int], tmp_path: Path
) -> None:
    x = stored(counts, storage, tmp_path)
    np.testing.assert_array_equal(cell_totals(x), counts.sum(1))
    np.testing.assert_array_equal(cell_totals(x, np.array(cells, dtype=int)), counts.sum(1)[cells])


@pytest.mark.parametrize("cells", SOME.values(), ids=SOME)
@pytest.mark.parametrize("storage", [name for name in STORAGES if "csc" not in name])
def test_wanted_rows_keep_the_blocks_of_all_rows(
    counts: np.ndarray, storage: str, cells: list[int], tmp_path: Path
) -> None:
    wanted = np.isin(np.arange(N_CELLS), cells)
    found = list(wanted_blocks(stored(counts, storage, tmp_path), wanted))
    assert [row for rows, _ in found for row in rows] == cells
    # sums over blocks are then the same, whatever else the matrix holds
    assert all(len({row // BLOCK for row in rows}) == 1 for rows, _ in found)
    for rows, block in found:
        values = block.toarray() if sparse.issparse(block) else block
        np.testing.assert_array_equal(values, counts[rows])


def test_rows_beside_the_wanted_ones_are_not_read(counts: np.ndarray, tmp_path: Path) -> None:
    read: list[np.ndarray] = []

    class Watched:
        shape = counts.shape

        def __getitem__(self, rows: slice) -> np.ndarray:
            read.append(np.arange(N_CELLS)[rows])
            return counts[rows]

    list(wanted_blocks(Watched(), np.isin(np.arange(N_CELLS), [9, 12, 30])))  # type: ignore[arg-type]
    assert [rows.tolist() for rows in read] == [[9, 10, 11, 12], [30]]


def test_totals_of_counts_in_a_file_are_known_from_the_registration(tmp_path: Path) -> None:
    counts = sparse.csr_matrix(np.random.default_rng(5).poisson(0.5, (60, 9)).astype(np.float32))
    AnnData(counts).write_h5ad(tmp_path / "counts.h5ad")
    backed = ad.read_h5ad(tmp_path / "counts.h5ad", backed="r")
    VAE.setup_anndata(backed)
    manager = VAE._get_most_recent_anndata_manager(backed, required=True)
    np.testing.assert_array_equal(manager.cell_totals(), cell_totals(counts))
    backed.file.close()


@pytest.mark.parametrize("value", [-1.0, 0.5, 1e-9])
def test_totals_of_other_values_are_read_again(tmp_path: Path, value: float) -> None:
    values = np.random.default_rng(5).poisson(0.5, (60, 9)).astype(np.float64)
    values[3, 4] = value
    AnnData(values).write_h5ad(tmp_path / "values.h5ad")
    backed = ad.read_h5ad(tmp_path / "values.h5ad", backed="r")
    field = ExpressionField(REGISTRY_KEYS.X_KEY, None)
    field.require_finite(backed)
    assert field.count_totals() is None
    backed.file.close()
