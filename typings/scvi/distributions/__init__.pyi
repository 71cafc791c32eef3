import torch
from scvi.distributions._negative_binomial import NegativeBinomial as NegativeBinomial
from scvi.distributions._negative_binomial import Poisson as Poisson
from scvi.distributions._negative_binomial import ZeroInflatedNegativeBinomial as ZeroInflatedNegativeBinomial
from torch.distributions import Normal as _Normal

class Normal(_Normal):
    def __init__(
        self,
        mu: torch.Tensor,
        scale: torch.Tensor,
        validate_args: bool | None = None,
        normal_mu: torch.Tensor | None = None,
    ) -> None: ...
