"""Likelihoods of expression, independent of latent variables."""

from deltavi.likelihood._bernoulli import Bernoulli
from deltavi.likelihood._counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from deltavi.likelihood._dispersion import Dispersion, rows_with_average
from deltavi.likelihood._gaussian import Gaussian
from deltavi.likelihood._nonzero import Nonzeros
from deltavi.likelihood.base import Likelihood

__all__ = [
    "Bernoulli",
    "Dispersion",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Nonzeros",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "rows_with_average",
]
