"""Split and mini-batches that ``train`` takes of a data module."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from deltavi._entries import shown
from deltavi._errors import DeltaviError, examples
from deltavi._types import State
from deltavi.dataloaders import CellsDataModule
from deltavi.model._training_options import OF_FILES, SPLIT_KEYS, merged

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

# Arguments of ``train``, and settings of a splitter, that a data module has of its own.
OF_MODULE = ("train_size", "validation_size", "train_indices", "validation_indices", "batch_size", "shuffle_set_split")


# Training and validation cells, the size of mini-batches if any is named, and settings of the data splitter.
Asked: TypeAlias = tuple[State, int | None, State]


def asked_of_module(model: CountModel, datamodule: object, given: State, loading: object) -> Asked:
    """Split, size of mini-batches and settings of the splitter, of `datamodule`.

    Parameters
    ----------
    model
        Model to train.
    datamodule
        As it was passed.
    given
        Other arguments of ``train``.
    loading
        ``datasplitter_kwargs`` of ``train``.

    Raises
    ------
    DeltaviError
        If it is no :class:`~deltavi.dataloaders.CellsDataModule`, holds other cells than the model, or an argument
        is one that it has of its own.
    """
    module = _of_this_package(datamodule)
    settings = merged("datasplitter", None, loading)
    own = [name for name in OF_MODULE if given.get(name) is not None]
    own += [f"datasplitter_kwargs[{name!r}]" for name in settings if name in (*SPLIT_KEYS, *OF_FILES)]
    if own:
        raise DeltaviError(
            f"{examples(own)} beside datamodule: split and mini-batches are those of the module. Make a "
            f"{type(module).__name__} with them, or leave datamodule out."
        )
    _require_its_cells(model, module)
    parts = {"train_indices": module.train_idx, "validation_indices": module.val_idx}
    return parts, module.batch_size, {**settings, **module.reading}


def _of_this_package(datamodule: object) -> CellsDataModule:
    if isinstance(datamodule, CellsDataModule):
        return datamodule
    made = "; make one: it is a class" if isinstance(datamodule, type) else ""
    raise DeltaviError(
        f"datamodule must be a deltavi.dataloaders.CellsDataModule, not {shown(datamodule)}{made}. Other data modules "
        "hand out mini-batches alone, without names of cells, conditions and a split at random, and models of "
        "scvi-tools train from them. Sparse Zarr stores and several files are read by CellsDataModule too: see "
        "deltavi.pp.concat_lazy."
    )


def _require_its_cells(model: CountModel, module: CellsDataModule) -> None:
    """Raise where the cells of the model are not those of the module, or were set up with other columns."""
    name = type(model).__name__
    if model._adata is None:
        raise DeltaviError(
            f"The model has no cells. Make it with them, {name}(registry=datamodule.registry), or give a model from a "
            "file the cells of the module, model.adata = datamodule.adata."
        )
    if model._adata is not module.adata:
        here, there = model._adata.shape, module.adata.shape
        raise DeltaviError(
            f"datamodule holds {there[0]} cells and {there[1]} genes of another AnnData than the model, which has "
            f"{here[0]} and {here[1]}. Make the model with {name}(registry=datamodule.registry), or the module of "
            "model.adata."
        )
    differ = [key for key, value in module.columns.given().items() if model._setup_argument(key) != (value or None)]
    if differ:
        raise DeltaviError(
            f"{examples(differ)} of datamodule differ from what the model was set up with. Make the model with "
            f"{name}(registry=datamodule.registry)."
        )
