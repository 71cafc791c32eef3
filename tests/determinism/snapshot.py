"""Everything of a process and of an AnnData that must be as it was, in a form that can be compared."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from scipy import sparse

RANDOM = ("random.python", "random.numpy", "random.torch")


def equal(found: Any, expected: Any) -> bool:
    """Whether two answers are the same bit for bit, NaN beside NaN."""
    found, expected = np.asarray(found), np.asarray(expected)
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    if found.dtype == object:
        return bool(found.tolist() == expected.tolist())
    return bool(np.array_equal(found, expected, equal_nan=found.dtype.kind == "f"))


def weights(model: Any) -> dict[str, np.ndarray]:
    """Weights and buffers, with the history of training, as arrays."""
    found = {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.module.state_dict().items()}
    history = {f"history {name}": np.asarray(values) for name, values in (model.history or {}).items()}
    return {**found, **history}


# -- the process -------------------------------------------------------------------------------------------------------


def process() -> dict[str, Any]:
    """What is global to this process and may be changed from Python, by a name each."""
    numpy_state = np.random.get_state()
    return {
        "random.python": random.getstate(),
        "random.numpy": (numpy_state[1].tolist(), *numpy_state[2:]),
        "random.torch": torch.get_rng_state().tolist(),
        "warnings": (list(warnings.filters), warnings.showwarning, warnings.formatwarning),
        **_torch(),
        "numpy": (np.geterr(), np.get_printoptions()),
        "pandas": _flat(pd.options.d),
        "anndata": _settings(anndata.settings),
        "scvi": _settings(scvi.settings),
        "matplotlib": {name: repr(value) for name, value in mpl.rcParams.items()},
        **_logging(),
        "environment": dict(os.environ),
        "folder": (os.getcwd(), sorted(str(path) for path in Path.cwd().rglob("*"))),
        "interpreter": (list(sys.path), sys.excepthook, sys.getrecursionlimit(), sys.getswitchinterval()),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "collector": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "threads": sorted(thread.name for thread in threading.enumerate()),
    }


def _torch() -> dict[str, Any]:
    return {
        "torch.threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch.dtype": (torch.get_default_dtype(), torch.get_default_device(), torch.get_float32_matmul_precision()),
        "torch.gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "torch.algorithms": (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        ),
    }


def _settings(settings: Any) -> dict[str, Any]:
    """What can be set, without methods."""
    with warnings.catch_warnings():
        # of a setting that will go, by asking for it
        warnings.simplefilter("ignore")
        values = {name: getattr(settings, name) for name in dir(settings) if not name.startswith("_")}
    return {name: value for name, value in values.items() if not callable(value)}


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in options.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _logging() -> dict[str, Any]:
    """Loggers that there are; one that comes into being changes nothing for anybody."""
    manager = logging.root.manager
    known = {name: logger for name, logger in manager.loggerDict.items() if isinstance(logger, logging.Logger)}
    found = {
        f"logger {name}": (
            logger.level,
            list(logger.handlers),
            [handler.level for handler in logger.handlers],
            list(logger.filters),
            logger.propagate,
            logger.disabled,
        )
        for name, logger in {**known, "": logging.root}.items()
    }
    return {**found, "logging": manager.disable}


# -- an AnnData --------------------------------------------------------------------------------------------------------


def cells(adata: AnnData) -> dict[str, Any]:
    """Everything in `adata` but the columns and keys of registration, which are documented."""
    found: dict[str, Any] = {
        "kind": (adata.is_view, adata.isbacked, adata.shape),
        "X": _matrix(adata.X),
        "raw": None if adata.raw is None else _matrix(adata.raw.X),
    }
    for name in ("obs", "var"):
        frame = getattr(adata, name)
        own = [column for column in frame if not str(column).startswith("_scvi")]
        found[name] = (own, _values(frame.index), frame.index.name)
        found |= {f"{name}[{column!r}]": _values(frame[column]) for column in own}
    for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        table = getattr(adata, name)
        found |= {f"{name}[{key!r}]": _any(table[key]) for key in table if not str(key).startswith("_scvi")}
    return found


def _matrix(x: Any) -> Any:
    if sparse.issparse(x):
        # order of entries and all: sorting them in place is a change, too
        return (type(x), x.dtype, x.shape, *(np.asarray(part).tobytes() for part in (x.data, x.indices, x.indptr)))
    if hasattr(x, "group"):  # sparse on disk
        return _matrix(x[:])
    if x is None:
        return None
    # a view hands out an array of a class of its own
    values, kind = np.asarray(x[:]), np.ndarray if isinstance(x, np.ndarray) else type(x)
    return (kind, x.dtype, x.shape, values.tolist() if values.dtype == object else values.tobytes())


def _values(values: Any) -> Any:
    categories = None
    if isinstance(values.dtype, pd.CategoricalDtype):
        categories = (values.dtype.categories.tolist(), values.dtype.categories.dtype, values.dtype.ordered)
    return (values.dtype, categories, [(type(value), repr(value)) for value in values.tolist()])


def _any(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return {column: _values(value[column]) for column in value}
    return _matrix(value) if sparse.issparse(value) or isinstance(value, np.ndarray) else repr(value)


@contextmanager
def untouched(step: str, *adatas: AnnData, draws: bool = False) -> Iterator[None]:
    """Fail where the block changes anything of the process, or of `adatas`; `draws` allows for drawn numbers."""
    before, held = process(), [cells(adata) for adata in adatas]
    yield
    after = process()
    spared = RANDOM if draws else ()
    changed = [name for name, value in before.items() if name not in spared and after.get(name) != value]
    assert not changed, f"{step} changed {[(name, before[name], after.get(name)) for name in changed]}"
    for adata, known in zip(adatas, held, strict=True):
        now = cells(adata)
        changed = [name for name in known.keys() | now.keys() if now.get(name) != known.get(name)]
        assert not changed, f"{step} changed {sorted(changed)} of the AnnData"
