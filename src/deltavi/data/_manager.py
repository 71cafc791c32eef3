"""Data manager: hands out a loadable matrix without touching the user's, and keeps cells in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scvi import REGISTRY_KEYS
from torch.utils.data import Subset

from deltavi._compat import AnnDataManager, AnnTorchDataset
from deltavi.data._matrix import loadable


class OrderedDataset(AnnTorchDataset):  # type: ignore[misc]
    """Mini-batches in the order that was asked for, also from a backed file.

    h5py wants increasing, distinct rows, and scvi-tools leaves them sorted; a prediction for chosen cells would
    come back in another order than the cells.
    """

    def __getitem__(self, indexes: int | list[int] | slice) -> dict[str, Any]:
        if isinstance(indexes, slice):
            return _writable(super().__getitem__(indexes))
        rows, inverse = np.unique(np.atleast_1d(np.asarray(indexes)), return_inverse=True)
        loaded = _writable(super().__getitem__(rows))
        if np.array_equal(inverse, np.arange(len(inverse))):
            return loaded
        return {key: value[inverse] for key, value in loaded.items()}


def _writable(loaded: dict[str, Any]) -> dict[str, Any]:
    """Copies of what is read-only: pandas 3 hands out columns that torch would warn of writing to."""
    read_only = [key for key, value in loaded.items() if isinstance(value, np.ndarray) and not value.flags.writeable]
    return {**loaded, **{key: loaded[key].copy() for key in read_only}}


class DataManager(AnnDataManager):  # type: ignore[misc]
    """scvi-tools' manager with the expression matrix converted beside the user's object where needed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._converted: tuple[Any, Any] | None = None

    def get_from_registry(self, registry_key: str) -> Any:
        data = super().get_from_registry(registry_key)
        return self._loadable(data) if registry_key == REGISTRY_KEYS.X_KEY else data

    def _loadable(self, source: Any) -> Any:
        # a backed AnnData makes a new wrapper on every access, an in-memory one returns the same object
        backed = bool(self.adata is not None and self.adata.isbacked)
        if self._converted is None or not (backed or self._converted[0] is source):
            self._converted = (source, loadable(source, where="The expression matrix", quiet=True))
        return self._converted[1]

    def create_torch_dataset(
        self,
        indices: Sequence[int] | Sequence[bool] | None = None,
        data_and_attributes: list[str] | dict[str, Any] | None = None,
        load_sparse_tensor: bool = False,
    ) -> Any:
        dataset = OrderedDataset(self, getitem_tensors=data_and_attributes, load_sparse_tensor=load_sparse_tensor)
        return dataset if indices is None else Subset(dataset, indices)
