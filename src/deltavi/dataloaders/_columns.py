"""Matrix and columns of cells, by the arguments of ``setup_anndata``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import pandas as pd
from anndata import AnnData

from deltavi._entries import one_name
from deltavi._types import State
from deltavi.registry.columns import column
from deltavi.registry.source import matrix_of


@dataclass(frozen=True)
class CellColumns:
    """Names of the layer and the columns of obs that are read; None for none.

    Parameters
    ----------
    layer, batch_key, labels_key, unlabeled_category, condition_key, size_factor_key
        As in ``setup_anndata`` of the models.
    categorical_covariate_keys, continuous_covariate_keys
        Columns of covariates.
    """

    layer: str | None = None
    batch_key: str | None = None
    labels_key: str | None = None
    unlabeled_category: str | None = None
    condition_key: str | None = None
    size_factor_key: str | Literal[False] | None = None
    categorical_covariate_keys: list[str] | None = None
    continuous_covariate_keys: list[str] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_key") and value is not None:
                one_name(field.name, value)

    def given(self) -> State:
        """Those that are named, by their arguments."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def of_scvi(self) -> State:
        """Arguments as models of scvi-tools look for them."""
        values = {field.name: getattr(self, field.name) or None for field in fields(self)}
        return {name: value for name, value in values.items() if name not in ("condition_key", "unlabeled_category")}

    def names(self) -> list[str]:
        """Columns of obs, each once."""
        keys = [self.batch_key, self.labels_key, self.condition_key, self.size_factor_key]
        covariates = [*(self.categorical_covariate_keys or ()), *(self.continuous_covariate_keys or ())]
        return [key for key in dict.fromkeys([*keys, *covariates]) if key is not None and key is not False]

    def stand_in(self, adata: AnnData) -> AnnData:
        """The matrix of `adata`, where it is, with copies of the columns: registration writes to obs."""
        for name in self.names():
            column(adata, name)
        obs = adata.obs[self.names()].copy()
        var = pd.DataFrame(index=adata.var_names.astype(str))
        matrix = matrix_of(adata, self.layer)
        if self.layer is None:
            return AnnData(X=matrix, obs=obs, var=var)
        return AnnData(obs=obs, var=var, layers={self.layer: matrix})
