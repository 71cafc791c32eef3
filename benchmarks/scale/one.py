"""What is measured of one way to hold the cells, in a process of its own: seconds and memory of every step."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from scvi.dataloaders import DataSplitter
from scvi.model import SCVI

from benchmarks.harness.command import QUIET, settle
from benchmarks.scale.cells import CONDITION_KEY, CONTROL, DONOR_KEY, TYPE_KEY, Screen
from deltavi._memory import return_freed
from deltavi.model import LABELVI, SCGEN
from deltavi.train.on_device import DeviceSplitter

SIZES: dict[str, Any] = {"n_hidden": 128, "n_layers": 1, "n_latent": 10}
BATCH_SIZE = 128
N_SMALL = 1000
# Share of cells with a label where these are to be told, and the name of no label.
LABELLED, LABEL_KEY, UNKNOWN = 0.1, "label", "unknown"
ZARRS = "zarrs.ZarrsCodecPipeline"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Way:
    """A package, and where its cells lie.

    Parameters
    ----------
    package
        ``"deltavi"`` or ``"scvi-tools"``.
    storage
        Of the file, such as ``"h5ad"``.
    path
        The file.
    in_memory
        True if the cells are read into memory first.
    n_predicted
        Control cells whose response is predicted, into a file beside this one.
    steps
        Those to measure.
    """

    package: str
    storage: str
    path: Path
    in_memory: bool
    n_predicted: int
    steps: tuple[str, ...]
    work: Path = field(default=Path())


@dataclass
class Clock:
    """Seconds of the processor and of the wall, and peak memory over the imports in MB, of each step."""

    base: float
    found: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, n_cells: int) -> Iterator[None]:
        """Measure what is done inside."""
        gc.collect()
        CLEAR.write_text("5")
        wall, started = time.perf_counter(), time.process_time()
        yield
        cpu, wall = time.process_time() - started, time.perf_counter() - wall
        self.found[name] = {"cpu": cpu, "wall": wall, "peak": memory("VmHWM") - self.base, "n_cells": n_cells}


def memory(name: str = "VmRSS") -> float:
    """Resident memory of this process, or its peak ``"VmHWM"`` since it was last reset, in MB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


def opened(way: Way) -> AnnData:
    """The cells, their counts in memory or in the file."""
    if way.in_memory:
        return anndata.read_zarr(way.path) if way.storage == "zarr" else anndata.read_h5ad(way.path)
    if way.storage != "zarr":
        return anndata.read_h5ad(way.path, backed="r")
    group = zarr.open_group(way.path, mode="r")
    return AnnData(X=sparse_dataset(group["X"]), obs=read_elem(group["obs"]), var=read_elem(group["var"]))


def measured(way: Way) -> dict[str, dict[str, float]]:
    """Every step of one way, in this process; memory is counted from a small run in memory on."""
    settle()
    torch.manual_seed(0)
    run = OF_PACKAGES[way.package]
    run(way, small_cells(), Clock(0.0))
    gc.collect()
    return_freed()
    if way.package == "annbatch":
        collection(way.path)
    clock = Clock(memory())
    with clock.step("open", 1):
        adata = opened(way)
    run(way, adata, clock)
    clock.found["libraries"] = {"peak": clock.base}
    return clock.found


def collection(zarr_path: Path) -> Path:
    """The same cells as annbatch holds them, shuffled; written beside the Zarr store unless they are there."""
    from annbatch import DatasetCollection

    path = zarr_path.with_suffix(".annbatch.zarr")
    if not path.exists():
        zarr.config.set({"codec_pipeline.path": ZARRS})
        DatasetCollection(path).add_adatas([zarr_path], rng=np.random.default_rng(0))
    return path


def small_cells() -> AnnData:
    """A few cells in memory, with which libraries and compiled code are loaded."""
    screen = Screen(N_SMALL)
    obs = screen.obs()
    return AnnData(next(screen.blocks(obs)), obs=obs)


def _of_deltavi(way: Way, adata: AnnData, clock: Clock) -> None:
    n_cells = adata.n_obs
    with clock.step("setup", n_cells):
        SCGEN.setup_anndata(adata, condition_key=CONDITION_KEY, labels_key=TYPE_KEY, batch_key=DONOR_KEY)
        model = SCGEN(adata, gene_likelihood="zinb", seed=0, **SIZES)
    if "rows" in way.steps:
        with clock.step("rows", round(0.9 * n_cells)):
            _read(DeviceSplitter(model.adata_manager, train_size=0.9, batch_size=BATCH_SIZE))
    if "epoch" in way.steps:
        with clock.step("epoch", round(0.9 * n_cells)):
            model.train(max_epochs=1, train_size=0.9, batch_size=BATCH_SIZE, **QUIET)
    if "latent" in way.steps:
        with clock.step("latent", n_cells):
            model.get_latent_representation()
    if "prediction" in way.steps:
        _predict(way, adata, model, clock)
    if "labelled" in way.steps:
        _annotate(adata, clock)


def _read(splitter: DataSplitter) -> None:
    """Mini-batches of an epoch, which nothing is made of."""
    splitter.setup()
    for _ in splitter.train_dataloader():
        pass
    splitter.teardown()


def _annotate(adata: AnnData, clock: Clock) -> None:
    """One epoch of a model of labels, a tenth of which are known, and the share of the others it tells rightly."""
    known = np.random.default_rng(0).random(adata.n_obs) < LABELLED
    adata.obs[LABEL_KEY] = pd.Categorical(np.where(known, adata.obs[TYPE_KEY], UNKNOWN))
    LABELVI.setup_anndata(adata, labels_key=LABEL_KEY, unlabeled_category=UNKNOWN, batch_key=DONOR_KEY)
    model = LABELVI(adata, gene_likelihood="zinb", seed=0, **SIZES)
    with clock.step("labelled", round(0.9 * adata.n_obs)):
        model.train(max_epochs=1, train_size=0.9, batch_size=BATCH_SIZE, **QUIET)
    told = np.asarray(model.predict(indices=np.flatnonzero(~known)))
    clock.found["labelled"]["right"] = float((told == adata.obs[TYPE_KEY].to_numpy()[~known]).mean())
    del adata.obs[LABEL_KEY]


def _predict(way: Way, adata: AnnData, model: SCGEN, clock: Clock) -> None:
    control = adata.obs[TYPE_KEY][adata.obs[CONDITION_KEY] == CONTROL].value_counts(sort=False).cumsum()
    # as many types as hold about so many control cells
    n_types = max(int((control <= 1.1 * way.n_predicted).sum()), 1)
    n_cells, labels = int(control.iloc[n_types - 1]), control.index[:n_types].tolist()
    target = adata.obs[CONDITION_KEY].cat.categories[1]
    asked: dict[str, Any] = {"control": CONTROL, "perturbation": target, "labels": labels}
    path = way.work / f"predicted{'.zarr' if way.storage == 'zarr' else '.h5ad'}"
    to_file: dict[str, Any] = {"path": path, "overwrite": True}
    # the first one fits the model of responses, which later ones use again
    with clock.step("first prediction", n_cells):
        model.predict_perturbation(**asked, **({} if way.in_memory else to_file))
    if way.in_memory:
        with clock.step("prediction", n_cells):
            model.predict_perturbation(**asked)
    with clock.step("prediction to a file", n_cells):
        model.predict_perturbation(**asked, **to_file)


def _of_scvi_tools(way: Way, adata: AnnData, clock: Clock) -> None:
    n_cells = adata.n_obs
    with clock.step("setup", n_cells):
        SCVI.setup_anndata(adata, batch_key=DONOR_KEY, labels_key=TYPE_KEY)
        model = SCVI(adata, gene_likelihood="zinb", **SIZES)
    if "rows" in way.steps:
        with clock.step("rows", round(0.9 * n_cells)):
            _read(DataSplitter(model.adata_manager, train_size=0.9, batch_size=BATCH_SIZE))
    if "epoch" in way.steps:
        with clock.step("epoch", round(0.9 * n_cells)):
            model.train(
                max_epochs=1, train_size=0.9, batch_size=BATCH_SIZE, check_val_every_n_epoch=None, logger=False, **QUIET
            )
    if "latent" in way.steps:
        with clock.step("latent", n_cells):
            model.get_latent_representation(batch_size=BATCH_SIZE)


def _of_annbatch(way: Way, adata: AnnData, clock: Clock) -> None:
    """scvi-tools with its own data module, whose loader reads a collection of annbatch."""
    if adata.n_obs == N_SMALL:
        _of_scvi_tools(way, adata, clock)
        return
    from annbatch import DatasetCollection, Loader
    from scvi.dataloaders import AnnbatchDataModule

    zarr.config.set({"codec_pipeline.path": ZARRS})
    n_cells, reading = adata.n_obs, {"chunk_size": 256, "preload_nchunks": 32, "preload_to_gpu": False}
    with clock.step("setup", n_cells):
        loader = Loader(batch_size=BATCH_SIZE, shuffle=True, to="torch", **reading)
        loader.use_collection(DatasetCollection(collection(way.path), mode="r"))
        cells = AnnbatchDataModule(loader, batch_key=DONOR_KEY, label_key=TYPE_KEY, shuffle=True, **reading)
        model = SCVI(registry=cells.registry, gene_likelihood="zinb", **SIZES)
    with clock.step("epoch", round(0.9 * n_cells)):
        model.train(datamodule=cells, max_epochs=1, train_size=0.9, check_val_every_n_epoch=None, logger=False, **QUIET)
    with clock.step("latent", n_cells):
        model.get_latent_representation(dataloader=cells)


OF_PACKAGES: dict[str, Callable[[Way, AnnData, Clock], None]] = {
    "deltavi": _of_deltavi,
    "scvi-tools": _of_scvi_tools,
    "annbatch": _of_annbatch,
}


def in_fresh_process(way: Way) -> dict[str, dict[str, float]]:
    """The same in a process that has done nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        return fresh.submit(measured, way).result()
