"""One scale of counts per ten thousand: arrays, sparse arrays and tensors agree, and so do all that use it."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import scanpy as sc
import torch
from anndata import AnnData
from scipy import sparse

import deltavi
from deltavi._cp10k import cp10k_factors, log1p_cp10k, log1p_cp10k_of, log1p_cp10k_rows
from deltavi.module import ACTINN, LABELVI
from deltavi.pp.prepare import log_normalise

SOURCE = Path(deltavi.__file__).parent


def counts() -> np.ndarray:
    """Twenty cells, the first empty."""
    drawn = np.random.default_rng(0).poisson(3.0, (20, 7)).astype(np.float32)
    drawn[0] = 0
    return drawn


@pytest.mark.parametrize("more", [1, 4], ids=["own totals", "totals over more genes"])
def test_arrays_and_tensors_are_scaled_as_scanpy_does(more: int) -> None:
    x = counts()[1:]
    totals = more * x.sum(1)
    expected = AnnData(np.column_stack([x, totals - x.sum(1)]))
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    found = log1p_cp10k(x, totals)
    np.testing.assert_allclose(found, expected.X[:, :7], rtol=1e-5)
    np.testing.assert_array_equal(log1p_cp10k_rows(sparse.csr_matrix(x), totals).toarray(), found)
    of_tensors = log1p_cp10k_of(torch.tensor(x), torch.tensor(totals)[:, None])
    np.testing.assert_allclose(of_tensors.numpy(), found, rtol=1e-6)


def test_an_empty_cell_counts_as_one_molecule() -> None:
    np.testing.assert_array_equal(cp10k_factors(np.array([0.0, 0.5, 1.0, 2.0])), [1e4, 1e4, 1e4, 5e3])
    x, totals = np.full((4, 1), 0.5, dtype=np.float32), np.array([0.0, 0.5, 1.0, 2.0], dtype=np.float32)
    expected = log1p_cp10k(x, totals)
    np.testing.assert_array_equal(log1p_cp10k_rows(sparse.csr_matrix(x), totals).toarray(), expected)
    tensors = log1p_cp10k_of(torch.tensor(x), torch.tensor(totals)[:, None])
    np.testing.assert_allclose(tensors.numpy(), expected, rtol=1e-6)


def test_cells_without_counts_are_read_alike_by_models_and_data() -> None:
    x = counts()
    adata = AnnData(sparse.csr_matrix(x))
    log_normalise(adata)
    batch = {"X": torch.tensor(x), "batch": torch.zeros(20, 1), "labels": torch.zeros(20, 1)}
    expected = adata.layers["log1p_cp10k"].toarray()
    np.testing.assert_allclose(LABELVI(7, n_labels=2).classifier_input(batch).numpy(), expected, rtol=1e-5)
    in_bits = ACTINN(7, n_labels=2).classifier_input(batch).numpy()
    np.testing.assert_allclose(in_bits * np.log(2), expected, rtol=1e-5)


def test_the_scale_is_written_down_once() -> None:
    """Ten thousand as a number stands in one file; what else it is the value of is named here."""
    others = {"PRUNED", "FARTHEST_MEAN", "LARGEST_RATIO", "library_size"}
    # what contracts of models expect is written out again
    for path in set(SOURCE.rglob("*.py")) - set((SOURCE / "testing").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if path.name != "_cp10k.py" and "1e4" in line and not any(name in line for name in others):
                held = [node for node in ast.walk(ast.parse(path.read_text())) if getattr(node, "lineno", 0) == number]
                numbers = [node for node in held if isinstance(node, ast.Constant) and node.value == 1e4]
                assert not numbers, f"{path.relative_to(SOURCE)}:{number}"
