"""LABELVI's bounds: against loops over labels, scvi-tools' ZINB, each other, and importance sampling."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from torch.distributions import Categorical, Normal, kl_divergence
from torch.nn import functional as F

from deltavi.errors import DeltaviError
from deltavi.module import LABELVI
from tests.latent.test_labelled import conditional_of

N_CELLS, N_GENES, N_BATCH, N_LABELS = 12, 9, 2, 3
LIBRARY = {"library_log_means": np.array([[2.0, 2.4]]), "library_log_vars": np.array([[0.3, 0.2]])}
SETTINGS = list(
    itertools.product(
        ("zinb", "nb", "poisson"), ("gene", "gene-batch", "gene-label", "gene-cell"), ("observed", "learned")
    )
)


def make_module(seed: int = 0, **kwargs: Any) -> LABELVI:
    torch.manual_seed(seed)
    if kwargs.get("library") == "learned":
        kwargs |= LIBRARY
    sizes = {"n_hidden": 8, "n_latent": 3, "n_batch": N_BATCH, "dropout_rate": 0.0}
    module = LABELVI(N_GENES, n_labels=N_LABELS, **{**sizes, **kwargs}).double()
    module.set_label_frequencies(torch.tensor([5, 2, 1]))
    return module.eval()


def make_tensors(codes: list[int] | None = None, n_cells: int = N_CELLS) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    drawn = rng.integers(-1, N_LABELS, n_cells) if codes is None else np.asarray(codes)
    return {
        "X": torch.from_numpy(rng.poisson(1.5, (n_cells, N_GENES))).double(),
        "batch": torch.from_numpy(rng.integers(0, N_BATCH, (n_cells, 1))),
        "labels": torch.from_numpy(drawn.reshape(-1, 1)),
    }


def run(module: LABELVI, tensors: dict[str, torch.Tensor], seed: int = 5, n_samples: int = 1, **loss: Any) -> Any:
    torch.manual_seed(seed)
    return module(tensors, inference_kwargs={"n_samples": n_samples}, loss_kwargs=loss)


def negative_bound(output: Any) -> torch.Tensor:
    return output.reconstruction_loss["reconstruction_loss"] + sum(output.kl_local.values())


def counts_of(module: LABELVI, likelihood: Any, label: int, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """log p(x | z1, l, y) by scvi-tools' distributions, ``(n_cells,)``."""
    mu, x = likelihood.rate, tensors["X"]
    if module.gene_likelihood == "poisson":
        return Poisson(rate=mu).log_prob(x).sum(-1)
    theta = likelihood.dispersion.gathered()
    if module.dispersion == "gene-label":
        theta = module.px_r[:, label].exp()
    if module.gene_likelihood == "nb":
        return NegativeBinomial(mu=mu, theta=theta).log_prob(x).sum(-1)
    return ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=likelihood.dropout_logits).log_prob(x).sum(-1)


@pytest.mark.parametrize(("likelihood", "dispersion", "library"), SETTINGS)
def test_every_term_equals_a_loop_over_labels(likelihood: str, dispersion: str, library: str) -> None:
    module = make_module(gene_likelihood=likelihood, dispersion=dispersion, library=library, y_prior="empirical")
    tensors = make_tensors()
    inference, generative, output = run(module, tensors)
    torch.manual_seed(5)
    z1 = inference["z"]
    torch.testing.assert_close(z1, inference["qz"].loc + inference["qz"].scale * torch.randn_like(z1))
    if library == "learned":
        torch.randn(N_CELLS, 1, dtype=torch.float64)
    noise = torch.randn(N_LABELS, *z1.shape, dtype=torch.float64)
    expected = {"reconstruction": [], "z1": [], "y": [], "z2": []}
    logits = module.classifier(z1)
    for cell in range(N_CELLS):
        code = int(tensors["labels"][cell])
        q = logits[cell].softmax(-1)
        weighted = [(y, q[y]) for y in range(N_LABELS)] if code < 0 else [(code, torch.ones(()).double())]
        terms = dict.fromkeys(expected, torch.zeros(()).double())
        for y, w in weighted:
            q_z2 = conditional_of(module.labels.posterior, z1[cell], y)
            z2 = q_z2.loc + q_z2.scale * noise[y, cell]
            p_z1 = conditional_of(module.labels.conditional, z2, y)
            log_q = inference["qz"].log_prob(z1)[cell].sum()
            terms["z1"] = terms["z1"] + w * (log_q - p_z1.log_prob(z1[cell]).sum())
            terms["z2"] = terms["z2"] + w * kl_divergence(q_z2, Normal(torch.zeros(3), torch.ones(3))).sum()
            log_x = counts_of(module, generative["likelihood"], y, tensors)[cell]
            terms["reconstruction"] = terms["reconstruction"] - w * log_x
        prior = Categorical(logits=module.labels.log_prior)
        terms["y"] = kl_divergence(Categorical(probs=q), prior) if code < 0 else -prior.logits[code]
        for name, value in terms.items():
            expected[name].append(value)
    torch.testing.assert_close(
        output.reconstruction_loss["reconstruction_loss"], torch.stack(expected["reconstruction"])
    )
    for name in ("z1", "y", "z2"):
        torch.testing.assert_close(output.kl_local[f"kl_divergence_{name}"], torch.stack(expected[name]))
    if library == "learned":
        p_l = module.library_prior(tensors["batch"])
        torch.testing.assert_close(output.kl_local["kl_divergence_l"], kl_divergence(inference["ql"], p_l).sum(-1))
    else:
        assert (output.kl_local["kl_divergence_l"] == 0).all()


@pytest.mark.parametrize("dispersion", ["gene", "gene-label"])
@pytest.mark.parametrize("library", ["observed", "learned"])
def test_unlabelled_bound_is_the_mean_labelled_bound_plus_the_entropy(dispersion: str, library: str) -> None:
    """U(x) = sum_y q(y | z1) L(x, y) + H[q(y | z1)] for the same draws of z1, z2 and l."""
    module = make_module(dispersion=dispersion, library=library, y_prior="empirical")
    inference, _, output = run(module, make_tensors([-1] * N_CELLS))
    q = module.classifier(inference["z"]).softmax(-1)
    labelled = [-negative_bound(run(module, make_tensors([y] * N_CELLS))[2]) for y in range(N_LABELS)]
    mean = sum(q[:, y] * labelled[y] for y in range(N_LABELS))
    torch.testing.assert_close(-negative_bound(output), mean + Categorical(probs=q).entropy())


@pytest.mark.parametrize(
    ("library", "dispersion"), [("observed", "gene"), ("learned", "gene"), ("observed", "gene-label")]
)
def test_bound_lies_below_the_importance_weighted_evidence(library: str, dispersion: str) -> None:
    """Three thousand draws of each; the importance-weighted one tightens as samples grow."""
    module, tensors = make_module(library=library, dispersion=dispersion), make_tensors([-1] * 4, n_cells=4)
    with torch.no_grad():
        bounds = torch.stack([-negative_bound(run(module, tensors, seed=k)[2]) for k in range(3000)])
        torch.manual_seed(0)
        few = torch.stack([module.importance_weighted_bound(tensors, 5) for _ in range(600)])
        many = module.marginal_ll(tensors, n_mc_samples=20_000, n_mc_samples_per_pass=2000)
    error = bounds.std(0) / math.sqrt(len(bounds)) + few.std(0) / math.sqrt(len(few))
    assert (bounds.mean(0) < few.mean(0) + 4 * error).all()
    assert (few.mean(0) < many + 4 * error).all()
    assert (many - bounds.mean(0) > 0.01).any()


def test_evidence_of_a_labelled_cell_is_bounded_by_the_joint() -> None:
    """L(x, y) <= log p(x, y) <= log p(x), where y = the label: the prior of one label is at most one."""
    module, label = make_module(y_prior="empirical"), 0
    tensors = make_tensors([label] * 4, n_cells=4)
    with torch.no_grad():
        bounds = torch.stack([-negative_bound(run(module, tensors, seed=k)[2]) for k in range(2000)]).mean(0)
        evidence = module.marginal_ll(tensors, n_mc_samples=5000)
    assert (bounds < evidence).all()


@pytest.mark.parametrize("library", ["observed", "learned"])
def test_loss_is_the_mean_bound_plus_the_weighted_cross_entropy(library: str) -> None:
    tensors = make_tensors()
    module = make_module(classification_weight=7.0, class_balance=0.0, library=library)
    inference, _, output = run(module, tensors, kl_weight=0.3)
    kl = output.kl_local
    annealed = sum(value for name, value in kl.items() if name != "kl_divergence_l")
    bound = output.reconstruction_loss["reconstruction_loss"] + 0.3 * annealed + kl["kl_divergence_l"]
    known = tensors["labels"].squeeze(-1) >= 0
    code = tensors["labels"].squeeze(-1)[known]
    per_cell = F.cross_entropy(module.classifier(inference["z"])[known], code, reduction="none")
    frequencies = module.get_buffer("label_frequencies")
    present = [y for y in range(N_LABELS) if (code == y).any()]
    means = torch.stack([per_cell[code == y].mean() for y in present])
    expected = (frequencies[present] * means).sum() / frequencies[present].sum()
    torch.testing.assert_close(output.loss, bound.mean() + 7.0 * expected)


def test_weight_penalty_is_part_of_the_loss() -> None:
    plain, penalised = make_module(), make_module(weight_l2=0.1)
    squares = sum(m.weight.square().sum() for m in plain.modules() if isinstance(m, torch.nn.Linear))
    difference = run(penalised, make_tensors())[2].loss - run(plain, make_tensors())[2].loss
    torch.testing.assert_close(difference, 0.1 * squares)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_cross_entropy_does_not_depend_on_how_often_a_label_was_drawn(balance: float) -> None:
    module = make_module(class_balance=balance)
    logits = torch.randn(3, N_LABELS).double()
    once, _ = module._cross_entropy(logits, torch.tensor([[0], [1], [2]]))
    rows = [0, 1, 2, 2, 2, 1]
    again, _ = module._cross_entropy(logits[rows], torch.tensor(rows).reshape(-1, 1))
    torch.testing.assert_close(once, again)


def test_balance_weighs_labels_alike_and_none_as_they_occur() -> None:
    logits, codes = torch.randn(3, N_LABELS).double(), torch.tensor([[0], [1], [2]])
    per_cell = F.cross_entropy(logits, codes.squeeze(-1), reduction="none")
    balanced = make_module(class_balance=1.0)._cross_entropy(logits, codes)[0]
    torch.testing.assert_close(balanced, per_cell.mean())
    natural = make_module(class_balance=0.0)._cross_entropy(logits, codes)[0]
    torch.testing.assert_close(natural, (per_cell * torch.tensor([6.0, 3.0, 2.0]).double() / 11).sum())


def test_logit_adjustment_acts_in_training_only() -> None:
    plain, adjusted = make_module(), make_module(logit_adjustment=1.0)
    tensors = make_tensors([0, 1, 2] * 4)
    torch.testing.assert_close(plain.classify(tensors).logits, adjusted.classify(tensors).logits)
    logits, codes = torch.zeros(1, N_LABELS).double(), torch.tensor([[2]])
    frequencies = adjusted.get_buffer("label_frequencies")
    torch.testing.assert_close(adjusted._cross_entropy(logits, codes)[0], -frequencies.log()[2])


def test_repeated_draws_enter_the_cross_entropy_only() -> None:
    module, tensors = make_module(), make_tensors()
    again = torch.zeros(N_CELLS, 1)
    again[-4:] = 1
    _, generative, output = run(module, {**tensors, "drawn_again": again})
    assert output.reconstruction_loss["reconstruction_loss"].shape == (N_CELLS - 4,)
    assert generative["likelihood"].rate.shape[0] == N_CELLS - 4
    # z1 is drawn for all cells in one call, z2 for fewer: the terms that do not need z2 agree
    _, _, whole = run(module, tensors)
    for name in ("reconstruction_loss",):
        torch.testing.assert_close(output.reconstruction_loss[name], whole.reconstruction_loss[name][:-4])
    torch.testing.assert_close(output.kl_local["kl_divergence_y"], whole.kl_local["kl_divergence_y"][:-4])
    torch.testing.assert_close(output.extra_metrics["classification_loss"], whole.extra_metrics["classification_loss"])


def test_cells_of_a_mini_batch_do_not_touch_each_other() -> None:
    """In evaluation mode the labelled and the unlabelled part of a batch are what they are alone."""
    module = make_module()
    labels = [0, 1, 2, 0, 1, 2] + [-1] * 6
    together = run(module, make_tensors(labels))[2]
    hidden = run(module, make_tensors([-1] * N_CELLS))[2]
    torch.testing.assert_close(negative_bound(together)[6:], negative_bound(hidden)[6:])
    assert not torch.isclose(negative_bound(together)[:6], negative_bound(hidden)[:6]).any()


def test_several_samples_average_the_bound() -> None:
    module, tensors = make_module(), make_tensors()
    output = run(module, tensors, n_samples=5)[2]
    assert negative_bound(output).shape == (N_CELLS,)
    assert torch.isfinite(output.loss)


def test_the_encoder_runs_once() -> None:
    module, calls = make_module(), []
    module.z_encoder.register_forward_hook(lambda *_: calls.append(1))
    run(module, make_tensors())
    assert len(calls) == 1


def test_every_parameter_gets_a_gradient() -> None:
    for dispersion, prior in (("gene-label", "learned"), ("gene", "uniform")):
        module = make_module(dispersion=dispersion, y_prior=prior).train()
        run(module, make_tensors())[2].loss.backward()
        without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []


def test_relative_input_does_not_change_with_depth() -> None:
    tensors = make_tensors()
    deeper = {**tensors, "X": 4 * tensors["X"]}
    relative, absolute = make_module(), make_module(encoder_input="log1p")
    torch.testing.assert_close(relative.classifier_input(tensors), relative.classifier_input(deeper))
    torch.testing.assert_close(absolute.classifier_input(deeper), (4 * tensors["X"]).log1p())
    empty = {**tensors, "X": torch.zeros_like(tensors["X"])}
    assert (relative.classifier_input(empty) == 0).all()


def test_classification_is_deterministic_and_uses_the_posterior_mean() -> None:
    for kwargs in ({}, {"library": "learned"}, {"encode_covariates": True}):
        module, tensors = make_module(**kwargs), make_tensors()
        first, second = module.classify(tensors), module.classify(tensors)
        torch.testing.assert_close(first.logits, second.logits, rtol=0, atol=0)
        torch.testing.assert_close(first.reconstruction_error, second.reconstruction_error, rtol=0, atol=0)
        expected = module.class_logits(module.classifier_input(tensors), tensors)
        torch.testing.assert_close(first.logits, expected)
        assert first.features.shape == (N_CELLS, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"y_prior": "flat"},
        {"encoder_input": "counts"},
        {"classification_weight": -1.0},
        {"class_balance": 1.5},
        {"posterior": "deterministic"},
        {"dispersion": "gene-lable"},
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DeltaviError, match=next(iter(wrong)).replace("posterior", "Gaussian posterior")):
        make_module(**wrong)


def test_samples_that_agree_give_the_terms_of_one() -> None:
    module, tensors = make_module(), make_tensors()
    inference, _, one = run(module, tensors)
    inference["z"] = inference["z"].expand(5, *inference["z"].shape)
    generative = module.generative(**module._get_generative_input(tensors, inference))
    several = module.loss(tensors, inference, generative)
    name = "reconstruction_loss"
    torch.testing.assert_close(several.reconstruction_loss[name], one.reconstruction_loss[name])
    torch.testing.assert_close(several.kl_local["kl_divergence_y"], one.kl_local["kl_divergence_y"])
    torch.testing.assert_close(several.extra_metrics["classification_loss"], one.extra_metrics["classification_loss"])


def test_a_known_label_does_not_change_how_strange_a_cell_is() -> None:
    module = make_module(dispersion="gene-label")
    known, hidden = module.classify(make_tensors([0, 1, 2] * 4)), module.classify(make_tensors([-1] * N_CELLS))
    torch.testing.assert_close(known.reconstruction_error, hidden.reconstruction_error)
