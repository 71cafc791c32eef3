"""Private or moving names of scvi-tools, lightning and anndata, used in this file only.

Tested with scvi-tools 1.4.2 and 1.5, lightning 2.6, anndata 0.12 and 0.13.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import partial

from anndata import AnnData
from lightning.pytorch.loops.fetchers import _DataFetcher as DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop as TrainingEpochLoop
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector as AcceleratorConnector
from scvi import distributions as scvi_distributions
from scvi.data import AnnDataManager
from scvi.data._anntorchdataset import AnnTorchDataset
from scvi.data._constants import (
    _ADATA_MINIFY_TYPE_UNS_KEY as ADATA_MINIFY_TYPE_UNS_KEY,
)
from scvi.data._constants import (
    _DATA_REGISTRY_KEY as DATA_REGISTRY_KEY,
)
from scvi.data._constants import (
    _FIELD_REGISTRIES_KEY as FIELD_REGISTRIES_KEY,
)
from scvi.data._constants import (
    _MANAGER_UUID_KEY as MANAGER_UUID_KEY,
)
from scvi.data._constants import (
    _MODEL_NAME_KEY as MODEL_NAME_KEY,
)
from scvi.data._constants import (
    _SCVI_UUID_KEY as SCVI_UUID_KEY,
)
from scvi.data._constants import (
    _SCVI_VERSION_KEY as SCVI_VERSION_KEY,
)
from scvi.data._constants import (
    _SETUP_ARGS_KEY as SETUP_ARGS_KEY,
)
from scvi.data._constants import (
    _SETUP_METHOD_NAME as SETUP_METHOD_KEY,
)
from scvi.data._constants import (
    _STATE_REGISTRY_KEY as STATE_REGISTRY_KEY,
)
from scvi.data._constants import (
    _SUMMARY_STATS_KEY as SUMMARY_STATS_KEY,
)
from scvi.distributions._negative_binomial import log_nb_positive, log_zinb_positive
from scvi.model import SCVI
from scvi.model._utils import _init_library_size as init_library_size
from scvi.model.base._constants import SAVE_KEYS
from scvi.module._constants import MODULE_KEYS
from scvi.train import LoudEarlyStopping, TrainingPlan
from scvi.train._logger import SimpleExperiment, SimpleLogger
from torch.nn.parallel import DistributedDataParallel as DDP

from deltavi._types import State

# scvi-tools' likelihoods take a count below this for zero, and add it inside logarithms
SMALLEST_COUNT = 1e-8

# torch renames the setting by which processes send each other their buffers at every step
_SENDING = [name for name in ("forward_sync_buffers", "broadcast_buffers") if name in inspect.signature(DDP).parameters]
OWN_BUFFERS: State = {_SENDING[0]: False}


def make_actual(view: AnnData) -> None:
    """Turn a view into an AnnData of its own, as anndata does itself when a view is written to."""
    view._init_as_actual(view.copy())


def put_back_tables(adata: AnnData, *, obs: object, var: object) -> None:
    """Give an AnnData the tables that it had; to assign those that are read lazily warns of their columns."""
    adata._obs, adata._var = obs, var


def parts_of_task(task: object) -> Iterator[object]:
    """Functions and values that a task of a Dask graph consists of; its form differs between versions of dask."""
    if isinstance(task, Mapping):
        inner = [*task.values()]
    elif isinstance(task, list | tuple | set):
        inner = [*task]
    else:
        yield task
        inner = [getattr(task, name, None) for name in ("func", "args", "kwargs", "value", "dsk")]
        # an object of another kind may have attributes of these names that lead back to it
        inner = [] if isinstance(task, partial) or not type(task).__module__.startswith("dask") else inner
    for part in inner:
        yield from parts_of_task(part)


def is_blockwise(layer: object) -> bool:
    """True of a layer of a Dask graph whose tasks are all of one form."""
    return type(layer).__name__ == "Blockwise"


def element_of(part: object) -> tuple[object, str] | None:
    """File, or matrix in Zarr, and name in it that anndata's reader of lazy chunks reads; ``None`` of all else."""
    if not isinstance(part, partial) or len(part.args) != 2:
        return None
    is_reader = part.func.__name__ == "make_dask_chunk" and part.func.__module__.startswith("anndata.")
    return (part.args[0], str(part.args[1])) if is_reader else None


__all__ = [
    "ADATA_MINIFY_TYPE_UNS_KEY",
    "DATA_REGISTRY_KEY",
    "FIELD_REGISTRIES_KEY",
    "MANAGER_UUID_KEY",
    "MODEL_NAME_KEY",
    "MODULE_KEYS",
    "OWN_BUFFERS",
    "SAVE_KEYS",
    "SCVI",
    "SCVI_UUID_KEY",
    "SCVI_VERSION_KEY",
    "SETUP_ARGS_KEY",
    "SETUP_METHOD_KEY",
    "SMALLEST_COUNT",
    "STATE_REGISTRY_KEY",
    "SUMMARY_STATS_KEY",
    "AcceleratorConnector",
    "AnnDataManager",
    "AnnTorchDataset",
    "DataFetcher",
    "LoudEarlyStopping",
    "SimpleExperiment",
    "SimpleLogger",
    "TrainingEpochLoop",
    "TrainingPlan",
    "element_of",
    "init_library_size",
    "is_blockwise",
    "log_nb_positive",
    "log_zinb_positive",
    "make_actual",
    "parts_of_task",
    "put_back_tables",
    "scvi_distributions",
]
