"""A label hierarchy over a Gaussian latent variable: z2 and the label y explain z1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, kl_divergence
from torch.nn import functional as F

from deltavi.latent._label_sums import LabelSums, Pairs
from deltavi.latent.gaussian import VARIANCE_FLOOR, standard_normal_like

# Standard deviation of the first layer's label columns at the start, relative to that of a unit input.
LABEL_SCALE = 1.0


def log_density(distribution: Distribution, value: Tensor) -> Tensor:
    """Log density of a vector whose entries are independent, nats; the last axis is summed.

    Parameters
    ----------
    distribution
        Of every entry.
    value
        ``(..., n)``.
    """
    per_entry: Tensor = distribution.log_prob(value)
    return per_entry.sum(-1)


@dataclass(frozen=True, eq=False)
class LabelWeights:
    """Weights of the labels of each cell in the sums over y.

    Parameters
    ----------
    values
        ``([n_samples,] n_cells, n_labels)``: q(y | z1) of an unlabelled cell, one-hot of a labelled one.
    entropy
        ``([n_samples,] n_cells)`` entropy of q(y | z1) in nats; zero for a labelled cell.
    """

    values: Tensor
    entropy: Tensor


def label_weights(logits: Tensor, code: Tensor) -> LabelWeights:
    """Weights of every label in the sums over y.

    Parameters
    ----------
    logits
        ``([n_samples,] n_cells, n_labels)`` unnormalised log q(y | z1).
    code
        ``(n_cells, 1)`` label of each cell, -1 where it is unknown.
    """
    code = code.long().squeeze(-1)
    # the code of an unknown label is no category: it is masked, never encoded
    observed = F.one_hot(code.clamp_min(0), logits.shape[-1]).to(logits.dtype)
    known = code >= 0
    # from log probabilities: the derivative of p log p has no value at a probability that underflowed to zero
    log_probabilities = logits.log_softmax(-1)
    probabilities = log_probabilities.exp()
    entropy = -(probabilities * log_probabilities).sum(-1)
    return LabelWeights(
        values=torch.where(known.unsqueeze(-1), observed, probabilities),
        entropy=torch.where(known, torch.zeros_like(entropy), entropy),
    )


class LabelConditional(nn.Module):
    """Gaussian of one latent variable given another and a label, for all labels in one call.

    The first layer acts on the latent variable once and adds a column per label, so that what does not depend on
    the label is computed once.

    Parameters
    ----------
    n_input, n_output
        Dimensions of the given and of the described latent variable.
    n_labels
        Number of labels.
    n_hidden
        Hidden units.
    dropout_rate
        Dropout of the hidden layer.
    """

    def __init__(self, n_input: int, n_output: int, *, n_labels: int, n_hidden: int, dropout_rate: float = 0.0) -> None:
        super().__init__()
        self.given = nn.Linear(n_input, n_hidden)
        self.label = nn.Parameter(LABEL_SCALE * torch.randn(n_labels, n_hidden) / n_input**0.5)
        self.dropout = nn.Dropout(dropout_rate)
        self.mean = nn.Linear(n_hidden, n_output)
        self.log_variance = nn.Linear(n_hidden, n_output)

    def forward(self, value: Tensor) -> Normal:
        """Distribution for every label.

        Parameters
        ----------
        value
            ``(..., n_cells, n_input)``, the same for all labels, or ``(n_labels, ..., n_cells, n_input)`` with
            a leading label axis, for which see :meth:`for_each`.

        Returns
        -------
        Normal of shape ``(n_labels, ..., n_cells, n_output)``.
        """
        return self._from_hidden(self.given(value).unsqueeze(0))

    def for_each(self, value: Tensor) -> Normal:
        """Distribution for every label where `value` ``(n_labels, ..., n_cells, n_input)`` has a label axis itself."""
        return self._from_hidden(self.given(value))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Weights of all layers, as :class:`deltavi.latent.LabelSums` takes them."""
        given, mean, log_variance = self.given, self.mean, self.log_variance
        heads = (mean.weight, mean.bias, log_variance.weight, log_variance.bias)
        return (given.weight, given.bias, self.label, *heads)

    def _from_hidden(self, hidden: Tensor) -> Normal:
        columns = self.label.view(-1, *[1] * (hidden.dim() - 2), self.label.shape[-1])
        activated = self.dropout(torch.relu(hidden + columns))
        variance = self.log_variance(activated).exp() + VARIANCE_FLOOR
        return Normal(self.mean(activated), variance.sqrt(), validate_args=False)


@dataclass(frozen=True, eq=False)
class LabelTerms:
    """Terms of the bound that the labels enter, for every label.

    Parameters
    ----------
    log_conditional
        ``(n_labels, [n_samples,] n_cells)`` log p(z1 | z2, y), nats.
    kl
        The same shape: KL[q(z2 | z1, y) || N(0, I)] in closed form, nats.
    log_ratio
        The same shape: log p(z2) - log q(z2 | z1, y) at the drawn z2, nats; its expectation is minus `kl`.
    """

    log_conditional: Tensor
    kl: Tensor
    log_ratio: Tensor


class LabelHierarchy(nn.Module):
    """p(z2) p(y) p(z1 | z2, y) with q(z2 | z1, y): all terms of labels but the classifier q(y | z1).

    Parameters
    ----------
    n_latent
        Dimensions of z1 and of z2.
    n_labels
        Number of labels.
    n_hidden
        Hidden units of both conditionals.
    dropout_rate
        Dropout of q(z2 | z1, y).
    learn_prior
        True if p(y) is learned rather than fixed.
    """

    def __init__(
        self, n_latent: int, n_labels: int, *, n_hidden: int, dropout_rate: float = 0.0, learn_prior: bool = False
    ) -> None:
        super().__init__()
        self.posterior = LabelConditional(
            n_latent, n_latent, n_labels=n_labels, n_hidden=n_hidden, dropout_rate=dropout_rate
        )
        self.conditional = LabelConditional(n_latent, n_latent, n_labels=n_labels, n_hidden=n_hidden)
        self.prior_logits: Tensor
        if learn_prior:
            self.prior_logits = nn.Parameter(torch.zeros(n_labels))
        else:
            self.register_buffer("prior_logits", torch.zeros(n_labels))

    @property
    def log_prior(self) -> Tensor:
        """log p(y), ``(n_labels,)``."""
        return self.prior_logits.log_softmax(-1)

    def set_prior(self, frequencies: Tensor) -> None:
        """Set p(y) to `frequencies` ``(n_labels,)``, all positive."""
        with torch.no_grad():
            self.prior_logits.copy_(frequencies.log())

    def terms(self, z1: Tensor) -> LabelTerms:
        """Draw z2 for every label, and evaluate what depends on it.

        Parameters
        ----------
        z1
            ``([n_samples,] n_cells, n_latent)``.
        """
        posterior = self.posterior(z1)
        prior = standard_normal_like(posterior.loc)
        z2 = posterior.rsample()
        return LabelTerms(
            log_conditional=log_density(self.conditional.for_each(z2), z1),
            kl=kl_divergence(posterior, prior).sum(-1),
            log_ratio=log_density(prior, z2) - log_density(posterior, z2),
        )

    def kl(self, z1: Tensor, weights: LabelWeights, code: Tensor, *, log_posterior_z1: Tensor) -> dict[str, Tensor]:
        """Sums over y as of :func:`label_kl`, with a draw of z2 for every label.

        Parameters
        ----------
        z1
            ``([n_samples,] n_cells, n_latent)``.
        weights
            As :func:`label_weights` gives them.
        code
            ``(n_cells, 1)`` label of each cell, -1 where it is unknown.
        log_posterior_z1
            As in :func:`label_kl`.
        """
        if self.posterior.dropout.p > 0 or torch.is_autocast_enabled(z1.device.type):
            return label_kl(self.terms(z1), weights, log_prior=self.log_prior, log_posterior_z1=log_posterior_z1)
        n_labels, rows = len(self.prior_logits), z1.reshape(-1, z1.shape[-1])
        codes = code.long().squeeze(-1).expand(z1.shape[:-1]).reshape(-1)
        noise = torch.randn(n_labels, *rows.shape, dtype=z1.dtype, device=z1.device)
        given = rows, weights.values.reshape(-1, n_labels), noise, Pairs.of(codes, n_labels)
        log_conditional, kl = LabelSums.apply(*given, *self.posterior.tensors, *self.conditional.tensors)  # type: ignore[no-untyped-call]
        return {
            "z1": log_posterior_z1 - log_conditional.view(z1.shape[:-1]),
            "y": -weights.entropy - (weights.values * self.log_prior).sum(-1),
            "z2": kl.view(z1.shape[:-1]),
        }

    def log_marginal(self, z1: Tensor, log_likelihood: Tensor | None = None) -> Tensor:
        """Log of an unbiased one-draw estimate of p(z1), the labels summed out, ``([n_samples,] n_cells)``.

        Parameters
        ----------
        z1
            ``([n_samples,] n_cells, n_latent)``.
        log_likelihood
            ``(n_labels, [n_samples,] n_cells)`` log p(x | z1, y), which makes it an estimate of p(x, z1).
        """
        terms = self.terms(z1)
        log_joint = self.log_prior.view(-1, *[1] * (z1.dim() - 1)) + terms.log_conditional + terms.log_ratio
        return (log_joint if log_likelihood is None else log_joint + log_likelihood).logsumexp(0)


def label_kl(
    terms: LabelTerms, weights: LabelWeights, *, log_prior: Tensor, log_posterior_z1: Tensor
) -> dict[str, Tensor]:
    """Exact sums over y: the terms of the negative bound that depend on labels.

    With one-hot weights these are the terms of the labelled bound: the entropy of q(y | z1) vanishes and -log p(y)
    remains.

    Parameters
    ----------
    terms
        For every label.
    weights
        As :func:`label_weights` gives them.
    log_prior
        ``(n_labels,)`` log p(y).
    log_posterior_z1
        ``([n_samples,] n_cells)`` log q(z1 | x) at the drawn z1.

    Returns
    -------
    ``"z1"``: log q(z1 | x) - E log p(z1 | z2, y); ``"y"``: E log q(y | z1) / p(y); ``"z2"``: E KL of z2; each
    ``([n_samples,] n_cells)`` nats.
    """
    over_labels = weights.values.movedim(-1, 0)
    return {
        "z1": log_posterior_z1 - (over_labels * terms.log_conditional).sum(0),
        "y": -weights.entropy - (weights.values * log_prior).sum(-1),
        "z2": (over_labels * terms.kl).sum(0),
    }
