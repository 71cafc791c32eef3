"""Inputs of count likelihoods with their references, in scvi-tools' arithmetic and in that of fifty digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import mpmath
import torch
from scvi.distributions import NegativeBinomial as ScviNegativeBinomial
from scvi.distributions import Poisson as ScviPoisson
from scvi.distributions import ZeroInflatedNegativeBinomial as ScviZeroInflatedNegativeBinomial
from torch import Tensor

from deltavi.likelihood import Dispersion, Likelihood, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

KINDS = ("zinb", "nb", "poisson")
THETAS = ("row", "batch", "cell", "label")
N_CELLS, N_GENES, N_BATCHES, N_LABELS, N_SAMPLES = 12, 40, 3, 2, 3
# scvi-tools adds it inside its logarithms
EPS = mpmath.mpf("1e-8")


@dataclass(frozen=True, eq=False)
class Inputs:
    """Counts of a mini-batch with what a likelihood of them is made of.

    Parameters
    ----------
    kind
        Which likelihood.
    x
        ``(n_cells, n_genes)`` counts.
    parameters
        Rate, theta as it is kept, and dropout logits, as far as the likelihood has them.
    row
        ``(n_cells,)`` row of theta of each cell, where it is kept per batch.
    """

    kind: str
    x: Tensor
    parameters: dict[str, Tensor]
    row: Tensor | None = None

    @property
    def likelihood(self) -> Likelihood:
        """Ours."""
        p = self.parameters
        if self.kind == "poisson":
            return Poisson(p["rate"])
        dispersion = Dispersion(p["theta"], self.row)
        if self.kind == "nb":
            return NegativeBinomial(p["rate"], dispersion)
        return ZeroInflatedNegativeBinomial(p["rate"], dispersion, p["logits"])

    @property
    def scvi(self) -> Any:
        """That of scvi-tools."""
        p = self.parameters
        if self.kind == "poisson":
            return ScviPoisson(p["rate"], validate_args=False)
        theta = p["theta"] if self.row is None else p["theta"][self.row]
        if self.kind == "nb":
            return ScviNegativeBinomial(mu=p["rate"], theta=theta, validate_args=False)
        return ScviZeroInflatedNegativeBinomial(mu=p["rate"], theta=theta, zi_logits=p["logits"], validate_args=False)

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same numbers in another precision."""
        parameters = {name: value.detach().to(dtype) for name, value in self.parameters.items()}
        return replace(self, x=self.x.to(dtype), parameters=parameters)

    def leaves(self) -> Inputs:
        """The same as leaves of a graph of its own."""
        leaves = {name: value.detach().clone().requires_grad_() for name, value in self.parameters.items()}
        return replace(self, parameters=leaves)

    def of(self, cells: Tensor) -> Inputs:
        """Those of some cells, with theta as one row or per cell."""
        kept = {name: value if value.dim() == 1 else value[cells] for name, value in self.parameters.items()}
        return replace(self, x=self.x[cells], parameters=kept)


def draw(
    kind: str,
    *,
    density: float = 0.1,
    log_theta: tuple[float, float] = (-1, 1),
    logit: float = 0.0,
    theta: str = "row",
    samples: bool = False,
    shape: tuple[int, int] = (N_CELLS, N_GENES),
    seed: int = 0,
) -> Inputs:
    """Counts with an empty cell and values far above most; parameters drawn around what is asked for.

    One count is a fraction, but for the Poisson, which refuses them.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    n_cells, n_genes = shape
    x = torch.poisson(4 * uniform(n_cells, n_genes), generator=generator) + 1
    x[uniform(n_cells, n_genes) > density] = 0
    if n_cells > 3 and n_genes > 3:
        x[1] = 0
        x[2, :4] = torch.tensor([1.0 if kind == "poisson" else 0.5, 8.0, 9.0, 60.0])
    thetas = {
        "row": (n_genes,),
        "batch": (N_BATCHES, n_genes),
        "cell": (n_cells, n_genes),
        "label": (N_LABELS, *(1,) * samples, 1, n_genes),
    }
    leading = (N_SAMPLES,) * samples
    low, high = log_theta
    parameters = {
        "rate": 6 * uniform(*leading, n_cells, n_genes) + 1e-3,
        "theta": 10 ** (low + (high - low) * uniform(*thetas[theta])),
        "logits": logit + 4 * uniform(*leading, n_cells, n_genes) - 2,
    }
    wanted = {"zinb": ("rate", "theta", "logits"), "nb": ("rate", "theta"), "poisson": ("rate",)}[kind]
    row = torch.arange(n_cells) % N_BATCHES if theta == "batch" else None
    return Inputs(kind, x, {name: parameters[name] for name in wanted}, row)


# What training takes of log probabilities, and what weighs cells differently: the two ways through the gradients.
SUMS: dict[str, Callable[[Tensor], Tensor]] = {
    "loss": lambda nats: -nats.mean(),
    "mean": lambda nats: nats.mean(),
    "sum": lambda nats: 2.5 * nats.sum(),
    "unequal": lambda nats: (nats * torch.linspace(-1, 2, nats.numel(), dtype=nats.dtype).view_as(nats)).sum(),
}


def gradients(inputs: Inputs, nats: Tensor, weigh: str) -> dict[str, Tensor]:
    """Derivatives of weighted log probabilities by every parameter; the graph is kept."""
    found = torch.autograd.grad(SUMS[weigh](nats), list(inputs.parameters.values()), retain_graph=True)
    return dict(zip(inputs.parameters, found, strict=True))


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to 1 + |expected|."""
    assert found.shape == expected.shape
    found, expected = found.detach().double(), expected.detach().double()
    return float(((found - expected).abs() / (1 + expected.abs())).max()) if found.numel() else 0.0


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Tensors by name, up to `tolerance`."""
    assert found.keys() == expected.keys()
    errors = {name: error(value, expected[name]) for name, value in found.items()}
    assert max(errors.values()) <= tolerance, errors


def exact_log_prob(x: Any, rate: Any, theta: Any, logit: Any = None) -> Any:
    """Log probability of one count in nats, in mpmath's precision."""
    zero = theta * (mpmath.log(theta + EPS) - mpmath.log(theta + rate + EPS))
    if logit is not None:
        kept = -mpmath.log1p(mpmath.exp(logit))
        if x == 0:
            return mpmath.log1p(mpmath.exp(-logit + zero)) - mpmath.log1p(mpmath.exp(-logit))
        zero += kept
    of_count = x * (mpmath.log(rate + EPS) - mpmath.log(theta + rate + EPS))
    return zero + of_count + mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)


@cache
def exact(x: float, *parameters: float) -> tuple[float, ...]:
    """Log probability of one count, and its derivatives by rate, theta and logit, rounded from fifty digits."""
    with mpmath.workdps(50):
        at = [mpmath.mpf(value) for value in parameters]

        def function(*values: Any) -> Any:
            return exact_log_prob(mpmath.mpf(x), *values)

        slopes = [mpmath.diff(function, at, tuple(int(i == j) for j in range(len(at)))) for i in range(len(at))]
        return tuple(float(value) for value in (function(*at), *slopes))
