"""A Gaussian mixture over a latent variable, whose components may move with a second one and with covariates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Dirichlet, Normal, kl_divergence

from deltavi._errors import DeltaviError
from deltavi.latent._labelled import LabelWeights, log_density
from deltavi.latent.gaussian import VARIANCE_FLOOR

ComponentPriorKind = Literal["collapsed", "dirichlet", "uniform", "balanced", "learned"]
LatentTerm = Literal["closed", "mc"]
# Smallest concentration of q(d | z): below it log-gamma functions lose their gradients.
SMALLEST_CONCENTRATION = 1e-3


class MixtureComponents(nn.Module):
    """p(z | w, y, c): a Gaussian for every component, in one call.

    Each component has a mean and a variance of its own. Covariates c move the means of all components alike, and with
    them or a second latent variable w a network adds to mean and variance of each; its last layer starts at zero, so
    that the components start at their initial positions.

    Parameters
    ----------
    n_components, n_latent
        Components of the mixture, and dimensions of z.
    n_w
        Dimensions of w; zero for none.
    covariates
        Number of categories of every covariate the components move with.
    n_hidden
        Hidden units of that network.
    """

    def __init__(
        self, n_components: int, n_latent: int, *, n_w: int = 0, covariates: tuple[int, ...] = (), n_hidden: int = 32
    ) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(n_components, n_latent))
        self.log_variance = nn.Parameter(torch.zeros(n_components, n_latent))
        self.n_w, n_given = n_w, n_w + sum(covariates)
        self.moves = n_given > 0
        if covariates:
            self.common = nn.Parameter(torch.zeros(sum(covariates), n_latent))
        if self.moves:
            self.given = nn.Linear(n_given, n_hidden)
            self.column = nn.Parameter(torch.randn(n_components, n_hidden) / n_hidden**0.5)
            self.loc_shift, self.log_variance_shift = nn.Linear(n_hidden, n_latent), nn.Linear(n_hidden, n_latent)
            for layer in (self.loc_shift, self.log_variance_shift):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    @property
    def n_components(self) -> int:
        """Components of the mixture."""
        return len(self.loc)

    def forward(self, like: Tensor, w: Tensor | None = None, *covariates: Tensor) -> Normal:
        """Distribution of z for every component.

        Parameters
        ----------
        like
            ``([n_samples,] n_cells, n_latent)`` positions, which give the shape.
        w
            ``([n_samples,] n_cells, n_w)``; ``None`` where there is none.
        *covariates
            ``(n_cells, n_categories)`` one-hot rows of each covariate.

        Returns
        -------
        Normal of shape ``(n_components, [n_samples,] n_cells, n_latent)``.
        """
        inner = [1] * (like.dim() - 1)
        loc = self.loc.view(self.n_components, *inner, -1)
        log_variance = self.log_variance.view(self.n_components, *inner, -1)
        if self.moves:
            hidden = self._hidden(like, w, covariates)
            loc, log_variance = loc + self.loc_shift(hidden), log_variance + self.log_variance_shift(hidden)
        if covariates:
            loc = loc + torch.cat([rows.expand(*like.shape[:-1], -1) for rows in covariates], dim=-1) @ self.common
        scale = (log_variance.exp() + VARIANCE_FLOOR).sqrt()
        shape = (self.n_components, *like.shape)
        return Normal(loc.expand(shape), scale.expand(shape), validate_args=False)

    def _hidden(self, like: Tensor, w: Tensor | None, covariates: tuple[Tensor, ...]) -> Tensor:
        parts = [] if w is None else [w]
        parts += [rows.expand(*like.shape[:-1], rows.shape[-1]) for rows in covariates]
        # what does not depend on the component is computed once
        shared = self.given(torch.cat(parts, dim=-1)).unsqueeze(0)
        return torch.relu(shared + self.column.view(self.n_components, *[1] * (shared.dim() - 2), -1))

    def place(self, means: Tensor, variances: Tensor, offsets: Tensor | None = None) -> None:
        """Set means and variances of the components, and what covariates add to the means.

        Parameters
        ----------
        means, variances
            ``(n_components, n_latent)``.
        offsets
            ``(n_categories, n_latent)`` of all covariates, one after the other.
        """
        with torch.no_grad():
            if offsets is not None:
                self.common.copy_(offsets)
            self.loc.copy_(means)
            self.log_variance.copy_((variances - VARIANCE_FLOOR).clamp_min(VARIANCE_FLOOR).log())


def component_log_joint(components: Normal, z: Tensor, log_weights: Tensor) -> Tensor:
    """log p(y) p(z | w, y, c) of every component, ``([n_samples,] n_cells, n_components)`` nats.

    Its softmax is the posterior of y given z and w; its logsumexp the log density of z.

    Parameters
    ----------
    components
        For every component, as :class:`MixtureComponents` gives them.
    z
        ``([n_samples,] n_cells, n_latent)``.
    log_weights
        ``(n_components,)`` log p(y).
    """
    return log_density(components, z.unsqueeze(0)).movedim(0, -1) + log_weights


def latent_term(
    components: Normal, posterior: Normal, z: Tensor, *, weights: LabelWeights, how: LatentTerm = "closed"
) -> Tensor:
    """Divergence of z from the mixture, the components weighed by q(y | z), ``([n_samples,] n_cells)`` nats.

    ``"closed"`` sums KL[q(z | x) || p(z | w, y, c)] over components, which treats q(y | z) as if it did not depend on
    z; ``"mc"`` takes log q(z | x) - log p(z | w, y, c) at the drawn z, whose expectation is exact.

    Parameters
    ----------
    components
        ``(n_components, [n_samples,] n_cells, n_latent)``.
    posterior
        q(z | x), ``(n_cells, n_latent)``.
    z
        ``([n_samples,] n_cells, n_latent)`` draw of it.
    weights
        Of every component, as :func:`deltavi.latent.label_weights` gives them.
    how
        One of the two.
    """
    over_components = weights.values.movedim(-1, 0)
    if how == "mc":
        return log_density(posterior, z) - (over_components * log_density(components, z.unsqueeze(0))).sum(0)
    return (over_components * kl_divergence(posterior, components).sum(-1)).sum(0)


def collapsed_term(weights: LabelWeights, alpha: Tensor) -> Tensor:
    """R_alpha(q): both label terms of a Dirichlet, at the best q(d | z), ``([n_samples,] n_cells)`` nats.

    -H(q) - log[B(alpha + q) / B(alpha)]. For one label it is log(sum of alpha / alpha_k), for a uniform q it may be
    above or below that: a sharp q costs less than a uniform one only where alpha is small, below about 0.25.

    Parameters
    ----------
    weights
        q(y | z) of every component.
    alpha
        ``(n_components,)`` concentrations of p(d).
    """
    return -weights.entropy - (_log_beta(alpha + weights.values) - _log_beta(alpha))


def dirichlet_term(weights: LabelWeights, concentration: Tensor, alpha: Tensor) -> Tensor:
    """E log q(y | z) / d_y + KL[q(d | z) || p(d)] with a draw of d, ``([n_samples,] n_cells)`` nats.

    Parameters
    ----------
    weights
        q(y | z) of every component.
    concentration
        ``([n_samples,] n_cells, n_components)`` of q(d | z).
    alpha
        ``(n_components,)`` of p(d).
    """
    posterior = Dirichlet(concentration.clamp_min(SMALLEST_CONCENTRATION), validate_args=False)
    shares = posterior.rsample().clamp_min(torch.finfo(concentration.dtype).tiny)
    divergence = kl_divergence(posterior, Dirichlet(alpha.expand_as(concentration), validate_args=False))
    return -weights.entropy - (weights.values * shares.log()).sum(-1) + divergence


def prior_term(weights: LabelWeights, log_prior: Tensor) -> Tensor:
    """KL[q(y | z) || p(y)] for one p(y) of all cells, ``([n_samples,] n_cells)`` nats.

    Parameters
    ----------
    weights
        q(y | z) of every component.
    log_prior
        ``(n_components,)`` log p(y).
    """
    return -weights.entropy - (weights.values * log_prior).sum(-1)


def balanced_term(weights: LabelWeights, log_prior: Tensor) -> Tensor:
    """KL of the mini-batch's mean of q(y | z) from p(y), for every cell the same, ``([n_samples,] n_cells)`` nats.

    It makes the average use of components follow p(y), while each cell may be assigned with certainty.

    Parameters
    ----------
    weights
        q(y | z) of every component.
    log_prior
        ``(n_components,)`` log p(y).
    """
    mean = weights.values.mean(-2, keepdim=True)
    # the derivative of p log p has no value at a share of zero
    log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
    divergence = (mean * (log_mean - log_prior)).sum(-1)
    return divergence.expand(weights.values.shape[:-1])


@dataclass(frozen=True)
class Usage:
    """Shares of cells of the components of a mixture.

    Parameters
    ----------
    shares
        ``(n_components,)`` mean of q(y | z) over cells.
    """

    shares: tuple[float, ...]

    @classmethod
    def of(cls, responsibilities: Tensor) -> Usage:
        """Usage by the cells of ``(n_cells, n_components)``."""
        return cls(tuple(responsibilities.mean(0).tolist()))

    @property
    def effective_number(self) -> float:
        """exp of the entropy of the shares: K for K components used alike, 1 for a collapsed mixture."""
        return math.exp(-sum(share * math.log(share) for share in self.shares if share > 0))


def _log_beta(concentration: Tensor) -> Tensor:
    return torch.lgamma(concentration).sum(-1) - torch.lgamma(concentration.sum(-1))


def check_mixture(*, n_components: int, n_labels: int, alpha: float) -> None:
    """Raise if a mixture is impossible: fewer components than labels, or an invalid Dirichlet.

    Parameters
    ----------
    n_components, n_labels
        Components, and labels that each take one.
    alpha
        Concentration of the Dirichlet.

    Raises
    ------
    DeltaviError
        If there are too few components, or `alpha` is not positive and finite.
    """
    if n_components < n_labels:
        raise DeltaviError(
            f"n_components={n_components} leaves labels without a component: there are {n_labels}. Ask for at least "
            "as many; further ones stay free for cells of other types."
        )
    if not 0 < alpha < math.inf:
        raise DeltaviError(f"alpha must be positive and finite, not {alpha!r}.")
