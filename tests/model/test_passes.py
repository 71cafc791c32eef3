"""Passes over a matrix on disk: one before the first step of training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from deltavi.registry import _fingerprint, checks, fields, manager
from tests.model.conftest import dense, small_adata
from tests.models import MODELS


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each block that was read."""
    found: list[int] = []
    blocks = checks.row_blocks

    def counting(x: Any, rows: Any = None, **kwargs: Any) -> Iterator[Any]:
        for numbers, block in blocks(x, rows, **kwargs):
            found.append(len(numbers))
            yield numbers, block

    for module in (checks, _fingerprint, manager):
        monkeypatch.setattr(module, "row_blocks", counting)
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
    monkeypatch.setattr(fields, "scan_and_sum", lambda x, *, genes: asked.append(genes) or scan(x, genes=genes))
    model._validate_anndata(small_adata(seed=1))
    assert asked == [False]
    entry.model_class.setup_anndata(adata, **entry.setup)
    assert asked == [False, True]
