"""What the benchmark of speed is made of: timings in turn, data, and the same model in both packages.

Ours and the peer's run right after each other and make a pair; who goes first alternates from pair to pair.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scvi
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scipy import sparse
from scvi.model import SCVI

from benchmarks.harness.data import KANG, UNKNOWN, build, choose_genes, kang_cells
from deltavi.model import VAE
from deltavi.pp import log_normalise

BATCH_SIZE = 128
KL_WARMUP = 0.5  # share of the epochs, the default of deltavi
# The defaults of scvi-tools' training plan, given to ours where both are to train alike.
ADAM: dict[str, Any] = {"lr": 1e-3, "eps": 0.01, "weight_decay": 1e-6}
N_PROGRAMS, DISPERSION = 8, 2.0
QUICK_CELLS, QUICK_GENES = 600, 200

Line = dict[str, Any]
# What is timed; it may return a function that gives further numbers, which is called when the clock has stopped.
Work = Callable[[], Any]
# What is not timed: from the number of the pair to the work.
Prepare = Callable[[int], Work]


@dataclass(frozen=True, eq=False)
class Case:
    """One thing to be timed.

    `about` says on what; `repeats` runs are timed as one and divided, for work of milliseconds; `warm_up` runs
    everything once before.
    """

    name: str
    about: str
    ours: Prepare
    peer: Prepare | None = None
    repeats: int = 1
    warm_up: bool = True

    @property
    def sides(self) -> dict[str, Prepare]:
        """Ours and, where there is one, the peer's."""
        return {"ours": self.ours} if self.peer is None else {"ours": self.ours, "peer": self.peer}


def timed(work: Work, threads: int, repeats: int = 1) -> dict[str, float]:
    """Processor and wall seconds of one run, and what further numbers the work has to tell."""
    gc.collect()
    torch.set_num_threads(threads)
    synchronise()
    started, clock = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        result = work()
    synchronise()
    seconds = {"cpu": time.process_time() - started, "wall": time.perf_counter() - clock}
    return {**{name: value / repeats for name, value in seconds.items()}, **(result() if callable(result) else {})}


def synchronise() -> None:
    """Wait for a device that works on its own."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turn(sides: dict[str, Any], pair: int) -> list[str]:
    """Names of the sides in the order of this pair."""
    return list(sides) if pair % 2 == 0 else list(reversed(sides))


def timings(case: Case, options: argparse.Namespace) -> Iterator[list[Line]]:
    """The lines of each pair; none of a case that is not asked for."""
    if options.only not in case.name:
        return
    for prepare in case.sides.values() if case.warm_up else ():
        timed(prepare(0), options.threads)
    for pair in range(options.pairs):
        # only one of the two models exists while it is timed
        found = {
            side: timed(case.sides[side](pair), options.threads, case.repeats) for side in in_turn(case.sides, pair)
        }
        yield lines(case.name, case.about, pair, found)


def lines(case: str, about: str, pair: int, found: dict[str, dict[str, float]]) -> list[Line]:
    """A line for each number that ours has."""
    shared = {"case": case, "about": about, "pair": pair}
    return [
        {**shared, "measure": measure, **{side: numbers[measure] for side, numbers in found.items()}}
        for measure in found["ours"]
    ]


class TrainingClock(Callback):
    """Processor and wall seconds since `start` at the end of every epoch, those of validation left out."""

    def start(self) -> None:
        """Begin to count."""
        self.times: list[np.ndarray] = []
        self.began, self.spent = now(), np.zeros(2)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Stop counting."""
        self.paused = now()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Go on, and note what training has taken so far."""
        self.spent = self.spent + (now() - self.paused)
        self.times.append(now() - self.began - self.spent)


def now() -> np.ndarray:
    """Processor and wall clock, seconds."""
    return np.array([time.process_time(), time.perf_counter()])


# -- data ----------------------------------------------------------------------------------------------------


class Data:
    """The data sets, each made when it is first asked for; a fraction of each with `options.quick`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    @cached_property
    def simulated(self) -> AnnData:
        """Counts made here."""
        options = self.options
        adata = simulated(options.cells, options.genes, options.density)
        print(f"simulated: {size(adata)}", flush=True)
        return adata

    @cached_property
    def kang(self) -> AnnData:
        """The interferon experiment, its most variable genes, half of the types hidden in `label`."""
        adata = kang_cells(self.options.data / KANG)
        adata.obs["batch"] = "one study"
        adata.obs["total_counts"] = np.asarray(adata.X.sum(1)).ravel()
        adata = self._of_size(choose_genes(adata))
        hidden = np.random.default_rng(0).permutation(adata.n_obs) < adata.n_obs // 2
        adata.obs["label"] = np.where(hidden, UNKNOWN, adata.obs["cell_type"].astype(str))
        print(f"kang: {size(adata)}", flush=True)
        return adata

    @cached_property
    def kang_logs(self) -> AnnData:
        """The same as log1p of counts per 10,000."""
        adata = same_matrix(self.kang)
        log_normalise(adata, size_factor_key="total_counts")
        return AnnData(adata.layers["log1p_cp10k"], obs=adata.obs)

    @cached_property
    def pbmc(self) -> AnnData:
        """3,000 blood cells, less than 3,000 of them."""
        return self._of_size(build("pbmc3k", self.options.data))

    def _of_size(self, adata: AnnData) -> AnnData:
        if self.options.quick:
            chosen = np.random.default_rng(0).permutation(adata.n_obs)[:QUICK_CELLS]
            expressed = np.argsort(-np.asarray(adata.X.sum(0)).ravel(), kind="stable")[:QUICK_GENES]
            adata = adata[chosen, expressed].copy()
        adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
        adata.X.sum_duplicates()
        return adata


def size(adata: AnnData) -> str:
    """Cells, genes and share of nonzero entries, for people."""
    return f"{adata.n_obs:,} cells × {adata.n_vars:,} genes, {100 * density(adata):.1f} % nonzero"


def density(adata: AnnData) -> float:
    """Share of entries that are not zero."""
    return float(adata.X.nnz / np.prod(adata.shape))


def simulated(n_cells: int, n_genes: int, share: float) -> AnnData:
    """Gamma-Poisson counts of a few programs, of which a `share` is not zero."""
    rng = np.random.default_rng(0)
    programs = rng.gamma(0.3, 1.0, (N_PROGRAMS, n_genes)) + 0.1 * rng.gamma(0.3, 1.0, n_genes)
    scale, blocks = None, []
    for start in range(0, n_cells, 2000):
        n = min(2000, n_cells - start)
        depth = rng.lognormal(0.0, 0.3, (n, 1))
        rates = depth * (rng.dirichlet(np.full(N_PROGRAMS, 0.3), n) @ programs)
        scale = scale or scale_for(rates, share)
        counts = rng.poisson(rng.gamma(DISPERSION, scale * rates / DISPERSION))
        blocks.append(sparse.csr_matrix(counts.astype(np.float32)))
    adata = AnnData(sparse.csr_matrix(sparse.vstack(blocks)))
    adata.obs_names, adata.var_names = [f"cell{i}" for i in range(n_cells)], [f"gene{i}" for i in range(n_genes)]
    return adata


def scale_for(rates: np.ndarray, share: float) -> float:
    """Factor of the rates at which so large a share of counts is expected to be positive, by bisection."""
    low, high = 1e-6, 1e6
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        positive = 1 - (1 + middle * rates / DISPERSION) ** -DISPERSION
        low, high = (low, middle) if positive.mean() > share else (middle, high)
    return low


# -- models --------------------------------------------------------------------------------------------------


def same_matrix(adata: AnnData) -> AnnData:
    """Cells that a model may write its columns into; the matrix is shared."""
    return AnnData(adata.X, obs=adata.obs.copy(), var=adata.var[[]].copy())


def our_vae(adata: AnnData, seed: int, **settings: Any) -> VAE:
    """An untrained VAE of deltavi."""
    cells = same_matrix(adata)
    VAE.setup_anndata(cells)
    return VAE(cells, seed=seed, **settings)


def peer_vae(adata: AnnData, seed: int, **settings: Any) -> SCVI:
    """An untrained SCVI, with the same defaults of width, depth and latent dimensions."""
    scvi.settings.seed = seed
    cells = same_matrix(adata)
    SCVI.setup_anndata(cells)
    return SCVI(cells, **settings)


def our_training(model: Any, epochs: int, options: argparse.Namespace, **more: Any) -> Work:
    """What trains a VAE of deltavi at the constant learning rate of scvi-tools."""
    plan = {**ADAM, "lr_schedule": "constant"}
    return lambda: trained(model, epochs, options, kl_warmup=KL_WARMUP, plan_kwargs=plan, **more)


def peer_training(model: Any, epochs: int, options: argparse.Namespace, **more: Any) -> Work:
    """What trains a model of scvi-tools, the weight of the divergence rising as in ours."""
    plan = {"n_epochs_kl_warmup": math.ceil(KL_WARMUP * epochs) or None}
    return lambda: trained(model, epochs, options, plan_kwargs=plan, **more)


def trained(model: Any, epochs: int, options: argparse.Namespace, **more: Any) -> Callable[[], dict[str, float]]:
    """Train the model; what comes back tells the bound of the last epoch."""
    model.train(
        max_epochs=epochs,
        batch_size=BATCH_SIZE,
        accelerator=options.accelerator,
        enable_progress_bar=False,
        **more,
    )
    return lambda: {"elbo_train": bounds(model, "train")[-1]}


def bounds(model: Any, part: str) -> np.ndarray:
    """Negative evidence lower bound of every epoch on the cells of `part`, nats per cell."""
    return np.asarray(model.history[f"elbo_{part}"], dtype=float).ravel()


def split_of(model: Any) -> dict[str, Any]:
    """Arguments by which a model of scvi-tools is trained and validated on the same cells as `model`."""
    return {"datasplitter_kwargs": {"external_indexing": [model.train_indices, model.validation_indices]}}


def mini_batch(model: Any) -> dict[str, torch.Tensor]:
    """The first cells as the package's own loader hands them to its module."""
    loader = model._make_data_loader(adata=model.adata, indices=np.arange(BATCH_SIZE), batch_size=BATCH_SIZE)
    tensors: dict[str, torch.Tensor] = next(iter(loader))
    return tensors
