"""Cells that a model holds: attached, replaced, and pointed at by its split."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData

from deltavi._compat import MODEL_NAME_KEY, SETUP_ARGS_KEY
from deltavi._entries import require_anndata
from deltavi._errors import DeltaviError, ModelFileError
from deltavi._reading import known_arguments
from deltavi.model._base import CountModel, aligned_copy
from deltavi.registry.names import names_checksum


class AttachedCellsMixin(CountModel):
    """Carries ``adata``, ``train_indices``, ``validation_indices``, ``test_indices`` and ``get_var_names``."""

    @property
    def adata(self) -> Any:
        """Cells of the model; None where it was loaded without any.

        Other cells can be assigned: their genes are matched by name, and their columns registered as by ``load``. A
        refusal leaves model and cells as they are.
        """
        return self._adata

    @adata.setter
    def adata(self, adata: AnnData) -> None:
        cls = type(self)
        # everything that a query is checked for, before anything is written
        self._align(require_anndata(adata))
        cells = in_gene_order(adata, self.registry_, cls)
        cls.setup_anndata(cells, source_registry=self.registry_, **self.registry_[SETUP_ARGS_KEY])
        manager = self._get_most_recent_anndata_manager(cells, required=True)
        self._register_manager_for_instance(manager)
        self._adata, self._adata_manager = cells, manager
        self.registry_, self.summary_stats = manager.registry, manager.summary_stats

    # -- the split -------------------------------------------------------------------------------------------

    @property
    def train_indices(self) -> Any:
        """Positions of the training cells in ``adata``; an error where it no longer holds the cells they point at."""
        return self._pointing(self.train_indices_)

    @train_indices.setter
    def train_indices(self, value: Any) -> None:
        self.train_indices_ = value

    @property
    def validation_indices(self) -> Any:
        """Positions of the validation cells in ``adata``; an error as for ``train_indices``."""
        return self._pointing(self.validation_indices_)

    @validation_indices.setter
    def validation_indices(self, value: Any) -> None:
        self.validation_indices_ = value

    @property
    def test_indices(self) -> Any:
        """Positions of the cells that were in neither; an error as for ``train_indices``."""
        return self._pointing(self.test_indices_)

    @test_indices.setter
    def test_indices(self, value: Any) -> None:
        self.test_indices_ = value

    def _pointing(self, positions: Any) -> Any:
        """`positions`, if the cells of the model are those they were found among."""
        if positions is None or self._adata is None or self._adata_manager is None:
            return positions
        self._adata_manager.require_same_cells()
        trained_on = self.trained_on_
        if trained_on is not None and names_checksum(self._adata.obs_names) != trained_on:
            raise DeltaviError(
                "The positions of training and validation cells point at the cells the model was trained on; adata "
                "holds others, or the same in another order. Load the model with the cells it was trained on."
            )
        return positions

    # -- scvi-tools ------------------------------------------------------------------------------------------

    @known_arguments
    def get_var_names(self, legacy_mudata_format: bool = False) -> np.ndarray:
        """Genes of the model, in its order.

        Parameters
        ----------
        legacy_mudata_format
            Of scvi-tools, for MuData; it changes nothing here.
        """
        return self.gene_names

    def _get_user_attributes(self) -> list[tuple[str, Any]]:
        # properties are left out: what is asked of the cells may be refused
        return list(vars(self).items())


def in_gene_order(adata: AnnData, registry: dict[str, Any], cls: type[CountModel]) -> AnnData:
    """`adata` itself where its genes are the model's, else a stand-in with them in order."""
    if registry.get(MODEL_NAME_KEY) not in (None, cls.__name__):
        raise ModelFileError(f"The registry belongs to {registry[MODEL_NAME_KEY]}, not to {cls.__name__}.")
    genes = np.asarray(registry["field_registries"]["X"]["state_registry"]["column_names"], dtype=object)
    if np.array_equal(np.asarray(adata.var_names.astype(str), dtype=object), genes):
        return adata
    layer = registry[SETUP_ARGS_KEY].get("layer")
    return aligned_copy(adata, genes, layer=layer, min_overlap=cls.min_gene_overlap)
