"""Save, load and map queries: safe files in place of scvi-tools' pickles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anndata
import scvi
import torch
from anndata import AnnData
from torch.overrides import TorchFunctionMode

import deltavi
from deltavi._compat import SETUP_ARGS_KEY
from deltavi._devices import chosen_device
from deltavi._entries import flag, init_keywords, require_anndata
from deltavi._errors import DeltaviError, ModelFileError
from deltavi._former_names import current_init, current_state
from deltavi._types import State
from deltavi.io import read_model, resolved, saved_cells, write_model
from deltavi.model._aligned import in_gene_order
from deltavi.model._saving import cells_writer, require_free, require_save_keywords
from deltavi.registry.tables import tables_read

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

    PathLike = str | os.PathLike[str]

Model = TypeVar("Model", bound="CountModel")

SAVED_ATTRIBUTES = (
    *("is_trained_", "is_mapped_", "trained_on_", "train_indices_", "validation_indices_", "test_indices_"),
    "history_",
)
# Calls of torch, for each tensor of a file, that building its module may take; ours take fewer than ten.
CALLS_PER_TENSOR = 100
# Whole numbers of a file that are no sizes of a module, and what others may be at most where there are few weights.
NO_SIZES = ("seed", "n_cells")
ANY_SIZE = 1_000_000


def save(
    self: CountModel, dir_path: PathLike, *, overwrite: bool = False, save_anndata: bool = False, **write_kwargs: Any
) -> None:
    """Write the model to a folder: safetensors, JSON and checksums, in one atomic step.

    Parameters
    ----------
    dir_path
        Folder to create. ``~`` is the home folder.
    overwrite
        Write to the folder though it exists. A model of this package that is there is replaced, once the new one
        is complete. Other files in it stay, and so do files of the former model that were changed since.
    save_anndata
        Also write the model's AnnData, as ``adata.h5ad`` in the folder: :meth:`load` attaches it.
    **write_kwargs
        With `save_anndata`, arguments of :meth:`anndata.AnnData.write_h5ad`.

    Raises
    ------
    ModelFileError
        If the folder exists and `overwrite` is not set, it is a file, or has a ``manifest.json`` of something else.
    ModelWriteError
        If the disk is full or the folder read-only; a model that was there before stays as it was.
    UnknownArgumentError
        If there is no such argument.
    DeltaviError
        If `save_anndata` is set and the model has no data, or these cannot be written.
    """
    overwrite, save_anndata = flag("overwrite", overwrite), flag("save_anndata", save_anndata)
    require_save_keywords(write_kwargs, save_anndata=save_anndata)
    target = require_free(dir_path, overwrite=overwrite)
    if save_anndata and self._adata is not None:
        # with changed cells the file would be one of another model
        self.adata_manager.validate()
    description = {
        "class": type(self).__name__,
        "versions": {"deltavi": deltavi.__version__, "scvi-tools": scvi.__version__, "torch": torch.__version__},
        "init_params": self.init_params_,
        "registry": _plain_registry(self.registry_),
        "attributes": {name: getattr(self, name) for name in SAVED_ATTRIBUTES},
        # of a part that is None nothing is kept
        "extra": {key: value for part in self.keeps for key, value in part.saved(self).items()},
    }
    cells = cells_writer(self._adata, write_kwargs) if save_anndata else None
    # an AnnData that is read from the file of the former model is still asked for its cells
    in_use = self._adata.filename if self._adata is not None and self._adata.isbacked else None
    write_model(target, self.module.state_dict(), description, cells=cells, keep=in_use)


def loaded(
    cls: type[Model],
    dir_path: PathLike,
    adata: AnnData | None,
    *,
    accelerator: str | None,
    device: str | int | torch.device | None,
) -> Model:
    """Model that `dir_path` holds, attached to `adata`, or to the cells saved with it; see ``CountModel.load``."""
    # before anything is read
    wanted = chosen_device(accelerator, device)
    if adata is not None:
        require_anndata(adata, lazy=True)
    dir_path = resolved(dir_path, "dir_path", error=ModelFileError)
    tensors, description = read_model(dir_path)
    if description.get("class") != cls.__name__:
        raise ModelFileError(f"{dir_path} holds a {description.get('class')}; load it with that class.")
    with blaming(dir_path):
        saved = saved_cells(dir_path) if adata is None else None
        if saved is not None:
            adata = anndata.read_h5ad(saved)
    with tables_read(adata):
        return assembled(cls, tensors, description, adata, source=dir_path, device=wanted)


def assembled(
    cls: type[Model],
    tensors: dict[str, torch.Tensor],
    description: State,
    adata: AnnData | None,
    *,
    source: PathLike,
    device: str | torch.device = "cpu",
) -> Model:
    """Model with the weights and the description that `source` holds, which anyone may have written."""
    with blaming(source):
        _require_sizes(description, max(ANY_SIZE, sum(tensor.numel() for tensor in tensors.values())))
        calls = CALLS_PER_TENSOR * (len(tensors) + 1)
        # outermost, as a refusal may fall on the very call that would switch gradients on again
        with (
            blaming(source, also=DeltaviError),
            torch.set_grad_enabled(torch.is_grad_enabled()),
            torch.device("meta"),
            _FewCalls(calls),
        ):
            # tensors without memory: a size that is not that of the weights is refused before it is allocated
            plan = _rebuilt(cls, description, None)
        _require_fit(plan.module, tensors, source)
        model = _rebuilt(cls, description, adata)
        _require_fit(model.module, tensors, source)
        model.module.load_state_dict(tensors)
        attributes = description["attributes"]
        for name in attributes.keys() & set(SAVED_ATTRIBUTES):
            setattr(model, name, attributes[name])
        for part in cls.keeps:
            part.restore(model, current_state(description["extra"]))
    model.is_loaded_ = True
    model.to_device(device)
    model.module.eval()
    return model


def _rebuilt(cls: type[Model], description: State, adata: AnnData | None) -> Model:
    """Model of the described shape, with fresh weights, attached to `adata` where there is one."""
    registry = description["registry"]
    given = description["init_params"]
    named = {**given["non_kwargs"], **{k: v for kwargs in given["kwargs"].values() for k, v in kwargs.items()}}
    init = current_init(named, init_keywords(cls))
    if adata is None:
        return cls(None, registry=registry, **init)
    adata = in_gene_order(adata, registry, cls)
    cls.setup_anndata(adata, source_registry=registry, **registry[SETUP_ARGS_KEY])
    return cls(adata, registry=registry, **init)


def _plain_registry(registry: State) -> State:
    """Registry as plain nested dictionaries."""
    return {key: _plain_registry(value) if isinstance(value, dict) else value for key, value in registry.items()}


@contextmanager
def blaming(source: PathLike, *, also: type[DeltaviError] | tuple[()] = ()) -> Iterator[None]:
    """Say of any error that is not on purpose that `source` cannot be loaded.

    Checksums do not tell whether what a file says makes sense, and it can say anything.

    Parameters
    ----------
    source
        File or folder.
    also
        Errors that are on purpose, and are of the file where nothing but the file is read.
    """
    try:
        yield
    except (ModelFileError, Warning):
        raise
    except also as error:
        raise ModelFileError(f"{source} cannot be loaded: {error}") from error
    except DeltaviError:
        raise
    except Exception as error:
        raise ModelFileError(f"{source} cannot be loaded: {type(error).__name__}: {error}") from error


def _require_sizes(description: State, most: int) -> None:
    """Raise where a size is larger than `most`, before a list is made that is as long."""
    fields = description["registry"]["field_registries"].values()
    settings = [description["init_params"], *(field["summary_stats"] for field in fields)]
    for name, size in _whole_numbers(settings):
        if size > most and name not in NO_SIZES:
            raise ModelFileError(
                f"The file describes a model whose {name} is {size}, which its weights are too few for."
            )


def _whole_numbers(value: object, name: str = "") -> Iterator[tuple[str, int]]:
    """Whole numbers in nested settings, each with the name it stands under."""
    if isinstance(value, int):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _whole_numbers(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _whole_numbers(inner, name)


class _FewCalls(TorchFunctionMode):
    """Lets torch be called so often and no more: a file may ask for a million layers, which take no memory but time."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = limit

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ModelFileError("The file describes a far larger model than it holds weights of.")
        return func(*args, **(kwargs or {}))


def _require_fit(module: torch.nn.Module, tensors: dict[str, torch.Tensor], source: PathLike) -> None:
    """Raise where the stored tensors are not those of `module` by name, shape and kind of number."""
    expected = module.state_dict()
    wrong = [
        name for name in sorted(expected.keys() | tensors.keys()) if not _fits(expected.get(name), tensors.get(name))
    ]
    if wrong:
        raise ModelFileError(f"{source}: {len(wrong)} tensors do not fit the described model, for example {wrong[:3]}.")


def _fits(expected: torch.Tensor | None, stored: torch.Tensor | None) -> bool:
    if expected is None or stored is None or expected.shape != stored.shape:
        return False
    # another precision is converted; what is no real number, or one where counts or truths belong, would be cut
    return expected.dtype == stored.dtype or (expected.is_floating_point() and stored.is_floating_point())
