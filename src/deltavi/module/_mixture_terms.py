"""Terms of MIXVI's bound beyond reconstruction and z, and checks of its settings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from deltavi import _keys
from deltavi._errors import DeltaviError
from deltavi._reading import setting
from deltavi._types import Cells
from deltavi.latent import (
    ComponentPriorKind,
    GaussianState,
    LabelWeights,
    balanced_term,
    check_mixture,
    collapsed_term,
    dirichlet_term,
    prior_term,
    soft_one_hot,
    standard_normal_like,
)

ALLOWED: dict[str, tuple[str, ...]] = {
    "y_prior": ("collapsed", "dirichlet", "uniform", "balanced", "learned"),
    "w_prior": ("standard", "learned"),
    "z_term": ("closed", "mc"),
    "classifier": ("z", "mean", "posterior"),
}
# Log weight of a pruned component, below that of the least probable one: its probability is zero in single precision,
# and no gradient becomes NaN.
PRUNED = -1e4


class MixtureTerms(nn.Module):
    """Priors of y, d and w, for a module that has a mixture over z."""

    y_prior: ComponentPriorKind
    w_prior: str
    n_components: int
    n_labels: int
    n_conditions: int
    free_bits_w: float
    free_bits_y: float

    def _start_terms(self, *, n_latent: int, n_w: int, alpha: float) -> None:
        """Parameters and buffers of the priors."""
        if n_w and self.w_prior == "learned":
            self.w_prior_loc = nn.Parameter(torch.zeros(self.n_conditions, n_w))
            self.w_prior_log_scale = nn.Parameter(torch.zeros(self.n_conditions, n_w))
        if self.y_prior == "dirichlet":
            self.concentration = nn.Linear(n_latent, self.n_components)
        if self.y_prior == "learned":
            self.prior_logits = nn.Parameter(torch.zeros(self.n_components))
        self.register_buffer("alpha", torch.full((self.n_components,), float(alpha)))
        self.register_buffer("log_active", torch.zeros(self.n_components))
        # number of cells over which the prior of p(y) is divided
        self.register_buffer("n_cells", torch.ones(()))

    @property
    def is_active(self) -> Tensor:
        """Mask of the components that were not pruned, ``(n_components,)`` bool."""
        return self.get_buffer("log_active") == 0

    @property
    def log_prior(self) -> Tensor:
        """log p(y), ``(n_components,)``: uniform unless it is learned, for any Dirichlet of each cell."""
        log_active = self.get_buffer("log_active")
        if self.y_prior == "learned":
            return (self.prior_logits + log_active).log_softmax(-1)
        return log_active.log_softmax(-1)

    def _without_pruned(self, logits: Tensor) -> Tensor:
        """Logits of components ``(..., n_components)`` with those of pruned ones far below all others."""
        below = logits.detach().amin(-1, keepdim=True) + PRUNED
        return torch.where(self.is_active, logits, below)

    def prune(self, keep: Tensor) -> None:
        """Prune components outside `keep` ``(n_components,)``; those of labels are always kept."""
        log_active = self.get_buffer("log_active")
        keep = keep.to(log_active.device) | (torch.arange(self.n_components, device=log_active.device) < self.n_labels)
        log_active.copy_(torch.where(keep, 0.0, PRUNED))

    def _y_term(self, weights: LabelWeights, z: Tensor) -> Tensor:
        """Divergence of q(y | z), and of q(d | z) where there is a Dirichlet, ``([n_samples,] n_cells)``."""
        alpha = self.get_buffer("alpha")
        if self.y_prior == "collapsed":
            term = collapsed_term(weights, alpha)
        elif self.y_prior == "dirichlet":
            term = dirichlet_term(weights, F.softplus(self.concentration(z)), alpha)
        elif self.y_prior == "balanced":
            term = balanced_term(weights, self.log_prior)
        else:
            term = prior_term(weights, self.log_prior)
        return term.clamp_min(self.free_bits_y)

    def _w_term(self, state: GaussianState, tensors: dict[str, Tensor], first: Cells) -> Tensor:
        """KL[q(w | x) || p(w | c)] of each cell, above its free nats, ``(n_cells,)``."""
        per_dimension = self._w_nats(state, tensors)[first]
        if self.free_bits_w > 0:
            per_dimension = per_dimension.mean(0).clamp_min(self.free_bits_w).expand_as(per_dimension)
        return per_dimension.sum(-1)

    def _w_nats(self, state: GaussianState, tensors: dict[str, Tensor]) -> Tensor:
        return kl_divergence(state.posterior, self._w_prior(state.posterior.loc, tensors))

    def _w_prior(self, like: Tensor, tensors: dict[str, Tensor]) -> Normal:
        if self.w_prior == "standard":
            return standard_normal_like(like)
        rows = soft_one_hot(tensors[_keys.CONDITION], self.n_conditions).to(like.dtype)
        loc, scale = rows @ self.w_prior_loc, (rows @ self.w_prior_log_scale).exp()
        return Normal(loc.expand_as(like), scale.expand_as(like), validate_args=False)

    def _prior_penalty(self) -> Tensor | float:
        """Negative log density of a learned p(y) under a Dirichlet(1 + alpha), each cell its share of it."""
        if self.y_prior != "learned":
            return 0.0
        density = (self.get_buffer("alpha") * self.log_prior)[self.is_active].sum()
        return -density / self.get_buffer("n_cells")


def check_mixture_settings(
    *, n_components: int, n_labels: int, alpha: float, n_w: int, free_bits_w: float, **kinds: str
) -> None:
    """Raise where a setting is none of the allowed, or two do not go together."""
    check_mixture(n_components=n_components, n_labels=n_labels, alpha=alpha)
    for name, value in kinds.items():
        setting(*ALLOWED[name])(name, value)
    if n_w == 0 and (kinds["w_prior"] == "learned" or free_bits_w > 0):
        raise DeltaviError("w_prior='learned' and free_bits_w need w, which n_w=0 leaves out.")
