"""Models through pickle, joblib and copy.deepcopy: a copy has cells and a registration of its own."""

from __future__ import annotations

from typing import Any, Self
from uuid import uuid4

from scvi.model.base import BaseModelClass

from deltavi._compat import MANAGER_UUID_KEY, SCVI_UUID_KEY, AnnDataManager
from deltavi._errors import DeltaviError

# Left behind: it holds callbacks, loaders and the training plan, and the next training makes another.
LEFT_BEHIND = "trainer"


class CopiesMixin(BaseModelClass):
    """Carries ``__getstate__``, ``__setstate__`` and ``__copy__``.

    scvi-tools keeps what it knows of an AnnData in tables of the class, under the identifiers of the model and of the
    AnnData: neither reaches another process, and a copy would share them with its original.
    """

    # whether the model comes from a file, which does not say which weights were frozen
    is_loaded_ = False
    # whether the weights are those of a reference that a query is mapped onto, most of them frozen
    is_mapped_ = False

    def __getstate__(self) -> dict[str, Any]:
        """Attributes, with the registered cells and without the trainer.

        Raises
        ------
        DeltaviError
            If the cells are read from an open file.
        """
        if self._adata is not None and self._adata.isbacked:
            raise DeltaviError(
                f"{type(self).__name__} reads its cells from {self._adata.filename}, and an open file cannot be "
                "copied: use save() and load(), or read the cells with adata.to_memory() first."
            )
        return {name: value for name, value in self.__dict__.items() if name != LEFT_BEHIND}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over attributes, and register the cells under identifiers of their own."""
        self.__dict__.update(state)
        self.id = str(uuid4())
        # hooks that keep a reference's weights where they are do not come with a copy, nor with a file
        self.is_loaded_ = self.is_loaded_ or self.is_mapped_
        if self._adata_manager is not None:
            self._register_copy(self._adata_manager)

    def __copy__(self) -> Self:
        """The same model under another name: a shallow copy shares weights, cells and registration."""
        same = type(self).__new__(type(self))
        same.__dict__.update(self.__dict__)
        return same

    def _register_copy(self, manager: AnnDataManager) -> None:
        adata = self.adata
        latest = adata.uns.get(MANAGER_UUID_KEY) == manager.id
        manager.id, own = str(uuid4()), str(uuid4())
        manager.registry[SCVI_UUID_KEY] = adata.uns[SCVI_UUID_KEY] = own
        if latest:
            adata.uns[MANAGER_UUID_KEY] = manager.id
        self._register_manager_for_instance(manager)
