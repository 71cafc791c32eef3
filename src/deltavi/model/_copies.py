"""Models through pickle, joblib and copy.deepcopy: a copy has cells and a registration of its own.

scvi-tools keeps tables of the registered AnnData in the class, under the identifiers of the model and of the AnnData:
neither reaches another process, and a copy would share them with its original.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from deltavi._compat import MANAGER_UUID_KEY, SCVI_UUID_KEY, AnnDataManager
from deltavi._errors import DeltaviError
from deltavi._types import State

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

# Left behind: it holds callbacks, loaders and the training plan, and the next training makes another.
LEFT_BEHIND = "trainer"


def state_of(model: CountModel) -> State:
    """Attributes, with the registered cells and without the trainer.

    Raises
    ------
    DeltaviError
        If the cells are read from an open file.
    """
    # a file of HDF5 that is read lazily stays open as well
    if model._adata is not None and model._adata.filename is not None:
        raise DeltaviError(
            f"{type(model).__name__} reads its cells from {model._adata.filename}, and an open file cannot be "
            "copied: use save() and load(), or read the cells with adata.to_memory() first."
        )
    return {name: value for name, value in vars(model).items() if name != LEFT_BEHIND}


def restore(model: CountModel, state: State) -> None:
    """Take over attributes, and register the cells under identifiers of their own."""
    vars(model).update(state)
    model.id = str(uuid4())
    # hooks that keep a reference's weights where they are do not come with a copy, nor with a file
    model.is_loaded_ = model.is_loaded_ or model.is_mapped_
    if model._adata_manager is not None:
        _register_copy(model, model._adata_manager)


def _register_copy(model: CountModel, manager: AnnDataManager) -> None:
    adata = model.adata
    latest = adata.uns.get(MANAGER_UUID_KEY) == manager.id
    manager.id, own = str(uuid4()), str(uuid4())
    manager.registry[SCVI_UUID_KEY] = adata.uns[SCVI_UUID_KEY] = own
    if latest:
        adata.uns[MANAGER_UUID_KEY] = manager.id
    model._register_manager_for_instance(manager)
