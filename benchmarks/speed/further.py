"""Rows of the benchmark of speed about deltavi alone, and about short trainings: phases of a step, first calls."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData

from benchmarks.speed.pairs import (
    ADAM,
    BATCH_SIZE,
    Case,
    Data,
    Line,
    Work,
    our_training,
    our_vae,
    peer_training,
    peer_vae,
    size,
    timings,
)
from deltavi.model import SCGEN
from deltavi.module.by_hand import Step

Lines = Iterator[list[Line]]
SHORT_CELLS, SHORT_EPOCHS = 5120, 2
# Control cells of a small atlas, and labels of all its cells.
ATLAS_CONTROLS, ATLAS_LABELS = 12_642, 4
# Cells of which prediction is compared with training.
FEW_CELLS = 4096
KERNELS = """
import time
from deltavi.kernels import kernels
from deltavi.likelihood import Nonzeros
from deltavi import model
started, clock = time.process_time(), time.perf_counter()
assert all(kernels(name) is not None for name in {names})
print(time.process_time() - started, time.perf_counter() - clock)
"""


def short(data: Data, options: argparse.Namespace) -> Lines:
    """The second training of a process, of few epochs over few cells, where what surrounds the steps weighs most."""
    adata = data.simulated[:SHORT_CELLS].copy()

    def again(make: Callable[..., Any], training: Callable[..., Work], pair: int) -> Work:
        model = make(adata, pair)
        training(model, SHORT_EPOCHS, options)()
        return partial(without_bound, training(model, SHORT_EPOCHS, options))

    ours, peer = partial(again, our_vae, our_training), partial(again, peer_vae, peer_training)
    about = f"{size(adata)}, {SHORT_EPOCHS} epochs"
    yield from timings(Case("second call of train(), zero-inflated NB, simulated", about, ours, peer), options)


def without_bound(work: Work) -> None:
    """Do the work."""
    work()


def phases(data: Data, options: argparse.Namespace) -> Lines:
    """Phases of a training step over changing mini-batches, and its large matrix products alone."""
    for kind, title in (("zinb", "zero-inflated NB"), ("nb", "NB")):
        model = our_vae(data.simulated, 0, gene_likelihood=kind)
        module, cells = model.module.train(), model.adata_manager.create_torch_dataset()
        # as training reads them
        cells.read_often()
        step, adam = Step.of(module), torch.optim.Adam(module.parameters(), fused=True, **ADAM)
        assert step is not None
        order = np.random.default_rng(0).permutation(data.simulated.n_obs)
        batches = [order[start : start + BATCH_SIZE] for start in range(0, len(order) - BATCH_SIZE, BATCH_SIZE)]
        made = [taken(cells, batch) for batch in batches[:8]]
        turns = iter(range(10**9))

        def load(cells: Any = cells, turns: Iterator[int] = turns, batches: list[np.ndarray] = batches) -> None:
            taken(cells, batches[next(turns) % len(batches)])

        def loss(step: Step = step, turns: Iterator[int] = turns, made: list[Any] = made) -> None:
            found = step.loss(made[next(turns) % len(made)], 0.5)
            assert found is not None
            step.module.zero_grad()
            found.loss.backward()

        loss()
        about = f"{BATCH_SIZE} simulated cells × {data.simulated.n_vars:,} genes"
        for name, work in (
            ("its matrix products alone", partial(products, data.simulated.n_vars, 8 if kind == "zinb" else 5)),
            ("phase: load a mini-batch", load),
            ("phase: loss and gradients", loss),
            ("phase: Adam", partial(adam.step)),
        ):
            yield from timings(
                Case(f"{name}, {title}", about, always(partial(without_bound, work)), None, options.repeats), options
            )


def taken(cells: Any, batch: np.ndarray) -> dict[str, torch.Tensor]:
    """One mini-batch as tensors."""
    return {key: torch.as_tensor(value) for key, value in cells[batch.tolist()].items()}


def products(n_genes: int, number: int, n_hidden: int = 128) -> None:
    """As many large products as a step has: two of the first layer, three of each head."""
    x, weight = torch.ones(BATCH_SIZE, n_genes), torch.ones(n_hidden, n_genes)
    for _ in range(number):
        x @ weight.t()


def always(work: Work) -> Callable[[int], Work]:
    """The same work in every pair."""
    return lambda pair: work


def cold(data: Data, options: argparse.Namespace) -> Lines:
    """Compilation of all kernels in a process of its own: once per installation, and read from disk afterwards."""
    import deltavi.kernels

    names = sorted(path.stem for path in Path(deltavi.kernels.__path__[0]).glob("*.py"))
    code = KERNELS.format(names=[name for name in names if name not in ("__init__", "compiled")])
    for pair in range(options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            for case in ("kernels, compiled once per installation", "kernels, read from disk"):
                done = subprocess.run(
                    [sys.executable, "-c", code],
                    env={**os.environ, "NUMBA_CACHE_DIR": folder},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                cpu, wall = map(float, done.stdout.split())
                shared = {"case": case, "about": "first use in a process", "pair": pair}
                yield [{**shared, "measure": "cpu", "ours": cpu}, {**shared, "measure": "wall", "ours": wall}]


def atlas(data: Data, options: argparse.Namespace) -> Lines:
    """Predicted responses of a small atlas of simulated counts, without a response, on which time does not depend."""
    adata = AnnData(data.simulated.X)
    n_controls = min(ATLAS_CONTROLS, adata.n_obs // 2)
    rng = np.random.default_rng(0)
    adata.obs["condition"] = np.where(rng.permutation(adata.n_obs) < n_controls, "control", "treated")
    adata.obs["label"] = [f"type {code}" for code in rng.integers(0, ATLAS_LABELS, adata.n_obs)]
    SCGEN.setup_anndata(adata, condition_key="condition", labels_key="label")
    model = SCGEN(adata)
    model.train(1, accelerator=options.accelerator, enable_progress_bar=False)
    about = f"{n_controls:,} cells × {adata.n_vars:,} genes"
    yield from timings(predicting("SCGEN.predict_perturbation(), simulated", about, model, n_controls), options)


def few(data: Data, options: argparse.Namespace) -> Lines:
    """Training and prediction of the same 4,096 cells, half of them control cells, of four types."""
    adata = AnnData(data.simulated.X[:FEW_CELLS])
    adata.obs["condition"] = np.where(np.arange(adata.n_obs) % 2 == 0, "control", "treated")
    adata.obs["label"] = [f"type {code // 2 % ATLAS_LABELS}" for code in range(adata.n_obs)]
    SCGEN.setup_anndata(adata, condition_key="condition", labels_key="label")
    about, n_controls = f"{size(adata)}, 4 types", int((adata.obs["condition"] == "control").sum())
    made: list[SCGEN] = []

    def training(pair: int) -> Work:
        made[:] = [SCGEN(adata, seed=pair)]

        def work() -> Callable[[], dict[str, float]]:
            made[0].train(options.epochs, accelerator=options.accelerator, enable_progress_bar=False, train_size=1.0)
            return lambda: {"cells": options.epochs * adata.n_obs}

        return work

    yield from timings(Case(f"SCGEN.train(), {options.epochs} epochs", about, training), options)
    yield from timings(
        predicting("SCGEN.predict_perturbation(), its control cells", about, made[0], n_controls), options
    )


def predicting(name: str, about: str, model: SCGEN, n_controls: int) -> Case:
    """Prediction of all control cells."""

    def work() -> Callable[[], dict[str, float]]:
        model.predict_perturbation(control="control", perturbation="treated")
        return lambda: {"cells": n_controls}

    return Case(name, about, always(work))
