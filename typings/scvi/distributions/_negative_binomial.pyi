from collections.abc import Callable

from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import Poisson as _Poisson

def log_nb_positive(
    x: Tensor,
    mu: Tensor,
    theta: Tensor,
    eps: float = 1e-8,
    log_fn: Callable[[Tensor], Tensor] = ...,
    lgamma_fn: Callable[[Tensor], Tensor] = ...,
) -> Tensor: ...
def log_zinb_positive(
    x: Tensor,
    mu: Tensor,
    theta: Tensor,
    pi: Tensor,
    eps: float = 1e-8,
    log_fn: Callable[[Tensor], Tensor] = ...,
    lgamma_fn: Callable[[Tensor], Tensor] = ...,
) -> Tensor: ...

class NegativeBinomial(Distribution):
    mu: Tensor
    theta: Tensor

    def __init__(
        self,
        total_count: Tensor | None = None,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        mu: Tensor | None = None,
        theta: Tensor | None = None,
        scale: Tensor | None = None,
        validate_args: bool = False,
    ) -> None: ...

class ZeroInflatedNegativeBinomial(NegativeBinomial):
    def __init__(
        self,
        total_count: Tensor | None = None,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        mu: Tensor | None = None,
        theta: Tensor | None = None,
        zi_logits: Tensor | None = None,
        scale: Tensor | None = None,
        validate_args: bool = False,
    ) -> None: ...

class Poisson(_Poisson):
    def __init__(self, rate: Tensor, validate_args: bool | None = None, scale: Tensor | None = None) -> None: ...
