"""MIXVI's terms, one cell and one component at a time, for the tests to compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from torch import Tensor
from torch.distributions import Dirichlet, Normal, kl_divergence

from deltavi.module import MIXVI

N_CELLS, N_GENES, N_BATCH, N_CONDITIONS = 10, 9, 2, 2
K, N_LABELS, N_LATENT = 5, 3, 3
ALPHA, N_TRAINING, COUNTS = 0.25, 40.0, (5, 2, 1)
CODES = (-1, 0, 1, 2, -1, 0, -1, 2, 0, -1)
UNLABELLED, LABELLED = [i for i, y in enumerate(CODES) if y < 0], [i for i, y in enumerate(CODES) if y >= 0]
LIBRARY = {"library_log_means": np.array([[2.0, 2.5]]), "library_log_vars": np.array([[0.25, 0.5]])}
NAMES = ("y_prior", "z_term", "classifier", "n_w", "conditional", "w_prior")
SETTINGS = [
    ("collapsed", "closed", "posterior", 0, False, "standard"),
    ("collapsed", "mc", "z", 2, True, "learned"),
    ("collapsed", "closed", "mean", 2, False, "learned"),
    ("collapsed", "mc", "posterior", 2, True, "standard"),
    ("dirichlet", "closed", "z", 0, False, "standard"),
    ("dirichlet", "mc", "posterior", 2, True, "learned"),
    ("dirichlet", "mc", "mean", 0, True, "standard"),
    ("dirichlet", "closed", "posterior", 2, False, "standard"),
    ("uniform", "mc", "posterior", 2, False, "learned"),
    ("uniform", "closed", "z", 2, True, "standard"),
    ("uniform", "mc", "mean", 0, False, "standard"),
    ("balanced", "closed", "mean", 2, True, "learned"),
    ("balanced", "mc", "z", 0, True, "standard"),
    ("balanced", "closed", "posterior", 0, False, "standard"),
    ("learned", "mc", "z", 2, False, "standard"),
    ("learned", "closed", "posterior", 2, True, "learned"),
    ("learned", "mc", "mean", 0, True, "standard"),
    ("learned", "closed", "z", 0, False, "standard"),
]


def make_module(seed: int = 0, *, fresh: bool = False, **kwargs: Any) -> MIXVI:
    """A module in evaluation mode; unless it is fresh, nothing of it is at zero."""
    torch.manual_seed(seed)
    if kwargs.get("library") == "learned":
        kwargs |= LIBRARY
    sizes = {"n_components": K, "n_labels": N_LABELS, "n_batch": N_BATCH, "n_conditions": N_CONDITIONS}
    sizes |= {"n_latent": N_LATENT, "n_hidden": 8, "alpha": ALPHA}
    plain = {"dropout_rate": 0.0, "use_batch_norm": "none", "gene_likelihood": "nb"}
    module = MIXVI(N_GENES, **{**sizes, **plain, **kwargs}).double()
    module.get_buffer("n_cells").fill_(N_TRAINING)
    if module.n_labels == N_LABELS:
        module.set_label_frequencies(torch.tensor(COUNTS))
    if not fresh:
        at_zero = ("mixture", "prior_logits", "w_prior")
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name.startswith(at_zero):
                    parameter.add_((0.8 if name == "mixture.loc" else 0.2) * torch.randn_like(parameter))
                elif "_encoder." in name:
                    # keeps draws near the components: the input is far from zero
                    parameter.mul_(0.5)
    return module.eval()


def make_tensors(codes: Sequence[int] = CODES) -> dict[str, Tensor]:
    """Counts of two batches and two conditions; the last cell's condition is one that training never saw."""
    rng, n = np.random.default_rng(0), len(codes)
    condition = rng.integers(0, N_CONDITIONS, (n, 1))
    condition[-1] = -1
    return {
        "X": torch.from_numpy(rng.poisson(1.5, (n, N_GENES))).double(),
        "batch": torch.from_numpy(rng.integers(0, N_BATCH, (n, 1))),
        "labels": torch.tensor(codes).view(-1, 1),
        "condition": torch.from_numpy(condition),
    }


def run(module: MIXVI, tensors: dict[str, Tensor], seed: int = 5, n_samples: int = 1, **loss: Any) -> Any:
    torch.manual_seed(seed)
    return module(tensors, inference_kwargs={"n_samples": n_samples}, loss_kwargs=loss)


def kl_of(output: Any, name: str) -> Tensor:
    return output.kl_local[f"kl_divergence_{name}"]


def negative_bound(output: Any) -> Tensor:
    return output.reconstruction_loss["reconstruction_loss"] + sum(output.kl_local.values())


# -- the model by hand ---------------------------------------------------------------------------------------


def one_hot(code: Tensor, n: int) -> Tensor:
    """A row of a one-hot matrix; an unseen category is the average of the known ones."""
    return torch.full((n,), 1 / n, dtype=torch.float64) if int(code) < 0 else torch.eye(n).double()[int(code)]


def rows_of(module: MIXVI, tensors: dict[str, Tensor]) -> list[Tensor]:
    """One-hot rows of batch and, where the module depends on it, condition."""
    rows = [torch.stack([one_hot(code, N_BATCH) for code in tensors["batch"]])]
    if module.conditional:
        rows.append(torch.stack([one_hot(code, N_CONDITIONS) for code in tensors["condition"]]))
    return rows


def encoded(module: MIXVI, tensors: dict[str, Tensor]) -> tuple[Normal, Normal | None]:
    """q(z | x) and q(w | x) of counts scaled to ten thousand."""
    x = (1e4 * tensors["X"] / tensors["X"].sum(-1, keepdim=True) + 1).log()
    rows = rows_of(module, tensors) if module.conditional else []
    w = module.w_encoder(x, *rows).posterior if module.n_w else None
    return module.z_encoder(x, *rows).posterior, w


def log_counts(module: MIXVI, tensors: dict[str, Tensor], z: Tensor, library: Tensor | None = None) -> Tensor:
    """log p(x | z, l) by scvi-tools' distributions."""
    decoded = module.decoder(z, *rows_of(module, tensors))
    size = tensors["X"].sum(-1, keepdim=True) if library is None else library.exp()
    mu = size * decoded.scale
    if module.gene_likelihood == "poisson":
        return Poisson(rate=mu).log_prob(tensors["X"]).sum(-1)
    theta = module.px_r.exp()
    if module.gene_likelihood == "nb":
        return NegativeBinomial(mu=mu, theta=theta).log_prob(tensors["X"]).sum(-1)
    found = ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=decoded.dropout_logits)
    return found.log_prob(tensors["X"]).sum(-1)


def component(module: MIXVI, k: int, w: Tensor | None, condition: Tensor) -> Normal:
    """p(z | w, y = k, c) of one cell."""
    mixture = module.mixture
    loc, log_variance = mixture.loc[k], mixture.log_variance[k]
    given = [] if w is None else [w]
    given += [one_hot(condition, N_CONDITIONS)] if module.conditional else []
    if given:
        hidden = torch.relu(mixture.given(torch.cat(given)) + mixture.column[k])
        loc, log_variance = loc + mixture.loc_shift(hidden), log_variance + mixture.log_variance_shift(hidden)
    if module.conditional:
        loc = loc + one_hot(condition, N_CONDITIONS).to(mixture.common.dtype) @ mixture.common
    return Normal(loc, (log_variance.exp() + 1e-4).sqrt())


def log_shares(module: MIXVI) -> Tensor:
    """log p(y)."""
    if module.y_prior == "learned":
        return module.prior_logits - module.prior_logits.exp().sum().log()
    return torch.full((module.n_components,), -math.log(module.n_components), dtype=torch.float64)


def log_joint(module: MIXVI, z: Tensor, w: Tensor | None, condition: Tensor) -> Tensor:
    """log p(y) p(z | w, y, c) of one cell, ``(n_components,)``."""
    shares = log_shares(module)
    found = [shares[k] + component(module, k, w, condition).log_prob(z).sum() for k in range(module.n_components)]
    return torch.stack(found)


def logits_of_cell(module: MIXVI, z: Tensor, mean: Tensor, w: Tensor | None, condition: Tensor) -> Tensor:
    if module.classifier_kind == "posterior":
        return log_joint(module, z, w, condition)
    row = [one_hot(condition, N_CONDITIONS)] if module.conditional else []
    at = mean if module.classifier_kind == "mean" else z
    return module.classifier(torch.cat([at, *row]).unsqueeze(0)).squeeze(0)


def z_by_hand(module: MIXVI, q: Tensor, posterior: Normal, z: Tensor, w: Tensor | None, condition: Tensor) -> Tensor:
    """Divergence of one cell's z from the components, each weighed by `q`."""
    total = torch.zeros(()).double()
    for k in range(module.n_components):
        prior = component(module, k, w, condition)
        if module.z_term == "closed":
            total = total + q[k] * kl_divergence(posterior, prior).sum()
        else:
            total = total + q[k] * (posterior.log_prob(z) - prior.log_prob(z)).sum()
    return total


def y_by_hand(module: MIXVI, q: Tensor, z: Tensor) -> Tensor:
    """Divergence of q(y | z) and q(d | z) of cells; a Dirichlet is drawn from the present random state."""
    minus_entropy, alpha = torch.xlogy(q, q).sum(-1), torch.full((module.n_components,), ALPHA, dtype=torch.float64)
    if module.y_prior == "dirichlet":
        shares = Dirichlet((module.concentration(z).exp() + 1).log())
        kl = torch.stack([kl_divergence(Dirichlet(row), Dirichlet(alpha)) for row in shares.concentration])
        return minus_entropy - (q * shares.rsample().log()).sum(-1) + kl
    terms = []
    for cell in range(len(q)):
        if module.y_prior == "collapsed":
            # the sampled form with its expectation, at the best concentration
            best = alpha + q[cell]
            expected_log = torch.digamma(best) - torch.digamma(best.sum())
            kl = kl_divergence(Dirichlet(best), Dirichlet(alpha))
            terms.append(minus_entropy[cell] - (q[cell] * expected_log).sum() + kl)
        elif module.y_prior == "balanced":
            mean = q.sum(0) / len(q)
            terms.append((mean * (mean * module.n_components).log()).sum())
        else:
            terms.append(minus_entropy[cell] - (q[cell] * log_shares(module)).sum())
    return torch.stack(terms)


def w_by_hand(module: MIXVI, posterior: Normal, condition: Tensor) -> Tensor:
    """KL of every dimension of w of one cell, written out."""
    mean, scale = torch.zeros(module.n_w).double(), torch.ones(module.n_w).double()
    if module.w_prior == "learned":
        row = one_hot(condition, N_CONDITIONS)
        mean = (row.unsqueeze(-1) * module.w_prior_loc).sum(0)
        scale = (row.unsqueeze(-1) * module.w_prior_log_scale).sum(0).exp()
    squares = posterior.variance + (posterior.mean - mean) ** 2
    return (scale / posterior.stddev).log() + squares / (2 * scale**2) - 0.5


def cross_entropy_by_hand(module: MIXVI, logits: Tensor, codes: Tensor) -> Tensor:
    """Mean within each label, weighed by how much the label counts."""
    frequencies = torch.tensor([n + 1 for n in COUNTS]).double() / (sum(COUNTS) + len(COUNTS))
    rarest = frequencies.min().expand(logits.shape[-1] - N_LABELS)
    adjustment = module.logit_adjustment * torch.cat([frequencies, rarest]).log()
    total, weight = torch.zeros(()).double(), torch.zeros(()).double()
    for label in range(N_LABELS):
        of_label = [logits[i] + adjustment for i in range(len(logits)) if int(codes[i]) == label]
        if of_label:
            mean = sum(row.logsumexp(0) - row[label] for row in of_label) / len(of_label)
            counts_for = frequencies[label] ** (1 - module.class_balance)
            total, weight = total + counts_for * mean, weight + counts_for
    return total / weight


def by_hand(
    module: MIXVI, tensors: dict[str, Tensor], inference: dict[str, Any], cells: Sequence[int], sample: Any = ...
) -> dict[str, Tensor]:
    """Every term of the loss for `cells`, and the logits of all cells, one cell and one component at a time."""
    z, posterior, state = inference["z"][sample], inference["qz"], inference["w"]
    w = None if state is None else state.sample[sample]
    condition = tensors["condition"]
    logits = torch.stack(
        [
            logits_of_cell(module, z[i], posterior.loc[i], None if w is None else w[i], condition[i])
            for i in range(len(z))
        ]
    )
    codes = tensors["labels"] if module.n_labels else torch.full_like(tensors["labels"], -1)
    terms: dict[str, list[Tensor]] = {"z": [], "w": [], "q": []}
    for i in cells:
        q = logits[i].softmax(-1) if int(codes[i]) < 0 else torch.eye(module.n_components).double()[int(codes[i])]
        own = Normal(posterior.loc[i], posterior.scale[i])
        terms["q"].append(q)
        terms["z"].append(z_by_hand(module, q, own, z[i], None if w is None else w[i], condition[i]))
        if state is not None:
            of_w = Normal(state.posterior.loc[i], state.posterior.scale[i])
            terms["w"].append(w_by_hand(module, of_w, condition[i]))
    kept = list(cells)
    size = inference["library"][sample] if module.library == "learned" else None
    return {
        "reconstruction": -log_counts(module, tensors, z, size)[kept],
        "z": torch.stack(terms["z"]),
        "y": y_by_hand(module, torch.stack(terms["q"]), z[kept]),
        "w": torch.stack(terms["w"]).sum(-1) if terms["w"] else torch.zeros(len(kept)).double(),
        "logits": logits,
    }


def replay(module: MIXVI, tensors: dict[str, Tensor], inference: dict[str, Any], seed: int = 5) -> None:
    """See that z, l and w were drawn as they should, and leave the random state behind those draws."""
    q_z, q_w = encoded(module, tensors)
    torch.manual_seed(seed)
    z = inference["z"]
    torch.testing.assert_close(z, q_z.loc + q_z.scale * torch.randn_like(z))
    if module.library == "learned":
        torch.randn_like(inference["library"])
    if module.n_w:
        w = inference["w"].sample
        torch.testing.assert_close(w, q_w.loc + q_w.scale * torch.randn_like(w))
    else:
        assert inference["w"] is None


def assert_terms(output: Any, expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(output.reconstruction_loss["reconstruction_loss"], expected["reconstruction"])
    for name in ("z", "y", "w"):
        torch.testing.assert_close(kl_of(output, name), expected[name])
