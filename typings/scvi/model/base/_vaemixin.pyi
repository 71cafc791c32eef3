from collections.abc import Iterable
from typing import Any

from anndata import AnnData

class VAEMixin:
    # a number, or a tensor of one for each cell
    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Any = None,
        n_mc_samples: int = 1000,
        batch_size: int | None = None,
        return_mean: bool = True,
        dataloader: Iterable[dict[str, Any]] | None = None,
        data_loader_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any: ...
    # an array, or one of means and one of variances
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Any = None,
        give_mean: bool = True,
        mc_samples: int = 5000,
        batch_size: int | None = None,
        return_dist: bool = False,
        dataloader: Iterable[dict[str, Any]] | None = None,
        **data_loader_kwargs: Any,
    ) -> Any: ...
