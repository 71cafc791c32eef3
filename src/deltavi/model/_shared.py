"""Training by several processes: what they compare of a model, and who warns."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.callbacks import Callback
from scvi import REGISTRY_KEYS

from deltavi._errors import DeltaviWarning
from deltavi._types import State
from deltavi.registry.manager import DataManager
from deltavi.registry.names import names_checksum
from deltavi.train import CellSplit, Ranks, SharedTraining

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

# Digits of a checksum in messages.
DIGITS = 12


def shared(model: CountModel, ranks: Ranks, split: CellSplit, *, seed: int, settings: State) -> list[Callback]:
    """The callback of several processes, or none.

    Parameters
    ----------
    model
        Model to train.
    ranks
        Processes that train it.
    split
        Its cells.
    seed
        Seed of the training.
    settings
        What has to be the same in all processes, beside model, cells and seed.
    """
    if not ranks.several:
        return []
    manager = model._manager_of(model.adata)
    described = {
        "model": type(model).__name__,
        "cells": model.adata.n_obs,
        "genes": len(model.gene_names),
        "names of cells": names_checksum(model.adata.obs_names)[:DIGITS],
        "names of genes": _checksum("\n".join(map(str, model.gene_names)).encode()),
        "totals of cells": _checksum_of_totals(manager.cell_totals()),
        "registered columns": _checksum_of_columns(manager),
        "training cells": _checksum(split.train.tobytes()),
        "seed": seed,
        **settings,
    }
    return [SharedTraining(model.module, ranks, seed=seed, described=described)]


def _checksum_of_totals(totals: np.ndarray) -> str:
    """Checksum of the sums of counts; those of other values may differ by rounding, and are added up."""
    whole = np.rint(totals)
    return _checksum(whole.tobytes()) if np.array_equal(whole, totals) else f"{totals.sum():.5g}"


def _checksum_of_columns(manager: DataManager) -> str:
    """Checksum of everything that is registered beside the expression."""
    keys = [key for key in manager.data_registry if key != REGISTRY_KEYS.X_KEY]
    columns = (np.asarray(manager.get_from_registry(key), dtype=np.float64) for key in keys)
    return _checksum(b"".join(np.ascontiguousarray(values).tobytes() for values in columns))


def _checksum(values: bytes) -> str:
    return hashlib.sha256(values).hexdigest()[:DIGITS]


@contextmanager
def warned_by_first(ranks: Ranks) -> Iterator[None]:
    """Leave warnings of this package to rank 0."""
    if ranks.is_first:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeltaviWarning)
        yield
