"""Queries mapped onto a trained model, and the device a model is on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import torch
from anndata import AnnData
from scvi.model.base import ArchesMixin, BaseModelClass

from deltavi._devices import chosen_device, is_present, torch_device
from deltavi._entries import keywords_of, known_keywords, require_anndata
from deltavi._errors import DeltaviError, DeltaviWarning
from deltavi._reading import known_arguments
from deltavi.model._aligned import in_gene_order
from deltavi.model._stored_registry import HINTS
from deltavi.registry.tables import tables_read

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

Model = TypeVar("Model", bound="CountModel")


def mapped(
    cls: type[Model],
    extend: Callable[..., Any],
    adata: AnnData,
    reference_model: Any,
    *,
    accelerator: str | None,
    device: str | int | torch.device | None,
    **options: Any,
) -> Model:
    """Model of `cls` extended, by scvi-tools' `extend`, by batches of a query; see ``CountModel.load_query_data``."""
    known = [name for name in keywords_of(ArchesMixin.load_query_data) if name not in ("registry", "datamodule")]
    known_keywords(options, known, among=f"{cls.__name__}.load_query_data", hints=HINTS)
    if not isinstance(reference_model, cls | str | os.PathLike):
        raise DeltaviError(
            f"The reference is a {type(reference_model).__name__}; a query of {cls.__name__} needs a trained "
            f"{cls.__name__}, or the folder of one."
        )
    require_anndata(adata, lazy=True)
    wanted = chosen_device(accelerator, device)
    reference = reference_model
    if isinstance(reference, str | os.PathLike):
        reference = cls.load(reference)
    reference._require_trained("Query mapping")
    with tables_read(adata):
        query = in_gene_order(adata, reference.registry_, cls)
        model: Model = extend(query, reference, accelerator="cpu", **options)
    _average_new_columns(model.module, reference.module)
    for part in cls.keeps:
        if part.mapped is not None:
            part.mapped(model, reference)
    # scvi-tools hands on attributes of the reference, which may have come from a file
    model.is_mapped_, model.is_loaded_ = True, False
    model.to_device(wanted)
    return model


@known_arguments
def prepare_query_anndata(
    cls: type[CountModel],
    adata: AnnData,
    reference_model: Any,
    return_reference_var_names: bool = False,
    inplace: bool = True,
) -> Any:
    """Put the genes of a query into the order of a model, with zeros for those it lacks.

    No method needs it: genes of a query are matched by name.

    Parameters
    ----------
    adata
        Query cells.
    reference_model
        A model, or the folder of one.
    return_reference_var_names
        Return the genes of the model, and change nothing.
    inplace
        Change `adata` rather than a copy.

    Raises
    ------
    ModelFileError
        If the folder holds no model, or is damaged.
    """
    query: AnnData = require_anndata(adata)
    is_folder = isinstance(reference_model, str | os.PathLike)
    reference: Any = cls.load(reference_model) if is_folder else reference_model
    if return_reference_var_names:
        return pd.Index(reference.gene_names.astype(str))
    return ArchesMixin.prepare_query_anndata(query, reference, inplace=inplace)


@known_arguments
def to_device(self: CountModel, device: str | int | torch.device) -> None:
    """Move the weights to a device; where there is none such, to the CPU, with a warning.

    Parameters
    ----------
    device
        As in torch: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or the number of a GPU; ``"auto"`` is a GPU
        where there is one.

    Raises
    ------
    DeltaviError
        If torch has no such kind of device.
    """
    wanted = torch_device("device", device)
    if not is_present(wanted):
        warnings.warn(
            f"This computer has no device {str(wanted)!r}; the model is on the CPU, with the same answers.",
            DeltaviWarning,
            stacklevel=2,
        )
        wanted = torch.device("cpu")
    BaseModelClass.to_device(self, wanted)


def _average_new_columns(module: torch.nn.Module, reference: torch.nn.Module) -> None:
    """Start the dispersion of a new batch at the average of the known ones; scArches leaves it random and frozen."""
    table, known = getattr(module, "px_r", None), getattr(reference, "px_r", None)
    if table is None or known is None or table.ndim < 2 or table.shape == known.shape:
        return
    with torch.no_grad():
        table[:, known.shape[1] :] = known.mean(1, keepdim=True)
