"""MIXVI's loss against loops over cells and components, and the plain VAE."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Dirichlet, Normal, kl_divergence
from torch.nn import functional as F

from deltavi.module import MIXVI, VAE
from tests.module.mixvi_by_hand import (
    ALPHA,
    CODES,
    LABELLED,
    LIBRARY,
    N_BATCH,
    N_CELLS,
    N_GENES,
    N_LABELS,
    N_LATENT,
    N_TRAINING,
    NAMES,
    SETTINGS,
    UNLABELLED,
    K,
    assert_terms,
    by_hand,
    cross_entropy_by_hand,
    kl_of,
    log_shares,
    make_module,
    make_tensors,
    negative_bound,
    replay,
    run,
    w_by_hand,
)

# -- the loss ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(NAMES, SETTINGS)
def test_loss_equals_a_loop_over_cells_and_components(
    y_prior: str, z_term: str, classifier: str, n_w: int, conditional: bool, w_prior: str
) -> None:
    given = (y_prior, z_term, classifier, n_w, conditional, w_prior)
    module = make_module(**dict(zip(NAMES, given, strict=True)), classification_weight=7.0, class_balance=0.5)
    tensors = make_tensors()
    inference, _, output = run(module, tensors, kl_weight=0.3)
    replay(module, tensors, inference)
    expected = by_hand(module, tensors, inference, range(N_CELLS))
    assert_terms(output, expected)
    assert (kl_of(output, "l") == 0).all()
    bound = expected["reconstruction"] + 0.3 * (expected["z"] + expected["y"] + expected["w"])
    cross_entropy = cross_entropy_by_hand(module, expected["logits"], tensors["labels"])
    penalty = ALPHA * log_shares(module).sum() / N_TRAINING if y_prior == "learned" else 0.0
    loss = bound.mean() + 7.0 * cross_entropy - penalty
    torch.testing.assert_close(output.loss, loss, rtol=1e-6, atol=0)
    found = torch.autograd.grad(output.loss, list(module.parameters()), retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(loss, list(module.parameters())), rtol=1e-6, atol=1e-6)
    right = expected["logits"].argmax(-1) == tensors["labels"].squeeze(-1)
    torch.testing.assert_close(output.extra_metrics["accuracy"], right[LABELLED].float().mean())


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_a_learned_library_is_not_annealed(likelihood: str) -> None:
    module = make_module(gene_likelihood=likelihood, library="learned", n_w=2, conditional=True)
    tensors = make_tensors([-1] * N_CELLS)
    inference, _, output = run(module, tensors, kl_weight=0.3)
    replay(module, tensors, inference)
    expected = by_hand(module, tensors, inference, range(N_CELLS))
    assert_terms(output, expected)
    means, variances = (torch.from_numpy(LIBRARY[name][0]) for name in ("library_log_means", "library_log_vars"))
    batch = tensors["batch"].squeeze(-1)
    kl = kl_divergence(inference["ql"], Normal(means[batch].view(-1, 1), variances[batch].sqrt().view(-1, 1))).sum(-1)
    torch.testing.assert_close(kl_of(output, "l"), kl)
    annealed = expected["z"] + expected["y"] + expected["w"]
    torch.testing.assert_close(output.loss, (expected["reconstruction"] + 0.3 * annealed + kl).mean())


@pytest.mark.parametrize(
    "kwargs",
    [
        {"y_prior": "collapsed", "z_term": "mc", "n_w": 2, "conditional": True, "w_prior": "learned"},
        {"y_prior": "balanced", "z_term": "closed", "classifier": "mean", "n_w": 2},
        {"y_prior": "learned", "z_term": "mc", "classifier": "z", "conditional": True},
    ],
)
def test_several_samples_average_every_term(kwargs: dict[str, Any]) -> None:
    module, tensors = make_module(**kwargs), make_tensors()
    inference, _, output = run(module, tensors, n_samples=3)
    each = [by_hand(module, tensors, inference, range(N_CELLS), sample=s) for s in range(3)]
    expected = {name: torch.stack([one[name] for one in each]).mean(0) for name in each[0]}
    assert_terms(output, expected)
    # a label is weighed over all of its cells, so that the mean over samples may come last
    several = torch.stack([cross_entropy_by_hand(module, one["logits"], tensors["labels"]) for one in each]).mean()
    found = output.extra_metrics["classification_loss"]
    torch.testing.assert_close(found, several, rtol=1e-6, atol=0)


def test_several_draws_of_a_dirichlet_have_the_expectation_of_the_sampled_form() -> None:
    module, tensors = make_module(y_prior="dirichlet", classifier="mean"), make_tensors()
    inference, _, output = run(module, tensors, n_samples=20_000)
    z, alpha = inference["z"], Dirichlet(torch.full((K,), ALPHA, dtype=torch.float64))
    logits = module.classifier(inference["qz"].loc)
    q = torch.where(tensors["labels"] < 0, logits.softmax(-1), F.one_hot(tensors["labels"].squeeze(-1).clamp(0), K))
    concentration = F.softplus(module.concentration(z))
    expected_log = torch.digamma(concentration) - torch.digamma(concentration.sum(-1, keepdim=True))
    divergence = kl_divergence(Dirichlet(concentration), alpha.expand(z.shape[:-1]))
    expected = torch.xlogy(q, q).sum(-1) + (divergence - (q * expected_log).sum(-1)).mean(0)
    torch.testing.assert_close(kl_of(output, "y"), expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("columns", ["X batch", "X batch labels condition"])
def test_without_labels_no_column_of_them_is_looked_at(columns: str) -> None:
    module, tensors = make_module(n_labels=0), make_tensors()
    inference, _, output = run(module, {name: tensors[name] for name in columns.split()}, kl_weight=0.5)
    expected = by_hand(module, tensors, inference, range(N_CELLS))
    assert_terms(output, expected)
    bound = expected["reconstruction"] + 0.5 * (expected["z"] + expected["y"])
    torch.testing.assert_close(output.loss, bound.mean())
    assert float(output.extra_metrics["classification_loss"]) == 0


def test_a_weight_penalty_is_part_of_the_loss() -> None:
    settings: dict[str, Any] = {"n_w": 2, "classifier": "z", "y_prior": "learned"}
    plain, penalised = make_module(**settings), make_module(weight_l2=0.1, **settings)
    squares = sum(m.weight.square().sum() for m in plain.modules() if isinstance(m, torch.nn.Linear))
    difference = run(penalised, make_tensors())[2].loss - run(plain, make_tensors())[2].loss
    torch.testing.assert_close(difference, 0.1 * squares)


def test_learned_shares_have_a_dirichlet_prior_shared_out_over_the_training_cells() -> None:
    module, tensors = make_module(y_prior="learned", classifier="z"), make_tensors([-1] * N_CELLS)

    def penalty() -> tuple[Tensor, Tensor]:
        output = run(module, tensors)[2]
        prior = Dirichlet(torch.full((K,), 1 + ALPHA, dtype=torch.float64))
        return output.loss - negative_bound(output).mean(), prior.log_prob(module.log_prior.exp())

    first, first_density = penalty()
    with torch.no_grad():
        module.prior_logits.copy_(torch.linspace(-2, 1, K))
    second, second_density = penalty()
    torch.testing.assert_close(second - first, (first_density - second_density) / N_TRAINING)
    assert (second - first).abs() > 1e-3


@pytest.mark.parametrize("y_prior", ["collapsed", "dirichlet", "uniform", "balanced"])
def test_shares_are_uniform_unless_they_are_learned(y_prior: str) -> None:
    torch.testing.assert_close(
        make_module(y_prior=y_prior).log_prior.exp(), torch.full((K,), 1 / K, dtype=torch.float64)
    )
    learned = make_module(y_prior="learned")
    torch.testing.assert_close(learned.log_prior.exp(), F.softmax(learned.prior_logits, -1))
    assert learned.log_prior.exp().std() > 0.01


# -- one component is the plain VAE --------------------------------------------------------------------------


def plain_vae(module: MIXVI, **kwargs: Any) -> VAE:
    """The VAE with the encoder and decoder of `module`."""
    sizes = {"n_latent": N_LATENT, "n_hidden": 8, "n_batch": N_BATCH, "n_labels": 0}
    plain = {"dropout_rate": 0.0, "use_batch_norm": "none", "gene_likelihood": "nb"}
    vae = VAE(N_GENES, **sizes, **plain, **kwargs).double().eval()
    shared = vae.state_dict().keys()
    vae.load_state_dict({name: value for name, value in module.state_dict().items() if name in shared})
    return vae


@pytest.mark.parametrize("y_prior", ["uniform", "collapsed", "balanced", "learned"])
@pytest.mark.parametrize("library", ["observed", "learned"])
def test_one_component_is_the_plain_vae(y_prior: str, library: str) -> None:
    settings: dict[str, Any] = {"n_components": 1, "n_labels": 0, "encoder_input": "log1p"}
    module = make_module(fresh=True, y_prior=y_prior, library=library, **settings)
    with torch.no_grad():
        # with the variance's floor of 1e-4 a component of unit variance
        module.mixture.log_variance.fill_(math.log1p(-1e-4))
    vae = plain_vae(module, library=library, **(LIBRARY if library == "learned" else {}))
    tensors = make_tensors([-1] * N_CELLS)
    found, expected = run(module, tensors, kl_weight=0.6)[2], run(vae, tensors, kl_weight=0.6)[2]
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(kl_of(found, "z"), kl_of(expected, "z"))
    torch.testing.assert_close(kl_of(found, "l"), kl_of(expected, "l"))
    torch.testing.assert_close(kl_of(found, "y"), torch.zeros(N_CELLS).double())
    torch.manual_seed(1)
    evidence = vae.importance_weighted_bound(tensors, 20)
    torch.manual_seed(1)
    torch.testing.assert_close(module.importance_weighted_bound(tensors, 20), evidence)


def test_before_its_components_are_placed_it_is_the_plain_vae() -> None:
    module, tensors = make_module(n_w=2, y_prior="learned", encoder_input="log1p", library="learned"), make_tensors()
    module.is_placed = False
    vae = plain_vae(module, library="learned", **LIBRARY)
    found, expected = run(module, tensors, kl_weight=0.6)[2], run(vae, tensors, kl_weight=0.6)[2]
    torch.testing.assert_close(found.loss, expected.loss)
    mark = torch.zeros(N_CELLS, 1).double()
    mark[LABELLED] = 1
    repeated = run(module, {**tensors, "drawn_again": mark}, kl_weight=0.6)[2]
    reconstruction = expected.reconstruction_loss["reconstruction_loss"]
    torch.testing.assert_close(repeated.reconstruction_loss["reconstruction_loss"], reconstruction[UNLABELLED])
    annealed = reconstruction + 0.6 * kl_of(expected, "z") + kl_of(expected, "l")
    torch.testing.assert_close(repeated.loss, annealed[UNLABELLED].mean())


# -- labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z_term", ["closed", "mc"])
@pytest.mark.parametrize("n_w", [0, 2])
def test_only_the_named_component_enters_the_z_term_of_a_labelled_cell(z_term: str, n_w: int) -> None:
    tensors, module = make_tensors(), make_module(z_term=z_term, n_w=n_w)
    kl = kl_of(run(module, tensors)[2], "z")
    for label in range(N_LABELS):
        named = kl[[i for i, y in enumerate(CODES) if y == label]].sum()
        (gradient,) = torch.autograd.grad(named, module.mixture.loc, retain_graph=True)
        assert gradient.any(-1).tolist() == [k == label for k in range(K)]
    (gradient,) = torch.autograd.grad(kl[UNLABELLED].sum(), module.mixture.loc)
    assert gradient.any(-1).all()


@pytest.mark.parametrize("classifier", ["z", "mean", "posterior"])
def test_the_label_term_of_a_labelled_cell_is_what_its_component_is_worth(classifier: str) -> None:
    tensors = make_tensors()
    for y_prior in ("collapsed", "uniform"):
        kl = kl_of(run(make_module(y_prior=y_prior, classifier=classifier), tensors)[2], "y")
        torch.testing.assert_close(kl[LABELLED], torch.full((len(LABELLED),), math.log(K), dtype=torch.float64))
        assert (kl[UNLABELLED] - math.log(K)).abs().min() > 1e-3
    module = make_module(y_prior="learned", classifier=classifier)
    kl = kl_of(run(module, tensors)[2], "y")
    shares = F.softmax(module.prior_logits, -1)
    torch.testing.assert_close(kl[LABELLED], -shares.log()[[CODES[i] for i in LABELLED]])


@pytest.mark.parametrize("classifier", ["z", "mean", "posterior"])
@pytest.mark.parametrize("n_components", [N_LABELS, K])
def test_cross_entropy_is_stratified_and_adjusts_the_logits_of_labels(classifier: str, n_components: int) -> None:
    settings: dict[str, Any] = {"classifier": classifier, "n_components": n_components, "n_w": 2}
    module = make_module(logit_adjustment=1.5, class_balance=0.25, classification_weight=3.0, **settings)
    tensors = make_tensors()
    inference, _, output = run(module, tensors)
    logits = by_hand(module, tensors, inference, range(N_CELLS))["logits"]
    expected = cross_entropy_by_hand(module, logits, tensors["labels"])
    assert logits.shape == (N_CELLS, n_components)
    torch.testing.assert_close(output.extra_metrics["classification_loss"], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(output.loss - negative_bound(output).mean(), 3 * expected, rtol=1e-6, atol=0)
    plain = make_module(**settings)
    torch.testing.assert_close(plain.classify(tensors).logits, module.classify(tensors).logits)


def test_a_label_drawn_more_often_does_not_count_for_more() -> None:
    module, logits = make_module(class_balance=0.5), torch.randn(3, K).double()
    once, _ = module._cross_entropy(logits, torch.tensor([[0], [1], [2]]))
    rows = [0, 1, 2, 2, 2, 1]
    again, _ = module._cross_entropy(logits[rows], torch.tensor(rows).view(-1, 1))
    torch.testing.assert_close(once, again)
    torch.testing.assert_close(once, cross_entropy_by_hand(module, logits, torch.arange(3)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("y_prior", ["collapsed", "learned", "uniform"])
def test_cells_of_a_mini_batch_do_not_touch_each_other(y_prior: str) -> None:
    module = make_module(y_prior=y_prior, n_w=2, conditional=True)
    mixed, hidden = run(module, make_tensors())[2], run(module, make_tensors([-1] * N_CELLS))[2]
    torch.testing.assert_close(negative_bound(mixed)[UNLABELLED], negative_bound(hidden)[UNLABELLED])
    assert not torch.isclose(negative_bound(mixed), negative_bound(hidden))[LABELLED].any()


@pytest.mark.parametrize("y_prior", ["collapsed", "balanced", "dirichlet"])
@pytest.mark.parametrize("free_bits_w", [0.0, 1e-3])
def test_repeated_draws_enter_the_cross_entropy_only(y_prior: str, free_bits_w: float) -> None:
    settings: dict[str, Any] = {"n_w": 2, "conditional": True, "w_prior": "learned", "classification_weight": 4.0}
    module, tensors = make_module(y_prior=y_prior, free_bits_w=free_bits_w, **settings), make_tensors()
    again = [2, 3, 7, 8]
    once = [i for i in range(N_CELLS) if i not in again]
    mark = torch.zeros(N_CELLS, 1).double()
    mark[again] = 1
    inference, generative, output = run(module, {**tensors, "drawn_again": mark})
    replay(module, tensors, inference)
    expected = by_hand(module, tensors, inference, once)
    if free_bits_w:
        w = inference["w"].posterior
        each = [w_by_hand(module, Normal(w.loc[i], w.scale[i]), tensors["condition"][i]) for i in once]
        expected["w"] = torch.stack(each).mean(0).clamp_min(free_bits_w).sum().expand(len(once))
    assert generative["likelihood"].rate.shape[0] == len(once)
    assert_terms(output, expected)
    cross_entropy = cross_entropy_by_hand(module, expected["logits"], tensors["labels"])
    bound = sum(expected[name] for name in ("reconstruction", "z", "y", "w"))
    torch.testing.assert_close(output.loss, bound.mean() + 4 * cross_entropy, rtol=1e-6, atol=0)
