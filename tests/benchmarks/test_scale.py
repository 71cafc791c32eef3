"""Cells of the benchmark of large data, and how its runs become a page."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.scale.cells import CONDITION_KEY, CONTROL, TYPE_KEY, Screen
from benchmarks.scale.page import page


def test_every_storage_holds_the_cells_as_they_are_drawn(tmp_path: Path) -> None:
    screen = Screen(5000, n_genes=40)
    paths = screen.write(tmp_path)
    obs = screen.obs()
    drawn = sparse.vstack(list(screen.blocks(obs)))
    for name, path in paths.items():
        adata = ad.read_zarr(path) if name == "zarr" else ad.read_h5ad(path)
        assert (drawn != adata.X).nnz == 0
        pd.testing.assert_frame_equal(adata.obs, obs)


def test_cells_are_sorted_by_type_and_half_are_controls() -> None:
    obs = Screen(20_000, n_genes=10).obs()
    assert obs[TYPE_KEY].cat.codes.is_monotonic_increasing
    assert abs((obs[CONDITION_KEY] == CONTROL).mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000)


def test_a_perturbation_changes_the_genes_that_its_profile_says() -> None:
    screen = Screen(40_000, n_genes=60, n_types=1, n_conditions=2)
    obs = screen.obs()
    counts = sparse.vstack(list(screen.blocks(obs))).toarray()
    treated = (obs[CONDITION_KEY] != CONTROL).to_numpy()
    depth = np.exp(0.4**2 / 2)
    for cells, profile in ((~treated, screen.profiles[0, 0]), (treated, screen.profiles[0, 1])):
        error = counts[cells].std(0) / np.sqrt(cells.sum())
        assert (np.abs(counts[cells].mean(0) - depth * profile) < 5 * error + 1e-9).all()


def test_the_page_divides_runs_of_the_same_pair() -> None:
    lines = [
        {
            "cells": 100,
            "genes": 5,
            "way": way,
            "pair": pair,
            "step": "epoch",
            "cpu": cpu,
            "wall": cpu + 2,
            "peak": 7.0,
            "n_cells": 90,
        }
        for pair, times in enumerate([(2.0, 3.0, 12.0), (4.0, 4.0, 20.0)])
        for way, cpu in zip(("memory", "h5ad", "scvi-h5ad"), times, strict=True)
    ]
    text = "\n".join(page(pd.DataFrame(lines)))
    assert "| deltavi, h5ad | 1.25 (1.00–1.50) | 1.12 (1.00–1.25) | 4.50 (4.00–5.00) |" in text
    assert "| deltavi, in memory | – | – | 3.00 (30) |" in text
