"""Processes that an evaluation is spread over: of this machine, or of the cluster that joblib was told to use."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import joblib
from anndata import AnnData
from joblib.parallel import (
    LokyBackend,
    MultiprocessingBackend,
    SequentialBackend,
    ThreadingBackend,
    get_active_backend,
)

import deltavi
from deltavi._errors import DeltaviError

Asked = TypeVar("Asked")
Found = TypeVar("Found")

HERE = (LokyBackend, MultiprocessingBackend, SequentialBackend, ThreadingBackend)
CELLS = "cells.joblib"
# Seeds, warnings and threads are those of a process: its threads take turns.
_turn = threading.Lock()


def is_elsewhere() -> bool:
    """True where joblib's active backend is that of a cluster, as Dask's, whatever machines it has."""
    return not isinstance(get_active_backend()[0], HERE)


def spread(
    run: Callable[[AnnData, Asked], Found], adata: AnnData, tasks: Sequence[Asked], n_jobs: int, *, shared: Path | None
) -> Iterator[Found]:
    """Results of `run` for the cells and each task, as they come, by processes that read the cells from one file.

    Parameters
    ----------
    run
        Function of the cells and a task.
    adata
        The cells.
    tasks
        The tasks.
    n_jobs
        Processes of this machine; a cluster has a number of its own.
    shared
        Folder that all machines of a cluster have; None for the temporary one of this machine.
    """
    on_cluster, n = is_elsewhere(), min(n_jobs, len(tasks))
    processes = nullcontext() if on_cluster else joblib.parallel_config("loky", n_jobs=n, inner_max_num_threads=1)
    with _cells_in_file(adata, shared if on_cluster else None) as path, processes:
        yield from joblib.Parallel(n_jobs=n if on_cluster else None, return_as="generator_unordered")(
            joblib.delayed(_run_in_turn)(run, path, task, deltavi.__version__) for task in tasks
        )


@contextmanager
def _cells_in_file(adata: AnnData, shared: Path | None) -> Iterator[str]:
    """Path of a file with the cells, which is removed after the block."""
    with tempfile.TemporaryDirectory(prefix=".cells-", dir=shared, ignore_cleanup_errors=True) as folder:
        path = str(Path(folder).absolute() / CELLS)
        joblib.dump(adata, path)
        yield path


def _run_in_turn(run: Callable[[AnnData, Asked], Found], path: str, task: Asked, version: str) -> Found:
    """Result of a task, by one thread of this process at a time."""
    if version != deltavi.__version__:
        raise DeltaviError(
            f"{socket.gethostname()} has deltavi {deltavi.__version__}, and the evaluation was started by {version}: "
            "use the same environment on all machines."
        )
    with _turn:
        return run(_cells_at(path), task)


def _cells_at(path: str) -> AnnData:
    """Cells that the first process wrote; their counts are mapped, so that processes share the memory."""
    try:
        adata: AnnData = joblib.load(path, mmap_mode="r")
    except OSError as error:
        raise DeltaviError(
            f"{socket.gethostname()} cannot read {path}, by which cells are shared ({error.strerror or error}). Pass "
            "folder=..., a folder that all machines have under the same path."
        ) from error
    return adata
