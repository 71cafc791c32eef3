"""Passes over a matrix on disk: one before the first step of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import dask.array
import numpy as np
import pytest
import torch
from scipy import sparse

from deltavi._types import Rows
from deltavi.errors import DeltaviError
from deltavi.model import VAE
from deltavi.registry import checks, fields
from tests.model.conftest import dense, small_adata
from tests.models import MODELS


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each block that was read."""
    found: list[int] = []
    as_block = checks._as_block

    def counting(block: Rows) -> Rows:
        found.append(block.shape[0])
        return as_block(block)

    monkeypatch.setattr(checks, "_as_block", counting)
    return found


@pytest.mark.parametrize("name", ["VAE", "SCGEN", "LABELVI", "MIXVI"])
def test_a_file_is_read_once_before_the_first_step(name: str, read: list[int], tmp_path: Path) -> None:
    """By the scan of the registration, which sums genes and cells; beside it some runs of rows are compared."""
    entry = MODELS[name]
    small_adata(n_per_group=250).write_h5ad(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    entry.model_class.setup_anndata(adata, **entry.setup)
    entry.model_class(adata, **entry.init)
    assert adata.n_obs <= sum(read) < adata.n_obs + 1000 < 2 * adata.n_obs


@pytest.mark.parametrize("init", [{}, {"library": "learned"}])
@pytest.mark.parametrize("name", ["VAE", "SCGEN", "LABELVI", "MIXVI", "ACTINN", "PPCA"])
def test_chunks_are_computed_once_before_the_first_step(name: str, init: dict[str, Any]) -> None:
    entry, computed = MODELS[name], []

    def noted(chunk: Any) -> Any:
        computed.append(chunk.shape[0])
        return chunk

    if init and not issubclass(entry.model_class, VAE):
        pytest.skip("it has no library")
    adata, expected = (entry.on_its_scale(small_adata(n_per_group=150)) for _ in range(2))
    chunks = dask.array.from_array(adata.X, chunks=(37, -1), asarray=False)
    adata.X = chunks.map_blocks(noted, dtype=chunks.dtype, meta=sparse.csr_matrix((0, 0)))
    entry.model_class.setup_anndata(adata, **entry.setup)
    model = entry.model_class(adata, **{**entry.init, **init})
    # beside the pass, the first chunks tell if a column of totals belongs to more genes
    n_computed = sum(computed)
    assert adata.n_obs <= n_computed < adata.n_obs + 512 + 2 * 37
    # compared with what was sampled in that pass
    model.adata_manager.validate()
    assert sum(computed) == n_computed
    entry.model_class.setup_anndata(expected, **entry.setup)
    weights = entry.model_class(expected, **{**entry.init, **init}).module.state_dict()
    for key, values in model.module.state_dict().items():
        torch.testing.assert_close(values, weights[key], rtol=1e-6, atol=0)
    adata.X = expected.X + sparse.random(*adata.shape, 0.01, format="csr", dtype=np.float32, random_state=0)
    with pytest.raises(DeltaviError, match=r"adata\.X"):
        model.adata_manager.validate()


@pytest.mark.parametrize("form", ["counts", "logs"])
def test_totals_of_counts_are_those_of_the_scan(form: str, read: list[int]) -> None:
    adata = small_adata()
    adata.X = adata.X if form == "counts" else np.log1p(adata.X)
    VAE.setup_anndata(adata)
    manager = VAE(adata, gene_likelihood="zinb" if form == "counts" else "normal").adata_manager
    n_read = len(read)
    chosen = np.array([3, 7])
    np.testing.assert_allclose(manager.cell_totals(), dense(adata.X).sum(1, dtype=np.float64), rtol=1e-6)
    np.testing.assert_array_equal(manager.cell_totals(chosen), manager.cell_totals()[chosen])
    manager.cell_totals()[:] = 0
    assert manager.cell_totals().all()
    assert (len(read) == n_read) == (form == "counts")


def test_the_decoder_starts_at_the_mean_shares_that_the_scan_summed(read: list[int]) -> None:
    adata, entry = small_adata(), MODELS["SCGEN"]
    entry.model_class.setup_anndata(adata, **entry.setup)
    model = entry.model_class(adata, **entry.init)
    np.testing.assert_array_equal(model.adata_manager.gene_sums(), dense(adata.X).sum(0, dtype=np.float64))
    n_read = len(read)
    # whole but for rounding: what models read is not what was scanned
    adata.X = adata.X.astype(np.float64)
    adata.X.data *= 1 + 1e-7
    entry.model_class.setup_anndata(adata, **entry.setup)
    again = entry.model_class(adata, **entry.init)
    np.testing.assert_array_equal(again.adata_manager.gene_sums(), dense(small_adata().X).sum(0, dtype=np.float64))
    assert len(read) > n_read


def test_genes_of_a_query_are_not_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    adata, entry, asked = small_adata(), MODELS["SCGEN"], []
    entry.model_class.setup_anndata(adata, **entry.setup)
    model = entry.model_class(adata, **entry.init)
    scan = checks.scan_and_sum
    monkeypatch.setattr(fields, "scan_and_sum", lambda x, *, genes, where: asked.append(genes) or scan(x, genes=genes))
    model._validate_anndata(small_adata(seed=1))
    assert asked == [False]
    entry.model_class.setup_anndata(adata, **entry.setup)
    assert asked == [False, True]
