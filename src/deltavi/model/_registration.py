"""Registration of an AnnData with a class of models: checked first, and nothing left behind by a refusal."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from anndata import AnnData

from deltavi._compat import SETUP_ARGS_KEY, make_actual
from deltavi._entries import known_keywords, require_anndata
from deltavi._errors import DeltaviError
from deltavi._random import taking_turns
from deltavi._types import State
from deltavi.model._given import plain_setup
from deltavi.registry.depth import chosen_size_factor
from deltavi.registry.genes import require_unique_genes, warn_duplicate_cells
from deltavi.registry.leftovers import drop, left_behind
from deltavi.registry.manager import DataManager
from deltavi.registry.source import refuse_mask, refuse_view_of_file
from deltavi.registry.whole_tables import require_whole_names

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

logger = logging.getLogger("deltavi")

# Arguments of a registration that follows another one, as of a query
TRANSFER = ("source_registry", "extend_categories", "allow_missing_labels")
SETUP_HINTS = {
    "cell_type_key": "Pass labels_key.",
    "celltype_key": "Pass labels_key.",
    "perturbation_key": "Pass condition_key.",
    "stim_key": "Pass condition_key.",
    "counts_layer": "Pass layer.",
    "covariate_keys": "Pass categorical_covariate_keys or continuous_covariate_keys.",
    "covariates": "Pass categorical_covariate_keys or continuous_covariate_keys.",
}


def registered(cls: type[CountModel], adata: AnnData, setup_method_args: State, **transfer: Any) -> DataManager:
    """Manager of `adata`, checked and registered with the fields of `cls`.

    Parameters
    ----------
    cls
        Class of the model.
    adata
        Cells; a view becomes an AnnData of its own.
    setup_method_args
        Arguments of ``setup_anndata``, as scvi-tools keeps them; they are brought to a plain form.
    **transfer
        Options of a registration that follows another one.
    """
    require_anndata(adata)
    _require_cells(adata)
    _require_known_arguments(cls.__name__, transfer, setup_method_args[SETUP_ARGS_KEY])
    setup_method_args[SETUP_ARGS_KEY] = plain_setup(setup_method_args[SETUP_ARGS_KEY])
    require_whole_names(adata)
    require_unique_genes(adata.var_names, where="adata.var_names")
    warn_duplicate_cells(adata.obs_names)
    left = left_behind(adata)
    if adata.is_view:
        refuse_view_of_file(adata)
        # what hides values goes with the view; a layer that is not there is for the field to say
        layer = setup_method_args[SETUP_ARGS_KEY].get("layer")
        if layer is None or layer in adata.layers:
            refuse_mask(adata, layer)
        logger.info("A view was set up; it becomes an AnnData of its own, and its parent stays as it is.")
        make_actual(adata)
    setup = setup_method_args[SETUP_ARGS_KEY]
    if "size_factor_key" in setup and "source_registry" not in transfer:
        # a file and a query need the column that training had
        setup["size_factor_key"] = chosen_size_factor(adata, setup.get("layer"), setup["size_factor_key"])
    manager = DataManager(fields=cls._fields(setup), setup_method_args=setup_method_args)
    # cells a file is loaded with may be those of training; those a query brings are others
    if "source_registry" in transfer and not transfer.get("extend_categories", False):
        transfer["attached"] = True
    with taking_turns():
        manager.register_fields(adata, **transfer)
        drop(adata, left, manager.written)
    return manager


def _require_cells(adata: AnnData) -> None:
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise DeltaviError(f"adata has {adata.n_obs} cells and {adata.n_vars} genes; there is nothing to learn from.")


def _require_known_arguments(model: str, given: State, known: Iterable[str]) -> None:
    """Raise where ``setup_anndata`` was given a name that is none of its own, nor of a transfer between models."""
    own = [name for name in given if name not in TRANSFER]
    known_keywords(own, known, among=f"{model}.setup_anndata", hints=SETUP_HINTS)


def require_own_columns(**keys: str | None) -> None:
    """Raise where two arguments name the same column."""
    given = [key for key in keys.values() if key is not None]
    if len(set(given)) < len(given):
        names = f"{', '.join(list(keys)[:-1])} and {list(keys)[-1]}"
        raise DeltaviError(f"{names} are {given}: name a column for each.")
