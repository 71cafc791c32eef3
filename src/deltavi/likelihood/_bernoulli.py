"""Independent Bernoulli variables: detection of a gene, or the grey value of a pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.nn import functional as F

from deltavi.likelihood.base import Likelihood, to_numpy


class BernoulliOfGenes(TorchBernoulli):
    """torch's distribution with the methods that scvi-tools calls."""

    def get_normalized(self, key: str) -> Tensor:
        """Probability of detection, for any `key` of scvi-tools' normalised expression."""
        return self.probs


@dataclass(frozen=True, eq=False)
class Bernoulli(Likelihood):
    """Detection of each gene, given its log odds.

    Values between zero and one are taken for probabilities: their log probability is then the negative cross entropy,
    which is not normalised.

    Parameters
    ----------
    logits
        ``([n_samples,] n_cells, n_genes)`` log odds.
    """

    logits: Tensor
    of_counts: ClassVar[bool] = False

    @property
    def rate(self) -> Tensor:  # type: ignore[override]  # derived here, given elsewhere
        return self.logits.sigmoid()

    @property
    def scale(self) -> Tensor | None:  # type: ignore[override]
        return None

    def log_prob_per_gene(self, x: Tensor) -> Tensor:
        return x * self.logits - F.softplus(self.logits)

    @property
    def mean(self) -> Tensor:
        return self.rate

    @property
    def variance(self) -> Tensor:
        return self.rate * (1 - self.rate)

    def sample(self, generator: np.random.Generator) -> Tensor:
        probability = to_numpy(self.rate)
        return torch.from_numpy((generator.random(probability.shape) < probability).astype(np.float32))

    def cdf(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(1.0 - self.survival(x))

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return np.asarray(u > to_numpy((-self.logits).sigmoid()), dtype=np.float64)

    def survival(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        return np.where(x < 0, 1.0, np.where(x < 1, to_numpy(self.rate), 0.0))

    def upper_quantile(self, s: np.ndarray) -> np.ndarray:
        return np.asarray(s < to_numpy(self.rate), dtype=np.float64)

    def shifted_by(self, offsets: Tensor) -> Likelihood:
        return replace(self, logits=self.logits + offsets)

    @property
    def distribution(self) -> TorchBernoulli:
        return BernoulliOfGenes(logits=self.logits, validate_args=False)
