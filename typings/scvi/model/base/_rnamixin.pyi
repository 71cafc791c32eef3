from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

class RNASeqMixin:
    # a frame, or an array of two or three axes
    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Any = None,
        transform_batch: Any = None,
        gene_list: Any = None,
        library_size: float | Literal["latent"] = 1,
        n_samples: int = 1,
        n_samples_overall: int | None = None,
        weights: Literal["uniform", "importance"] | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
        return_numpy: bool | None = None,
        silent: bool = True,
        dataloader: Iterable[dict[str, Any]] | None = None,
        data_loader_kwargs: dict[str, Any] | None = None,
        **importance_weighting_kwargs: Any,
    ) -> Any: ...
    def get_feature_correlation_matrix(
        self,
        adata: AnnData | None = None,
        indices: Any = None,
        n_samples: int = 10,
        batch_size: int = 64,
        rna_size_factor: float = 1000,
        transform_batch: Any = None,
        correlation_type: Literal["spearman", "pearson"] = "spearman",
        silent: bool = True,
    ) -> pd.DataFrame: ...
    def get_likelihood_parameters(
        self,
        adata: AnnData | None = None,
        indices: Any = None,
        n_samples: int = 1,
        give_mean: bool = False,
        batch_size: int | None = None,
        dataloader: Iterable[dict[str, Any]] | None = None,
        **data_loader_kwargs: Any,
    ) -> dict[str, np.ndarray]: ...
    def get_latent_library_size(
        self,
        adata: AnnData | None = None,
        indices: Any = None,
        give_mean: bool = True,
        batch_size: int | None = None,
        dataloader: Iterable[dict[str, Any]] | None = None,
        **data_loader_kwargs: Any,
    ) -> np.ndarray: ...
