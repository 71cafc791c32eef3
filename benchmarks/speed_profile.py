"""Where the time of a training step goes, phase by phase, beside its matrix products alone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from speed_pairs import ADAM, BATCH_SIZE, Case, Data, Line, our_vae, synchronise, timings
from torch.utils.data import default_convert

N_HIDDEN, MINI_BATCHES = 128, 20


def profile(data: Data, options: argparse.Namespace) -> Iterator[list[Line]]:
    """Processor time of each phase, over different mini-batches one after another as in training."""
    about = f"{BATCH_SIZE} simulated cells × {data.simulated.n_vars:,} genes, zero-inflated NB"
    products = partial(matrix_products, data.simulated.n_vars)
    yield from timings(Case("its matrix products alone", about, lambda _: products, None, options.repeats), options)
    for name in PHASES:
        case = Case(f"phase: {name}", about, partial(prepared, data, name, options.repeats))
        yield from timings(case, options)


def prepared(data: Data, name: str, repeats: int, pair: int) -> Callable[[], Any]:
    """Work that goes through whole steps and tells the time of one phase of them."""
    model = our_vae(data.simulated, pair)
    optimizer = torch.optim.Adam(model.module.train().parameters(), fused=True, **ADAM)
    cells = model.adata_manager.create_torch_dataset()
    rng = np.random.default_rng(pair)
    batches = [rng.choice(len(cells), BATCH_SIZE, replace=False).tolist() for _ in range(MINI_BATCHES)]
    clocks = dict.fromkeys(PHASES, 0.0)

    def work() -> Callable[[], dict[str, float]]:
        for number in range(repeats):
            one_step(model.module, optimizer, cells, batches[number % MINI_BATCHES], clocks)
        return lambda: {"cpu": clocks[name] / repeats}

    return work


def one_step(module: Any, optimizer: Any, cells: Any, chosen: list[int], clocks: dict[str, float]) -> None:
    """A training step whose phases add to the clocks."""

    def phase(name: str, run: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = run()
        synchronise()
        clocks[name] += time.process_time() - started
        return result

    tensors = phase("load a mini-batch", lambda: default_convert(cells[chosen]))
    inferred = phase("encode", lambda: module.inference(**module._get_inference_input(tensors)))
    inputs = module._get_generative_input(tensors, inferred)
    generated = phase("decode", lambda: module.generative(**inputs))
    output = phase("likelihood, its gradients and the bound", lambda: module.loss(tensors, inferred, generated))
    phase("backward through the networks", output.loss.backward)
    phase("Adam", optimizer.step)
    optimizer.zero_grad()


PHASES = (
    *("load a mini-batch", "encode", "decode", "likelihood, its gradients and the bound"),
    *("backward through the networks", "Adam"),
)


def matrix_products(n_genes: int) -> None:
    """The products of a step that are as large as mini-batch times genes times hidden units; three more are small."""
    cells, hidden = torch.ones(BATCH_SIZE, n_genes), torch.ones(BATCH_SIZE, N_HIDDEN)
    weight = torch.ones(N_HIDDEN, n_genes)
    for _ in range(3):  # the encoder and two heads of the decoder, forward
        cells @ weight.T
    for _ in range(3):  # gradients of their weights
        hidden.T @ cells
    for _ in range(2):  # and of what the heads were given
        cells @ weight.T
