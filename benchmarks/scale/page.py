"""The page of the benchmark of large data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmarks.harness.page import DASH, grid, made_by

PACKAGES = ("deltavi", "scvi-tools", "torch", "anndata", "annbatch", "h5py", "zarr", "zarrs", "numpy")
SHOWN = {
    "memory": "deltavi, in memory",
    "h5ad": "deltavi, h5ad",
    "h5ad-gzip": "deltavi, h5ad, gzip",
    "zarr": "deltavi, Zarr",
    "scvi-memory": "scvi-tools, in memory",
    "scvi-h5ad": "scvi-tools, h5ad",
    "scvi-h5ad-gzip": "scvi-tools, h5ad, gzip",
    "scvi-annbatch": "scvi-tools, annbatch",
}
STEPS = {
    "setup": "setup and model",
    "rows": "rows alone",
    "epoch": "epoch",
    "latent": "latent positions",
    "first prediction": "first prediction",
    "prediction": "next, in memory",
    "prediction to a file": "next, to a file",
    "labelled": "epoch of labels",
}
# What each is compared with: the same package in memory, and scvi-tools from the same file.
PEERS = {"h5ad": "scvi-h5ad", "h5ad-gzip": "scvi-h5ad-gzip", "memory": "scvi-memory", "zarr": "scvi-annbatch"}
COMMAND = "python -m benchmarks scale --write docs/benchmarks/scale.md"


def page(table: pd.DataFrame) -> Iterator[str]:
    """All sections."""
    yield (
        "# Large data\n\nCells of a simulated screen: ten types, in which the file is sorted, half of them control "
        "cells and half under one of four perturbations; zero-inflated negative binomial models of one hidden layer "
        "of 128 units and ten latent dimensions, mini-batches of 128, one thread. Each way is a process of its own, "
        "and one follows the other. Seconds are processor time, of all threads together, the median over "
        "runs; an epoch is `train(max_epochs=1)` on nine tenths of the cells with everything that it does before and "
        "after. *Beside memory* is the time divided by that of the same run in memory, the median over pairs with the "
        "lowest and the highest; *beside scvi-tools* is how often the time of scvi-tools on the same file is as long."
        " Files lie in the cache of the system. A prediction is of the control cells of as many types as hold about "
        "50,000; the first one also fits the model of responses, and is written to a file where the cells are in one. "
        "*Rows alone* are the mini-batches of an epoch, of which nothing is made. The *epoch of labels* is one of "
        "`LABELVI`, of cells of which a tenth have a label; *right* is the share of the others whose type it tells. "
        "scvi-tools reads a collection of annbatch, which is shuffled when it is written, by its AnnbatchDataModule."
    )
    yield (
        "Memory is the largest resident set of a step, less what the process has once it has trained on a thousand "
        "cells in memory: libraries, compiled code, a small network. It includes the cells themselves where they are "
        "in memory, and obs."
    )
    for n_cells, lines in table.groupby("cells"):
        yield f"## {n_cells:,} cells × {lines['genes'].iloc[0]:,} genes"
        yield _times(lines)
        yield _compared(lines)
        yield _memory(lines)
    yield made_by(COMMAND, PACKAGES)


def _ways(lines: pd.DataFrame) -> list[str]:
    return [way for way in SHOWN if way in set(lines["way"])]


def _times(lines: pd.DataFrame) -> str:
    """Seconds and cells a second of every step."""
    rows = []
    for way in _ways(lines):
        of_way = lines[lines["way"] == way].groupby("step")
        cpu, n_cells = of_way["cpu"].median(), of_way["n_cells"].median()
        cells = [f"{_seconds(cpu[s])} ({n_cells[s] / cpu[s]:,.0f})" if s in cpu.index else DASH for s in STEPS]
        rows.append([SHOWN[way], *cells])
    return grid(["seconds (cells a second)", *STEPS.values()], rows)


def _compared(lines: pd.DataFrame) -> str:
    """Epochs beside memory, and beside the other package."""
    of_epochs = lines[lines["step"] == "epoch"]
    epochs, walls = (of_epochs.pivot_table(index="pair", columns="way", values=of) for of in ("cpu", "wall"))
    read = lines[lines["step"] == "rows"].pivot_table(index="pair", columns="way", values="wall")
    labelled = lines[lines["step"] == "labelled"].pivot_table(index="pair", columns="way", values="cpu")
    right = lines.groupby("way")["right"].median() if "right" in lines else pd.Series(dtype=float)
    predicted = lines[lines["step"].isin(["prediction", "prediction to a file"])]
    predicted = predicted.pivot_table(index="pair", columns=["way", "step"], values="cpu")
    rows = []
    for way in _ways(lines):
        memory = "scvi-memory" if way.startswith("scvi") else "memory"
        own = _ratio(epochs, way, memory) if way != memory else DASH
        written = DASH
        if (way, "prediction to a file") in predicted and ("memory", "prediction") in predicted:
            written = _shown(predicted[way, "prediction to a file"] / predicted["memory", "prediction"])
        wall = _ratio(walls, way, memory) if way != memory else DASH
        labels = _ratio(labelled, way, memory) if way != memory else DASH
        told = f"{100 * right[way]:.1f} %" if right.get(way, np.nan) > 0 else DASH
        peer = PEERS.get(way, "")
        beside = _ratio(epochs, peer, way), _ratio(read, peer, way)
        rows.append([SHOWN[way], own, wall, *beside, written, labels, told])
    header = ["", "epoch beside memory", "the same, seconds on the clock"]
    header += ["epoch beside scvi-tools", "rows alone beside scvi-tools, seconds on the clock"]
    header += ["prediction to a file beside one in memory", "epoch of labels beside memory", "labels right"]
    return grid(header, rows)


def _ratio(values: pd.DataFrame, above: str, below: str) -> str:
    return _shown(values[above] / values[below]) if above in values and below in values else DASH


def _shown(ratios: pd.Series) -> str:
    ratios = ratios.dropna()
    if ratios.empty:
        return DASH
    spread = "" if len(ratios) == 1 else f" ({ratios.min():.2f}–{ratios.max():.2f})"
    return f"{ratios.median():.2f}{spread}"


def _memory(lines: pd.DataFrame) -> str:
    """Largest resident set of every step."""
    rows = []
    for way in _ways(lines):
        peak = lines[lines["way"] == way].groupby("step")["peak"].median()
        shown = [f"{peak[step]:,.0f}" if step in peak.index else DASH for step in [*STEPS, "libraries"]]
        rows.append([SHOWN[way], *shown])
    return grid(["peak memory, MB", *STEPS.values(), "libraries, beside these"], rows)


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
