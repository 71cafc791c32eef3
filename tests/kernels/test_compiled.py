"""Compilation of kernels: kept on disk where a folder can be written, and never missed where it fails."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import deltavi
from deltavi.kernels import compiled, jit, kernels
from deltavi.kernels.compiled import _loaded
from tests.likelihood.count_inputs import draw

FOLDER = Path(deltavi.__file__).parent / "kernels"
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "compiled"))

# A training whose bound is printed, with what was compiled for it.
TRAINING = """
import hashlib, logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
import numpy as np, torch
from anndata import AnnData
from scipy import sparse
from deltavi.kernels import kernels
from deltavi.model import VAE

torch.set_num_threads(1)
counts = np.random.default_rng(0).poisson(0.3, (60, 300)).astype(np.float32)
adata = AnnData(sparse.csr_matrix(counts))
VAE.setup_anndata(adata)
model = VAE(adata, seed=0)
model.train(3, train_size=1.0, accelerator="cpu")
found = kernels("counts")
print("bound", float(model.history["elbo_train"].iloc[-1, 0]))
weights = b"".join(value.numpy().tobytes() for value in model.module.state_dict().values())
print("weights", hashlib.sha256(weights).hexdigest())
print("kernels", found is not None, "kept", found and found.zero_inflated.stats.cache_path)
"""


def run(**environment: str) -> dict[str, str]:
    """Words that the training prints in a process of its own, by the first of each line."""
    source = Path(deltavi.__file__).parents[1]
    own = {**os.environ, "PYTHONPATH": str(source), **environment}
    done = subprocess.run([sys.executable, "-c", TRAINING], env=own, capture_output=True, text=True, check=True)
    return {line.split()[0]: line for line in done.stdout.splitlines() if line}


def bound(words: dict[str, str]) -> float:
    return float(words["bound"].split()[1])


def test_modules_are_found() -> None:
    assert "counts" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_no_compiled_function_comes_from_another_module(name: str) -> None:
    """A cache on disk looks for changes in one file."""
    module = import_module(f"deltavi.kernels.{name}")
    for found in vars(module).values():
        function = getattr(found, "py_func", None)
        assert function is None or function.__module__ == module.__name__, function


@pytest.mark.parametrize("name", MODULES)
def test_what_kernels_share_is_a_piece_of_each(name: str) -> None:
    """A copy of another kernel rounds in another order."""
    module = import_module(f"deltavi.kernels.{name}")
    for found in vars(module).values():
        if hasattr(found, "py_func"):
            assert found in module.SIGNATURES or found.targetoptions["forceinline"], found


@pytest.mark.parametrize("name", MODULES)
def test_other_types_are_an_error_and_not_seconds_of_compilation(name: str) -> None:
    module = kernels(name)
    if module is None:
        pytest.skip("numba is switched off")
    for kernel in module.SIGNATURES:
        with pytest.raises(TypeError, match=r"No matching definition|not enough arguments|missing"):
            kernel(*["text"] * kernel.py_func.__code__.co_argcount)


def test_kernels_can_be_left_out() -> None:
    with compiled(False):
        assert kernels("counts") is None
        with compiled(True):
            assert kernels("counts") is not None
    assert kernels("counts") is not None


@pytest.fixture
def _quiet() -> Iterator[None]:
    """Pass on what the package logs, for caplog."""
    logger = logging.getLogger("deltavi")
    before = logger.propagate
    logger.propagate = True
    yield
    logger.propagate = before


@pytest.mark.usefixtures("_quiet")
def test_a_broken_module_costs_speed_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="deltavi"):
        assert _loaded("deltavi.kernels.missing") is None
    assert "slower code is used" in caplog.text


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setitem(sys.modules, "deltavi.kernels.counts", None)
    assert _loaded("deltavi.kernels.counts") is None


def test_the_number_of_threads_is_kept() -> None:
    torch.set_num_threads(2)
    try:
        inputs = draw("zinb").to(torch.float32)
        inputs.likelihood.log_prob(inputs.x)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_process_without_compilation_trains_the_same_model() -> None:
    usual, without = run(), run(NUMBA_DISABLE_JIT="1")
    assert "kernels True" in usual["kernels"]
    assert "kernels False" in without["kernels"]
    assert bound(without) == pytest.approx(bound(usual), rel=1e-4)


def test_compiled_once_per_installation(tmp_path: Path) -> None:
    first, second = (run(NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert str(tmp_path) in first["kernels"]
    assert any("once per installation" in line for line in first.values())
    assert not any("once per installation" in line for line in second.values())
    # whether just compiled or read from disk
    assert first["weights"] == second["weights"]


def test_a_damaged_cache_is_survived(tmp_path: Path) -> None:
    usual = run(NUMBA_CACHE_DIR=str(tmp_path))
    kept = [*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:20])
    assert bound(run(NUMBA_CACHE_DIR=str(tmp_path))) == pytest.approx(bound(usual), rel=1e-4)


def test_without_a_folder_to_write_to(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba")
    compiler = numba.njit

    def without_folder(*functions: Any, cache: bool = False, **options: Any) -> Any:
        if not cache:
            return compiler(*functions, **options)

        def refuse(function: Any) -> Any:
            raise RuntimeError("cannot cache function: no locator available")

        return refuse

    monkeypatch.setattr(numba, "njit", without_folder)

    def plain(x: np.ndarray) -> float:
        found = 0.0
        for value in x:
            found += value
        return found

    total: Any = jit(plain)
    assert total(np.arange(4.0)) == 6.0
    assert total.stats.cache_path is None
