"""Training in several processes: cells a second beside one process, and how far the models of both are apart.

    torchrun --nproc-per-node 2 -m benchmarks.scale.ranks --accelerator gpu

Every process reads the same simulated counts. Rank 0 trains alone while the others wait, and prints the tables.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scipy import sparse

from deltavi.model import LABELVI, MIXVI, SCGEN, VAE
from deltavi.train import present_ranks, wait_for_all
from deltavi.train._ranks import gathered

SETUP = {"condition_key": "condition", "labels_key": "cell_type"}
MODELS = {"VAE": VAE, "SCGEN": SCGEN, "LABELVI": LABELVI, "MIXVI": MIXVI}
DETERMINISTIC = {"posterior": "deterministic", "dropout_rate": 0.0, "use_batch_norm": "none"}
BLOCK = 10_000


def simulated(n_cells: int, n_genes: int) -> AnnData:
    """Counts of four cell types under two conditions, the same in every process."""
    rng = np.random.default_rng(0)
    means = rng.gamma(0.3, 1.0, n_genes) * np.exp(rng.normal(0, 0.8, (4, n_genes)))
    kind = rng.integers(0, 4, n_cells)
    starts = range(0, n_cells, BLOCK)
    blocks = [sparse.csr_matrix(rng.poisson(means[kind[i : i + BLOCK]]).astype(np.float32)) for i in starts]
    adata = AnnData(sparse.vstack(blocks, format="csr"))
    adata.obs["cell_type"] = np.array(list("abcd"))[kind]
    adata.obs["condition"] = np.array(["control", "treated"])[rng.integers(0, 2, n_cells)]
    return adata


class Clock(Callback):
    """Times at which epochs ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Note the time, once the device has finished."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def trained(
    adata: AnnData, cls: Any, options: argparse.Namespace, *, apart: bool, **settings: Any
) -> tuple[Any, float]:
    """A model, and the seconds of an epoch: the median without the first."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    ranks = {} if apart or world == 1 else {"devices": "auto", "strategy": "ddp", "num_nodes": options.nodes}
    size = options.batch_size * (world if apart and settings else 1)
    clock = Clock()
    cls.setup_anndata(adata, **SETUP)
    model = cls(adata, **settings)
    model.train(
        max_epochs=options.epochs,
        batch_size=size,
        train_size=1.0,
        callbacks=clock,
        accelerator=options.accelerator,
        enable_progress_bar=False,
        **ranks,
    )
    return model, float(np.median(np.diff(clock.ends)))


def speeds(adata: AnnData, options: argparse.Namespace) -> pd.DataFrame:
    """Cells a second of every model, together and alone."""
    rows = []
    for name, cls in MODELS.items():
        model, together = trained(adata, cls, options, apart=False)
        latents = gathered(model.get_latent_representation(indices=np.arange(100)).tobytes())
        alone = trained(adata, cls, options, apart=True)[1] if present_ranks().is_first else np.nan
        wait_for_all()
        cells = (round(adata.n_obs / seconds) if np.isfinite(seconds) else 0 for seconds in (together, alone))
        rows.append([name, *cells, alone / together, len(set(latents)) == 1])
    return pd.DataFrame(rows, columns=["model", "cells/s together", "cells/s alone", "times as fast", "same positions"])


def exactness(adata: AnnData, options: argparse.Namespace) -> pd.DataFrame:
    """Relative distance to one process with mini-batches as many times as large, without dropout and draws."""
    few = adata[: min(adata.n_obs, 20 * options.batch_size * present_ranks().world)].copy()
    models = [trained(few, VAE, options, apart=apart, **DETERMINISTIC)[0] for apart in (False, True)]
    mine, theirs = (model.module.cpu().state_dict() for model in models)
    far = max(float((mine[key] - theirs[key]).norm() / theirs[key].norm().clamp(min=1e-3)) for key in mine)
    mine, theirs = (model.history["train_loss"].to_numpy(dtype=float) for model in models)
    loss = float(np.abs(mine / theirs - 1).max())
    return pd.DataFrame({"weights": [far], "loss": [loss]}, index=["largest relative difference"])


def main() -> None:
    """Measure and print."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--accelerator", default="gpu", choices=["cpu", "gpu"])
    made.add_argument("--cells", type=int, default=50_000)
    made.add_argument("--genes", type=int, default=2000)
    made.add_argument("--epochs", type=int, default=4)
    made.add_argument("--batch-size", type=int, default=128, help="of each process")
    made.add_argument("--nodes", type=int, default=1)
    options = made.parse_args()
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        raise SystemExit("Start it by torchrun with at least two processes.")
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    adata = simulated(options.cells, options.genes)
    tables = [speeds(adata, options), exactness(adata, options)]
    if present_ranks().is_first:
        print(f"{present_ranks().world} processes, {options.accelerator}, mini-batches of {options.batch_size} each")
        print(*(table.to_string(float_format="{:.3g}".format) for table in tables), sep="\n\n", flush=True)


if __name__ == "__main__":
    main()
