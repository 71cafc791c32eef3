"""The page of the benchmark of speed: Markdown tables from the lines of all pairs."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.harness.page import DASH, grid, versions

PACKAGES = ("deltavi", "scvi-tools", "torch")
KEY = ["row", "case", "threads"]
# Title of each table of timings, its rows, and what to know when reading it.
TIMINGS = (
    (
        "Likelihood",
        ("likelihood",),
        "Log probability of the counts, its mean over cells, and the gradients by rate, dispersion and, with zero "
        "inflation, dropout logits. Training uses the mean, for which deltavi prepares its gradients. Its loader "
        "passes the positions of nonzero counts to the likelihood; without the loader they are searched for.",
    ),
    (
        "One training step",
        ("step",),
        "Forward, backward and Adam, one hidden layer of 128 units, 10 latent dimensions. deltavi trains with torch's "
        "fused Adam, scvi-tools with the default one; the last rows use the default one in both.",
    ),
    (
        "Training",
        ("train", "short", "annotation", "scgen"),
        "`train()` as a whole on nine tenths of the cells, mini-batches of 128, no validation: the same widths, depth, "
        "latent dimensions and likelihood in both, and the constant learning rate of scvi-tools. SCVI decodes dropout "
        "logits also where its likelihood has none. The sizes of scGen are 800 units, two layers and 100 latent "
        "dimensions, with a normal likelihood of log-normalised expression; SCGEN's own are those of the other rows, "
        "on counts. LABELVI and SCANVI have half of the labels; they use them in "
        "different ways, and LABELVI includes calibration.",
    ),
    ("Latent positions", ("latent",), "The posterior means of all cells."),
)
NUMBERS = {
    "loss": "loss, nats per cell",
    "gradient": "norm of the gradients",
    "elbo_train": "negative bound, training cells",
    "elbo_validation": "negative bound, validation cells",
}


def machine() -> str:
    """Model of the processor and number of cores."""
    model, about = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if about.exists():
        names = [line.split(":", 1)[1].strip() for line in about.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores"


def made_with() -> str:
    """Machine and versions."""
    return f"{versions(PACKAGES)} on Python {platform.python_version()}; {machine()}"


def plain(value: float) -> str:
    """Three digits, without powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def seconds(value: float) -> str:
    """Seconds, or milliseconds where there is less than a tenth of one."""
    if np.isnan(value):
        return "not reached"
    return f"{plain(1000 * value)} ms" if value < 0.1 else f"{plain(value)} s"


def spread(values: pd.Series, show: Callable[[float], str] = plain) -> str:
    """Median with minimum and maximum."""
    if values.isna().any():
        return DASH
    middle = show(values.median())
    return middle if len(values) == 1 else f"{middle} ({show(values.min())}–{show(values.max())})"


def percent(share: float) -> str:
    """A relative difference; the table of pairs has six digits."""
    return f"{100 * share:+.2g} %" if abs(share) >= 1e-5 else "below 0.001 %"


def ratio(lines: pd.DataFrame) -> str:
    """scvi-tools divided by ours, pair by pair."""
    return spread(lines["peer"] / lines["ours"])


def groups(table: pd.DataFrame, rows: tuple[str, ...]) -> Iterator[tuple[list[str], dict[str, pd.DataFrame]]]:
    """Name and data of every case of the rows, and its lines by measure; more than one thread is part of the name."""
    for row in rows:
        for (_, case, threads), lines in table[table["row"] == row].groupby(KEY, sort=False):
            name = f"{case}, {threads} threads" if threads != 1 else str(case)
            yield [name, lines["about"].iloc[-1]], {str(by): rows for by, rows in lines.groupby("measure")}


def timing_rows(table: pd.DataFrame, rows: tuple[str, ...]) -> list[list[str]]:
    """Seconds of both and their ratios."""
    return [
        [
            *about,
            seconds(by["cpu"]["ours"].median()),
            seconds(by["cpu"]["peer"].median()),
            ratio(by["cpu"]),
            ratio(by["wall"]),
            str(len(by["cpu"])),
        ]
        for about, by in groups(table, rows)
    ]


def number_rows(table: pd.DataFrame) -> list[list[str]]:
    """Means of what both computed, and how far apart they are."""
    found = []
    for about, by in groups(table, ("likelihood", "same", "train", "elbo")):
        for measure in [name for name in NUMBERS if name in by]:
            ours, peer = by[measure]["ours"].mean(), by[measure]["peer"].mean()
            values = f"{ours:.6g}", f"{peer:.6g}", percent((ours - peer) / abs(peer))
            found.append([about[0], NUMBERS[measure], *values, str(len(by[measure]))])
    return found


def target_rows(table: pd.DataFrame) -> list[list[str]]:
    """Seconds and epochs until a bound is reached; medians only where every seed reached it."""
    found = []
    for about, by in groups(table, ("target",)):
        missed = by["cpu"]["ours"].isna().sum()
        times = [seconds(by["cpu"][side].median(skipna=False)) for side in ("ours", "peer")]
        times[0] += f" by {missed} of {len(by['cpu'])}" if missed else ""
        epochs = [spread(by["epoch"][side], "{:.0f}".format) for side in ("ours", "peer")]
        found.append([*about, *times, ratio(by["cpu"]), *epochs, str(len(by["cpu"]))])
    return found


def bound_rows(table: pd.DataFrame) -> list[list[str]]:
    """Bounds that both trainings came to."""
    for about, by in groups(table, ("target",)):
        numbers = {"elbo_last": "of the last epoch", "elbo_lowest": "lowest of all epochs", "epochs": "epochs trained"}
        return [
            [name, about[1], *(f"{by[measure][side].mean():.6g}" for side in ("ours", "peer"))]
            for measure, name in numbers.items()
        ]
    return []


def predict_rows(table: pd.DataFrame) -> list[list[str]]:
    """Cells per second."""
    found = []
    for about, by in groups(table, ("predict", "atlas", "few")):
        cells = by["cells"]["ours"].iloc[0]
        speed = [spread(cells / by[clock]["ours"]) for clock in ("cpu", "wall")]
        found.append([*about, seconds(by["cpu"]["ours"].median()), *speed, str(len(by["cpu"]))])
    return found


def alone_rows(table: pd.DataFrame, rows: tuple[str, ...]) -> list[list[str]]:
    """Seconds of deltavi alone."""
    return [
        [*about, *(spread(by[clock]["ours"], seconds) for clock in ("cpu", "wall")), str(len(by["cpu"]))]
        for about, by in groups(table, rows)
    ]


def page(table: pd.DataFrame) -> Iterator[str]:
    """Sections of the page, from the lines of all pairs."""
    if table.empty:
        yield "# Speed"
        return
    several = "; with several, the wall clock is more informative, as processor time is their sum"
    yield (
        "# Speed\n\ndeltavi compared with scvi-tools on one machine. Both run in one process, one right after the "
        "other; such a pair is repeated in alternating order. *Times as fast* is the time of scvi-tools divided by "
        "that of deltavi: the median over pairs, with the lowest and the highest. It is quoted from processor time, "
        "because other programs may run on the machine; the same ratio by the wall clock is given too. Seconds "
        "are medians of processor time. Everything runs in one thread unless a row says otherwise"
        f"{several if table['threads'].max() > 1 else ''}. Simulated counts are gamma-Poisson and about 10 % of them "
        "are not zero; *kang* is the interferon experiment of Kang et al. (2018), the 2,000 most variable genes."
    )
    yield from timing_sections(table)
    yield from other_sections(table)
    yield from provenance(table)


def timing_sections(table: pd.DataFrame) -> Iterator[str]:
    """The tables of timings."""
    header = ["", "", "deltavi", "scvi-tools", "times as fast", "by the wall clock", "pairs"]
    for title, rows, note in TIMINGS:
        if found := timing_rows(table, rows):
            yield f"## {title}\n\n{note}\n\n{grid(header, found, n_text=2)}"


def other_sections(table: pd.DataFrame) -> Iterator[str]:
    """The tables of everything else."""
    for title, note, header, rows in OTHERS:
        if found := rows(table):
            yield f"## {title}\n\n{note}\n\n{grid(['', '', *header], found, n_text=2)}"
        if found and rows is target_rows:
            yield grid(["negative bound, nats per cell", "", "deltavi", "SCVI"], bound_rows(table), n_text=2)


# Title of every other table, what to know when reading it, its columns of numbers, and its rows.
OTHERS: tuple[tuple[str, str, list[str], Callable[[pd.DataFrame], list[list[str]]]], ...] = (
    (
        "Time to the same bound",
        "Both train with their own defaults, of epochs and learning rate too, on the same cells, and after every epoch "
        "the bound on the validation cells is noted, from one draw per cell. Time spent in validation counts for "
        "neither. The weight of the divergence rises over half of deltavi's epochs and over 400 epochs in SCVI; it "
        "does not enter the bound that is compared. The schedule of deltavi was chosen on these cells among others, so "
        "that its times are somewhat optimistic; SCVI's last bound lies above its lowest, as it overfits.",
        ["deltavi", "SCVI", "times as fast", "epoch of deltavi", "of SCVI", "seeds"],
        target_rows,
    ),
    (
        "The same numbers",
        "Means over pairs or seeds. Trainings share no random numbers, so that they agree as two seeds do; after a few "
        "epochs seeds differ by more than in the end.",
        ["deltavi", "scvi-tools", "difference", "n"],
        number_rows,
    ),
    (
        "Where the time of a step goes",
        "Phases of a step over changing mini-batches, beside the time of its large matrix products alone. Loading cuts "
        "the cells from a sparse matrix; loss and gradients are made in one go, products included.",
        ["processor", "wall clock", "runs"],
        partial(alone_rows, rows=("phases",)),
    ),
    (
        "First use",
        "Loops are compiled when they are first needed, and kept on disk. A process of its own, in which nothing else "
        "is timed.",
        ["processor", "wall clock", "runs"],
        partial(alone_rows, rows=("cold",)),
    ),
    (
        "Prediction",
        "Control cells into stimulated ones; scvi-tools has no such model. Beside it a training of the same cells, of "
        "which each counts once in every epoch.",
        ["deltavi", "cells per second", "by the wall clock", "runs"],
        predict_rows,
    ),
)


def provenance(table: pd.DataFrame) -> Iterator[str]:
    """Commands, versions and machine of all lines."""
    for (command, made), lines in table.groupby(["command", "made_with"], sort=False):
        whole = len(lines) == len(table)
        what = "Made" if whole else f"Rows {', '.join(lines['row'].unique())} made"
        yield f"{what} by `{command}` with {made}."
