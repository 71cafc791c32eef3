"""Cells in a file, and the demonstration run once on them."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from deltavi.cli import main

QUICK = ["--epochs", "2", "--genes", "40"]


def toy(n: int = 120, n_genes: int = 60) -> ad.AnnData:
    """Counts of three types under two conditions."""
    rng = np.random.default_rng(0)
    kind, treated = np.arange(n) % 3, (np.arange(n) // 3) % 2
    mean = rng.gamma(1.0, 2.0, n_genes) * np.exp(rng.normal(0, 0.5, (3, n_genes)))[kind]
    mean *= np.where((treated == 1)[:, None] & (np.arange(n_genes) < 8), 3.0, 1.0)
    obs = {"condition": np.array(["control", "stimulated"])[treated], "cell_type": np.array(["B", "CD4", "Mono"])[kind]}
    names = [f"cell{i}" for i in range(n)]
    var = pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)])
    return ad.AnnData(
        sparse.csr_matrix(rng.poisson(mean).astype(np.float32)), obs=pd.DataFrame(obs, index=names), var=var
    )


@dataclass
class Run:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An h5ad file of counts."""
    file = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    toy().write_h5ad(file)
    return file


@pytest.fixture
def demo(cells: Path, tmp_path: Path) -> Callable[..., Run]:
    """Function that runs the demonstration in a folder of the test's own."""
    return lambda *arguments, data=cells, out=tmp_path / "out": run("--data", data, "--out", out, *QUICK, *arguments)


def run(*arguments: object) -> Run:
    """Run the demonstration."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["demo", *map(str, arguments)])
    return Run(code, out.getvalue(), err.getvalue())


def is_refused(found: Run, *words: str) -> bool:
    """Whether a run ended with code 2 and one line on standard error that holds `words`."""
    lines = found.err.splitlines()
    assert found.code == 2, found
    assert found.out == ""
    assert len(lines) == 1, found.err
    assert lines[0].startswith("deltavi")
    assert all(word in lines[0] for word in words), (words, lines[0])
    return True
