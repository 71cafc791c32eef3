"""Damage the obs of an h5ad file at random: each is refused, or means what the values that were read mean.

``python tests/fuzzing/fuzz_obs.py --n 100000 --seed 1`` prints a table of what became of them, and how many it tried
in a second; its exit status is one where setting up or predicting raised anything but an error of this package, gave
another answer than the same values in a fresh table, or took too long. What anndata itself cannot read is counted
apart. A failure is named by kind and seed, and ``--kind codes --only 17`` repeats it.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, write_elem
from scipy import sparse

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deltavi.errors import DeltaviError
from deltavi.model import LABELVI
from tests.fuzzing.obs_damages import ALL_KINDS, IN_MEMORY, KEYS, KINDS, N_CELLS, N_GENES, clean_obs, in_memory
from tests.io import fuzz_model_files

# Of the processor: that of a machine with other work to do counts for nothing.
SECONDS = 5.0
OUTCOMES = ("unread", "refused", "equal", "different", "error", "slow")


def cells(obs: pd.DataFrame) -> AnnData:
    """The same counts with this obs; anndata may refuse it."""
    counts = np.random.default_rng(0).poisson(2.0, (N_CELLS, N_GENES)).astype(np.float32)
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]))


def file_image() -> bytes:
    """An h5ad file of the clean obs."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        obs = clean_obs()
        obs["batch"] = obs["batch"].astype(object)
        write_elem(file, "obs", obs.drop(columns="batch"))
        group = file["obs"].create_group("batch")
        group["values"] = np.asarray(clean_obs()["batch"], dtype=object)
        group["values"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        group["mask"] = np.zeros(N_CELLS, dtype=bool)
        group["mask"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        group.attrs.update({"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"})
        group.attrs["na-value"] = "NA"
        file["obs"].attrs["column-order"] = np.asarray(list(clean_obs()), dtype=object)
    return buffer.getvalue()


class Report(fuzz_model_files.Report):
    """What became of the damages of each kind, and the failures."""

    outcomes = OUTCOMES


def fitted() -> LABELVI:
    """A model of the clean cells, asked about cells that are called otherwise."""
    adata = cells(clean_obs().set_axis([f"t{row}" for row in range(N_CELLS)]))
    LABELVI.setup_anndata(adata, **KEYS, unlabeled_category="none")
    model = LABELVI(adata, n_hidden=4, n_latent=2)
    model.train(max_epochs=1, batch_size=24, train_size=0.5, accelerator="cpu", enable_progress_bar=False)
    return model


def damaged(image: bytes, kind: str, seed: int) -> AnnData:
    """Cells as anndata reads them after a damage; raises whatever anndata does."""
    rng = np.random.default_rng(seed)
    if kind == IN_MEMORY:
        return cells(in_memory(clean_obs(), rng))
    with h5py.File(io.BytesIO(image), "r+") as file:
        KINDS[kind](file["obs"], rng)
        return cells(read_elem(file["obs"]))


def told_anew(adata: AnnData) -> AnnData:
    """The same values in a table that was made from them."""
    columns = []
    for place in range(adata.obs.shape[1]):
        if getattr(adata.obs.dtypes.iloc[place], "kind", "") == "V":
            columns.append(adata.obs.iloc[:, place])  # records are nothing else
            continue
        values = np.empty(adata.n_obs, dtype=object)
        values[:] = adata.obs.iloc[:, place].astype(object).tolist()
        columns.append(pd.Series(values, index=pd.Index(adata.obs_names.tolist(), dtype=object), dtype=object))
    # names may repeat
    obs = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=adata.obs_names)
    obs.columns = adata.obs.columns
    return cells(obs)


def answers(model: LABELVI, adata: AnnData) -> tuple[str, Any]:
    """Whether a model can be set up on these cells, and what a trained one says of them."""
    try:
        LABELVI.setup_anndata(adata.copy(), **KEYS, unlabeled_category="none")
        registered = "set up"
    except DeltaviError as error:
        registered = type(error).__name__
    try:
        return registered, model.predict(adata, soft=True).to_numpy()
    except DeltaviError as error:
        return registered, type(error).__name__


def outcome_of(model: LABELVI, adata: AnnData) -> tuple[str, float, str]:
    """What cells that were read lead to; seconds that took; and the error."""
    started = time.process_time()
    try:
        registered, said = answers(model, adata)
    except Exception as error:
        return "error", time.process_time() - started, f"{type(error).__name__}: {error}"
    seconds = time.process_time() - started
    if seconds > SECONDS:
        # the garbage of all tests before it may have been collected in between: what is slow is so twice
        started = time.process_time()
        answers(model, adata)
        seconds = time.process_time() - started
    if seconds > SECONDS:
        return "slow", seconds, ""
    if isinstance(said, np.ndarray) and not (said.shape == (adata.n_obs, 2) and np.isfinite(said).all()):
        return "different", seconds, f"an answer of shape {said.shape}"
    expected = answers(model, told_anew(adata))
    same = registered == expected[0] and type(said) is type(expected[1]) and bool(np.all(said == expected[1]))
    if not same:
        return "different", seconds, f"{registered}, {said}; the same values anew: {expected}"
    return ("refused" if isinstance(said, str) else "equal"), seconds, ""


def fuzz(model: LABELVI, tasks: Iterable[tuple[str, int]], report: Report) -> None:
    """Try damages, given as kind and seed."""
    image = file_image()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, seed in tasks:
            started = time.process_time()
            try:
                adata = damaged(image, kind, seed)
            except Exception:
                report.add(kind, "unread", 0.0, "")
                continue
            finally:
                read = time.process_time() - started
            outcome, seconds, told = outcome_of(model, adata)
            report.add(kind, outcome, max(seconds, read), f"--kind {kind} --only {seed}: {outcome}, {told}")


def tasks(n: int, seed: int, kinds: Iterable[str] = ALL_KINDS) -> list[tuple[str, int]]:
    """`n` damages with seeds of their own, every kind in turn."""
    names = list(kinds)
    return [(names[i % len(names)], seed * 1_000_000_007 + i) for i in range(n)]


def main() -> int:
    """Run the damages that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=ALL_KINDS, action="append", help="by default all")
    parser.add_argument("--only", type=int, help="seed of the one damage to repeat, of one kind")
    given = parser.parse_args()
    logging.getLogger("deltavi").setLevel(logging.ERROR)
    kinds = given.kind or list(ALL_KINDS)
    todo = tasks(given.n, given.seed, kinds) if given.only is None else [(kinds[0], given.only)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fitted()
    report, started = Report(), time.perf_counter()
    fuzz(model, todo, report)
    seconds = time.perf_counter() - started
    print(f"{report.table()}\n\n{len(todo) / seconds:.0f} a second; slowest {report.slowest:.2f} s")
    print("\n".join(report.failures[:20]))
    return int(bool(report.failures))


if __name__ == "__main__":
    raise SystemExit(main())
