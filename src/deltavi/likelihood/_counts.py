"""Poisson, negative binomial and zero-inflated negative binomial over raw counts.

scvi-tools' log probabilities are reused; the objects add draws from a given
generator, and the distribution function with its inverse. Equations: Lopez et al. 2018; the zero
branch is -softplus(-pi) + softplus(A) with A = -pi + theta * log(theta / (theta + mu)), pi the dropout logit.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor

from deltavi._compat import log_nb_positive, log_zinb_positive, scvi_distributions
from deltavi.likelihood._log_prob import negative_binomial_log_prob, poisson_log_prob, zero_inflated_log_prob
from deltavi.likelihood._nonzero import Nonzeros
from deltavi.likelihood.base import Likelihood, to_numpy

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from deltavi.likelihood._dispersion import Dispersion

# A rate above this is numerical breakdown of an untrained decoder; drawing it would overflow int64.
MAX_RATE = 1e8
# A quantile of exactly one lies at infinity.
MAX_QUANTILE = 1.0 - 1e-12
MIN_SURVIVAL = 1e-300
# Axes of one mini-batch of counts; counts that differ between samples have one more.
MATRIX = 2


def _clamped(tensor: Tensor) -> np.ndarray:
    return np.asarray(np.minimum(to_numpy(tensor), MAX_RATE))


class CountLikelihood(Likelihood):
    """Count likelihood that evaluates special functions at nonzero counts only, if all samples share them."""

    def log_prob(self, x: Tensor, nonzeros: Nonzeros | None = None) -> Tensor:
        if x.dim() > MATRIX:
            return super().log_prob(x)
        return self._log_prob_of(nonzeros or Nonzeros.of(x))

    @abstractmethod
    def _log_prob_of(self, nonzeros: Nonzeros) -> Tensor:
        """Log probability of each cell, ``([n_samples,] n_cells)`` nats."""

    def shifted_by(self, offsets: Tensor) -> Likelihood:
        factor = offsets.exp()
        return self._with_rate(self.rate * factor, None if self.scale is None else self.scale * factor)

    def without_scale(self) -> Likelihood:
        return self._with_rate(self.rate, None)

    @abstractmethod
    def _with_rate(self, rate: Tensor, scale: Tensor | None) -> Likelihood:
        """The same dispersion and dropout around other expected counts."""

    @abstractmethod
    def at(self, cells: np.ndarray, genes: np.ndarray) -> CountLikelihood:
        """Likelihood of single entries of a matrix, one by one ``(n_entries,)``."""


@dataclass(frozen=True, eq=False)
class Poisson(CountLikelihood):
    """Counts with variance equal to the mean.

    Parameters
    ----------
    rate
        ``([n_samples,] n_cells, n_genes)`` expected counts.
    scale
        Expected share of the library of each gene, where the decoder gives one.
    """

    rate: Tensor
    scale: Tensor | None = None

    def log_prob_per_gene(self, x: Tensor) -> Tensor:
        return self.distribution.log_prob(x)

    def _log_prob_of(self, nonzeros: Nonzeros) -> Tensor:
        return poisson_log_prob(nonzeros, self.rate)

    def _with_rate(self, rate: Tensor, scale: Tensor | None) -> Likelihood:
        return Poisson(rate, scale)

    def at(self, cells: np.ndarray, genes: np.ndarray) -> Poisson:
        return Poisson(self.rate[cells, genes])

    @property
    def mean(self) -> Tensor:
        return self.rate

    @property
    def variance(self) -> Tensor:
        return self.rate

    def sample(self, generator: np.random.Generator) -> Tensor:
        return torch.from_numpy(generator.poisson(_clamped(self.rate)).astype(np.float32))

    def cdf(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.where(x < 0, 0.0, special.pdtr(np.maximum(x, 0), to_numpy(self.rate))))

    def quantile(self, u: np.ndarray) -> np.ndarray:
        # SciPy returns -1, below the support, at u = 0
        return np.asarray(np.maximum(stats.poisson.ppf(np.minimum(u, MAX_QUANTILE), to_numpy(self.rate)), 0.0))

    def survival(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.where(x < 0, 1.0, special.pdtrc(np.maximum(x, 0), to_numpy(self.rate))))

    def upper_quantile(self, s: np.ndarray) -> np.ndarray:
        return _poisson_upper_quantile(np.maximum(s, MIN_SURVIVAL), to_numpy(self.rate))

    @property
    def distribution(self) -> Distribution:
        return scvi_distributions.Poisson(rate=self.rate, scale=self.scale)


@dataclass(frozen=True, eq=False)
class NegativeBinomial(CountLikelihood):
    """Counts with variance mu + mu^2 / theta.

    Parameters
    ----------
    rate
        ``([n_samples,] n_cells, n_genes)`` expected counts mu.
    dispersion
        Inverse dispersion theta, kept as rows.
    scale
        Expected share of the library of each gene, where the decoder gives one.
    """

    rate: Tensor
    dispersion: Dispersion
    scale: Tensor | None = None

    def log_prob_per_gene(self, x: Tensor) -> Tensor:
        return log_nb_positive(x, mu=self.rate, theta=self.dispersion.gathered())

    def _log_prob_of(self, nonzeros: Nonzeros) -> Tensor:
        return negative_binomial_log_prob(nonzeros, self.rate, self.dispersion.gathered())

    def _with_rate(self, rate: Tensor, scale: Tensor | None) -> Likelihood:
        return NegativeBinomial(rate, self.dispersion, scale)

    def at(self, cells: np.ndarray, genes: np.ndarray) -> NegativeBinomial:
        return NegativeBinomial(self.rate[cells, genes], self.dispersion.at(self.rate.shape, cells, genes))

    @property
    def mean(self) -> Tensor:
        return self.rate

    @property
    def variance(self) -> Tensor:
        return self.rate + self.rate**2 / self.dispersion.gathered()

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"mean": self.rate, "dispersions": self.dispersion.gathered().expand_as(self.rate)}

    def sample(self, generator: np.random.Generator) -> Tensor:
        return torch.from_numpy(_gamma_poisson(generator, self).astype(np.float32))

    def cdf(self, x: np.ndarray) -> np.ndarray:
        return _negative_binomial_cdf(x, *_mean_and_theta(self))

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return _negative_binomial_quantile(u, *_mean_and_theta(self))

    def survival(self, x: np.ndarray) -> np.ndarray:
        return _negative_binomial_survival(x, *_mean_and_theta(self))

    def upper_quantile(self, s: np.ndarray) -> np.ndarray:
        return _negative_binomial_upper_quantile(s, *_mean_and_theta(self))

    @property
    def distribution(self) -> Distribution:
        theta = self.dispersion.gathered()
        return scvi_distributions.NegativeBinomial(mu=self.rate, theta=theta, scale=self.scale)


@dataclass(frozen=True, eq=False)
class ZeroInflatedNegativeBinomial(CountLikelihood):
    """A negative binomial count that is lost to zero with probability sigmoid(`dropout_logits`).

    Parameters
    ----------
    rate
        ``([n_samples,] n_cells, n_genes)`` expected counts mu before dropout.
    dispersion
        Inverse dispersion theta, kept as rows.
    dropout_logits
        ``([n_samples,] n_cells, n_genes)`` logit of the dropout probability.
    scale
        Expected share of the library of each gene, where the decoder gives one.
    """

    rate: Tensor
    dispersion: Dispersion
    dropout_logits: Tensor = field()
    scale: Tensor | None = None

    def log_prob_per_gene(self, x: Tensor) -> Tensor:
        return log_zinb_positive(x, self.rate, self.dispersion.gathered(), self.dropout_logits)

    def _log_prob_of(self, nonzeros: Nonzeros) -> Tensor:
        return zero_inflated_log_prob(nonzeros, self.rate, self.dispersion.gathered(), self.dropout_logits)

    def _with_rate(self, rate: Tensor, scale: Tensor | None) -> Likelihood:
        return ZeroInflatedNegativeBinomial(rate, self.dispersion, self.dropout_logits, scale)

    def at(self, cells: np.ndarray, genes: np.ndarray) -> ZeroInflatedNegativeBinomial:
        theta = self.dispersion.at(self.rate.shape, cells, genes)
        return ZeroInflatedNegativeBinomial(self.rate[cells, genes], theta, self.dropout_logits[cells, genes])

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.dropout_logits) * self.rate

    @property
    def variance(self) -> Tensor:
        kept = torch.sigmoid(-self.dropout_logits)
        return kept * self.rate * (1 + self.rate * (1 - kept + 1 / self.dispersion.gathered()))

    @property
    def parameters(self) -> dict[str, Tensor]:
        theta = self.dispersion.gathered().expand_as(self.rate)
        return {"mean": self.rate, "dropout": torch.sigmoid(self.dropout_logits), "dispersions": theta}

    def sample(self, generator: np.random.Generator) -> Tensor:
        counts = _gamma_poisson(generator, self)
        kept = generator.random(counts.shape) >= self._dropout()
        return torch.from_numpy((counts * kept).astype(np.float32))

    def cdf(self, x: np.ndarray) -> np.ndarray:
        dropout = self._dropout()
        below = _negative_binomial_cdf(x, *_mean_and_theta(self))
        return np.where(np.asarray(x) < 0, 0.0, dropout + (1 - dropout) * below)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        dropout = self._dropout()
        with np.errstate(divide="ignore", invalid="ignore"):
            rescaled = np.where(u > dropout, (u - dropout) / (1 - dropout), 0.0)
        return _negative_binomial_quantile(rescaled, *_mean_and_theta(self))

    def survival(self, x: np.ndarray) -> np.ndarray:
        above = _negative_binomial_survival(x, *_mean_and_theta(self))
        return np.where(np.asarray(x) < 0, 1.0, (1 - self._dropout()) * above)

    def upper_quantile(self, s: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            rescaled = np.nan_to_num(s / (1 - self._dropout()), nan=1.0, posinf=1.0)
        return _negative_binomial_upper_quantile(rescaled, *_mean_and_theta(self))

    def _dropout(self) -> np.ndarray:
        return np.asarray(special.expit(to_numpy(self.dropout_logits)))

    @property
    def distribution(self) -> Distribution:
        theta = self.dispersion.gathered()
        return scvi_distributions.ZeroInflatedNegativeBinomial(
            mu=self.rate, theta=theta, zi_logits=self.dropout_logits, scale=self.scale
        )


def _mean_and_theta(likelihood: NegativeBinomial | ZeroInflatedNegativeBinomial) -> tuple[np.ndarray, np.ndarray]:
    mean = to_numpy(likelihood.rate)
    return mean, np.broadcast_to(to_numpy(likelihood.dispersion.gathered()), mean.shape)


def _gamma_poisson(
    generator: np.random.Generator, likelihood: NegativeBinomial | ZeroInflatedNegativeBinomial
) -> np.ndarray:
    mean, theta = _mean_and_theta(likelihood)
    intensity = generator.standard_gamma(theta) * (mean / theta)
    return np.asarray(generator.poisson(np.minimum(intensity, MAX_RATE)))


def _negative_binomial_cdf(x: np.ndarray, mean: np.ndarray, theta: np.ndarray) -> np.ndarray:
    # log P(0) in closed form is both faster and more exact than the incomplete beta function
    zero = np.exp(-theta * np.log1p(mean / theta))
    result = np.where(np.asarray(x) < 0, 0.0, zero)
    positive = np.asarray(x) > 0
    if positive.any():
        share = theta[positive] / (theta[positive] + mean[positive])
        result[positive] = special.betainc(theta[positive], np.floor(x[positive]) + 1, share)
    return np.asarray(result)


def _negative_binomial_quantile(u: np.ndarray, mean: np.ndarray, theta: np.ndarray) -> np.ndarray:
    zero = np.exp(-theta * np.log1p(mean / theta))
    result = np.zeros_like(mean)
    positive = u > zero
    if positive.any():
        share = theta[positive] / (theta[positive] + mean[positive])
        result[positive] = stats.nbinom.ppf(np.minimum(u[positive], MAX_QUANTILE), theta[positive], share)
    return result


def _poisson_upper_quantile(s: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Bisection over the integers: SciPy inverts one minus the survival, which rounds to one."""
    low, high = np.full(rate.shape, -1.0), np.maximum(np.ceil(2 * rate), 1.0)
    while (short := special.pdtrc(high, rate) > s).any():
        high[short] *= 2
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        enough = np.where(middle < 0, False, special.pdtrc(np.maximum(middle, 0), rate) <= s)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.asarray(high)


def _negative_binomial_survival(x: np.ndarray, mean: np.ndarray, theta: np.ndarray) -> np.ndarray:
    result = np.where(np.asarray(x) < 0, 1.0, -np.expm1(-theta * np.log1p(mean / theta)))
    positive = np.asarray(x) > 0
    if positive.any():
        share = mean[positive] / (theta[positive] + mean[positive])
        result[positive] = special.betainc(np.floor(x[positive]) + 1, theta[positive], share)
    return np.asarray(result)


def _negative_binomial_upper_quantile(s: np.ndarray, mean: np.ndarray, theta: np.ndarray) -> np.ndarray:
    above_zero = -np.expm1(-theta * np.log1p(mean / theta))
    result = np.zeros_like(mean)
    positive = s < above_zero
    if positive.any():
        share = theta[positive] / (theta[positive] + mean[positive])
        result[positive] = stats.nbinom.isf(np.maximum(s[positive], MIN_SURVIVAL), theta[positive], share)
    return result
