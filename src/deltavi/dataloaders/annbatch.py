"""Cells behind scvi-tools' data module of annbatch: its collections are read where they lie."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import zarr
from anndata import AnnData
from anndata.abc import CSRDataset

from deltavi._compat import SETUP_ARGS_KEY
from deltavi._entries import shown
from deltavi._errors import DeltaviError, examples
from deltavi._types import State
from deltavi.pp.concat import concat_lazy
from deltavi.registry.columns import column
from deltavi.registry.joined import store_of

NAME = "AnnbatchDataModule"
# Arguments of the same names in its registry and here.
COLUMNS = ("batch_key", "labels_key", "categorical_covariate_keys", "continuous_covariate_keys")


def is_of_annbatch(module: object) -> bool:
    """True of scvi-tools' data module of annbatch, which may not be installed."""
    return any(kind.__name__ == NAME and kind.__module__.startswith("scvi.") for kind in type(module).__mro__)


def cells_of(module: object) -> tuple[AnnData, str | None]:
    """All cells of a data module of annbatch in the stores that it reads, one below the other, and their layer.

    Raises
    ------
    DeltaviError
        If `module` is none, or its matrices do not lie in stores of AnnData.
    """
    if not is_of_annbatch(module):
        raise DeltaviError(f"datamodule must be scvi-tools' {NAME}, not {shown(module)}.")
    matrices = [*getattr(getattr(module, "dataset", None), "_train_datasets", [])]
    places = [_place(matrix) for matrix in matrices]
    stores, elements = [store for store, _ in places], sorted({element for _, element in places})
    if len(elements) != 1:
        raise DeltaviError(f"{NAME} reads {examples(elements) or 'no matrix'}: all stores must give the same one.")
    element = elements[0]
    layer = None if element == "X" else element.removeprefix("layers/")
    return concat_lazy(stores), layer


def settings_of(module: object, adata: AnnData) -> State:
    """Columns, split and size of mini-batches of a data module of annbatch, as arguments of one of this package."""
    setup: State = getattr(module, "registry", {}).get(SETUP_ARGS_KEY, {})
    found: State = {name: setup[name] for name in COLUMNS if setup.get(name) is not None}
    unlabeled, labels = getattr(module, "unlabeled_category", None), found.get("labels_key")
    # its default is a name that no cell need have
    if labels is not None and unlabeled is not None and (np.asarray(column(adata, labels), str) == unlabeled).any():
        found["unlabeled_category"] = unlabeled
    return {
        **found,
        "train_size": getattr(module, "train_size", None),
        "batch_size": getattr(module, "batch_size", None),
    }


def _place(matrix: object) -> tuple[Path, str]:
    """Store of the AnnData that a matrix belongs to, and its place in there."""
    root = store_of(matrix)
    inside = PurePosixPath("/", matrix.group.name if isinstance(matrix, CSRDataset) else getattr(matrix, "path", ""))
    depth = 2 if inside.parent.name == "layers" else 1
    if root is None or not isinstance(matrix, CSRDataset | zarr.Array) or len(inside.parts) <= depth:
        raise DeltaviError(
            f"{NAME} holds a matrix that is no part of an AnnData in a Zarr store, {shown(matrix)}. Make a "
            "deltavi.dataloaders.CellsDataModule of the AnnData itself."
        )
    store = inside.parents[depth - 1]
    return root / store.relative_to("/"), str(inside.relative_to(store))
