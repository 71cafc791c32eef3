from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

class FCLayers(nn.Module):
    inject_covariates: bool
    n_cat_list: list[int]
    n_cov: int
    # a stack of stacks, with None for what is left out
    fc_layers: Sequence[Sequence[Any]]

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_cat_list: Iterable[int] | None = None,
        n_cont: int = 0,
        n_layers: int = 1,
        n_hidden: int = 128,
        dropout_rate: float = 0.1,
        use_batch_norm: bool = True,
        use_layer_norm: bool = False,
        use_activation: bool = True,
        bias: bool = True,
        inject_covariates: bool = True,
        activation_fn: Callable[[], nn.Module] = ...,
    ) -> None: ...
    # a code, or a one-hot row, of each cell
    def forward(self, x: Tensor, *cat_list: Tensor, cont: Tensor | None = None) -> Tensor: ...
