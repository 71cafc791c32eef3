"""Split and mini-batches that ``train`` takes of a data module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from deltavi._entries import shown
from deltavi._errors import DeltaviError, examples
from deltavi._types import State
from deltavi.dataloaders import CellsDataModule
from deltavi.dataloaders.annbatch import cells_of, is_of_annbatch, settings_of
from deltavi.dataloaders.registry import awaited
from deltavi.model._training_options import OF_FILES, SPLIT_KEYS, merged
from deltavi.registry.stored_rows import places_of

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

# Arguments of ``train``, and settings of a splitter, that a data module has of its own.
OF_SPLIT = ("train_size", "validation_size", "batch_size")
OF_MODULE = (*OF_SPLIT, "train_indices", "validation_indices", "shuffle_set_split")


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
    require_made_with(model, datamodule)
    if is_of_annbatch(datamodule):
        # of scvi-tools, where they are asked for in training
        datamodule = _translated(model, datamodule, **{name: given[name] for name in OF_SPLIT if given.get(name)})
        given = {name: value for name, value in given.items() if name not in OF_SPLIT}
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


def require_made_with(model: CountModel, datamodule: object) -> None:
    """Make a model that waits for its cells of those that `datamodule` brings, if there are any; else do nothing."""
    waiting = awaited(model)
    if waiting is not None and datamodule is not None:
        waiting.make(model, _of_this_package(_translated(model, datamodule)).registry)


def _translated(model: CountModel, datamodule: object, **options: Any) -> object:
    """Module of this package for one of annbatch, of the model's own AnnData where that reads the same stores."""
    if not is_of_annbatch(datamodule):
        return datamodule
    adata, layer = cells_of(datamodule)
    own = None if awaited(model) else model._adata
    same = own is not None and places_of(own) == places_of(adata)
    return CellsDataModule(own if same else adata, **{**settings_of(datamodule, adata), "layer": layer, **options})


def _of_this_package(datamodule: object) -> CellsDataModule:
    if isinstance(datamodule, CellsDataModule):
        return datamodule
    made = "; make one: it is a class" if isinstance(datamodule, type) else ""
    raise DeltaviError(
        f"datamodule must be a deltavi.dataloaders.CellsDataModule, or scvi-tools' AnnbatchDataModule, not "
        f"{shown(datamodule)}{made}. Other data modules "
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
