"""Independent Gaussians over log-normalised expression."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy import special
from torch import Tensor

from deltavi._compat import scvi_distributions
from deltavi.likelihood.base import Likelihood, to_numpy

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from deltavi.likelihood._dispersion import Dispersion


@dataclass(frozen=True, eq=False)
class Gaussian(Likelihood):
    """Normal distribution of log-normalised expression.

    Parameters
    ----------
    rate
        ``([n_samples,] n_cells, n_genes)`` mean on the scale of the input.
    dispersion
        Standard deviation, kept as rows.
    scale
        The decoder's output before any library size, where there is one. Without, the mean is taken for log1p of
        normalised expression, and scvi-tools' methods get the expression itself, so that fold changes are defined.
    """

    rate: Tensor
    dispersion: Dispersion
    scale: Tensor | None = None
    of_counts: ClassVar[bool] = False

    def log_prob_per_gene(self, x: Tensor) -> Tensor:
        deviation = self.dispersion.gathered()
        return -0.5 * ((x - self.rate) / deviation) ** 2 - deviation.log() - 0.5 * math.log(2 * math.pi)

    @property
    def mean(self) -> Tensor:
        return self.rate

    @property
    def variance(self) -> Tensor:
        return self.dispersion.gathered().square().expand_as(self.rate)

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"mean": self.rate, "scale": self.dispersion.gathered().expand_as(self.rate)}

    def sample(self, generator: np.random.Generator) -> Tensor:
        mean, deviation = self._moments()
        return torch.from_numpy((mean + deviation * generator.standard_normal(mean.shape)).astype(np.float32))

    def cdf(self, x: np.ndarray) -> np.ndarray:
        mean, deviation = self._moments()
        return np.asarray(special.ndtr((x - mean) / deviation))

    def quantile(self, u: np.ndarray) -> np.ndarray:
        mean, deviation = self._moments()
        return np.asarray(mean + deviation * special.ndtri(u))

    def survival(self, x: np.ndarray) -> np.ndarray:
        mean, deviation = self._moments()
        return np.asarray(special.ndtr((mean - x) / deviation))

    def upper_quantile(self, s: np.ndarray) -> np.ndarray:
        mean, deviation = self._moments()
        return np.asarray(mean - deviation * special.ndtri(s))

    def shifted_by(self, offsets: Tensor) -> Likelihood:
        return replace(self, rate=self.rate + offsets)

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        mean = to_numpy(self.rate)
        return mean, np.broadcast_to(to_numpy(self.dispersion.gathered()), mean.shape)

    @property
    def distribution(self) -> Distribution:
        normalised = self.rate.clamp_min(0.0).expm1() if self.scale is None else self.scale
        spread = self.dispersion.gathered().expand_as(self.rate)
        return scvi_distributions.Normal(self.rate, spread, normal_mu=normalised)
