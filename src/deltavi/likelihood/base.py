"""Base of every likelihood of an expression vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from deltavi.likelihood._nonzero import Nonzeros


class Likelihood(ABC):
    """Distribution of one cell's expression given its decoded parameters; genes are independent.

    Shapes are ``([n_samples,] n_cells, n_genes)``. Count likelihoods take raw counts, the Gaussian one
    log-normalised expression; log probabilities are in nats.
    """

    # true if values are raw counts, which have a library size and are normalised to log1p CP10k
    of_counts: ClassVar[bool] = True

    rate: Tensor
    scale: Tensor | None

    @abstractmethod
    def log_prob_per_gene(self, x: Tensor) -> Tensor:
        """Log probability of every entry of `x`, ``([n_samples,] n_cells, n_genes)`` nats."""

    def log_prob(self, x: Tensor, nonzeros: Nonzeros | None = None) -> Tensor:
        """Log probability of each cell, ``([n_samples,] n_cells)`` nats.

        Parameters
        ----------
        x
            ``(n_cells, n_genes)`` expression.
        nonzeros
            Its nonzero counts, if they are found already; only count likelihoods use them.
        """
        return self.log_prob_per_gene(x).sum(-1)

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Expected expression."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Variance of the expression."""

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Parameters of the distribution under scvi-tools' names, each of the shape of the expression."""
        return {"mean": self.rate}

    @abstractmethod
    def sample(self, generator: np.random.Generator) -> Tensor:
        """One draw of the expression, on the CPU; `generator` is the only source of randomness."""

    @abstractmethod
    def cdf(self, x: np.ndarray) -> np.ndarray:
        """P(X <= x) for every entry, as float64."""

    @abstractmethod
    def quantile(self, u: np.ndarray) -> np.ndarray:
        """Smallest x with P(X <= x) >= u for every entry, as float64."""

    @abstractmethod
    def survival(self, x: np.ndarray) -> np.ndarray:
        """P(X > x) for every entry, exact far out in the upper tail where the cdf rounds to one."""

    @abstractmethod
    def upper_quantile(self, s: np.ndarray) -> np.ndarray:
        """Smallest x with P(X > x) <= s for every entry, as float64."""

    @abstractmethod
    def shifted_by(self, offsets: Tensor) -> Likelihood:
        """The same distribution, shifted: the log of a rate, a Gaussian mean or log odds plus `offsets`.

        Parameters
        ----------
        offsets
            ``(n_cells, n_genes)``, or a row for all cells.
        """

    def without_scale(self) -> Likelihood:
        """The same distribution, less what scvi-tools' methods alone ask for."""
        return self

    @property
    @abstractmethod
    def distribution(self) -> Distribution:
        """The equivalent ``scvi.distributions`` object, for scvi-tools' own methods."""


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Detach to a float64 array: the incomplete beta function underflows in single precision."""
    return np.asarray(tensor.detach().cpu().to(torch.float64).numpy())
