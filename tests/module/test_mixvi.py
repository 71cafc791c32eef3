"""MIXVI's evidence against quadrature and importance sampling; its answers, free nats and settings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from deltavi.errors import DeltaviError, UnknownCategoryError
from deltavi.module import MIXVI
from tests.module.mixvi_by_hand import (
    N_CELLS,
    N_CONDITIONS,
    N_LABELS,
    NAMES,
    SETTINGS,
    UNLABELLED,
    K,
    component,
    encoded,
    kl_of,
    log_counts,
    log_joint,
    log_shares,
    logits_of_cell,
    make_module,
    make_tensors,
    negative_bound,
    one_hot,
    run,
    w_by_hand,
)

# -- evidence ------------------------------------------------------------------------------------------------


def log_weights_by_hand(module: MIXVI, tensors: dict[str, Tensor], n_samples: int, seed: int) -> Tensor:
    """log p(x, z, w) - log q(z, w | x) of each draw, ``(n_samples, n_cells)``."""
    q_z, q_w = encoded(module, tensors)
    n_cells = len(tensors["X"])
    torch.manual_seed(seed)
    z = q_z.loc + q_z.scale * torch.randn(n_samples, n_cells, module.n_latent, dtype=torch.float64)
    w = q_w.loc + q_w.scale * torch.randn(n_samples, n_cells, module.n_w, dtype=torch.float64) if module.n_w else None
    found = log_counts(module, tensors, z) - q_z.log_prob(z).sum(-1)
    for s in range(n_samples):
        for i in range(n_cells):
            condition = tensors["condition"][i]
            own = None if w is None else w[s, i]
            found[s, i] += log_joint(module, z[s, i], own, condition).exp().sum().log()
            if own is None:
                continue
            prior = Normal(torch.zeros(module.n_w).double(), torch.ones(module.n_w).double())
            if module.w_prior == "learned":
                row = one_hot(condition, N_CONDITIONS)
                prior = Normal(row @ module.w_prior_loc, (row @ module.w_prior_log_scale).exp())
            found[s, i] += (prior.log_prob(own) - Normal(q_w.loc[i], q_w.scale[i]).log_prob(own)).sum()
    return found


@pytest.mark.parametrize("n_samples", [2, 3])
@pytest.mark.parametrize("y_prior", ["uniform", "learned"])
@pytest.mark.parametrize(
    ("n_w", "conditional", "w_prior"), [(0, False, "standard"), (2, False, "standard"), (2, True, "learned")]
)
def test_importance_weights_equal_a_loop_over_draws(
    n_w: int, conditional: bool, w_prior: str, y_prior: str, n_samples: int
) -> None:
    module = make_module(n_w=n_w, conditional=conditional, w_prior=w_prior, y_prior=y_prior)
    tensors = make_tensors()
    expected = log_weights_by_hand(module, tensors, n_samples, seed=3).exp().mean(0).log()
    torch.manual_seed(3)
    torch.testing.assert_close(module.importance_weighted_bound(tensors, n_samples), expected)


def test_the_bound_with_the_exact_posterior_of_components_is_a_log_weight() -> None:
    """The sum over components of the bound is then the log of the sum over them."""
    module, tensors = make_module(y_prior="learned", z_term="mc", conditional=True), make_tensors([-1] * N_CELLS)
    output = run(module, tensors, n_samples=3)[2]
    torch.testing.assert_close(-negative_bound(output), log_weights_by_hand(module, tensors, 3, seed=5).mean(0))


@pytest.mark.parametrize("classifier", ["posterior", "z"])
@pytest.mark.parametrize("n_w", [0, 2])
def test_the_bound_lies_below_the_importance_weighted_one(n_w: int, classifier: str) -> None:
    module = make_module(y_prior="uniform", z_term="mc", n_w=n_w, classifier=classifier)
    tensors = make_tensors([-1] * 4)
    with torch.no_grad():
        bounds = torch.stack([-negative_bound(run(module, tensors, seed=k, n_samples=100)[2]) for k in range(40)])
        torch.manual_seed(0)
        weighted = torch.stack([module.importance_weighted_bound(tensors, n_samples=200) for _ in range(20)])
    error = bounds.std(0) / math.sqrt(len(bounds)) + weighted.std(0) / math.sqrt(len(weighted))
    gap = weighted.mean(0) - bounds.mean(0)
    assert (gap > -4 * error).all()
    assert (gap > 0.05).any()


@pytest.mark.parametrize(
    ("n_w", "conditional", "w_prior", "y_prior"),
    [(0, False, "standard", "uniform"), (1, False, "standard", "learned"), (1, True, "learned", "collapsed")],
)
def test_evidence_equals_quadrature(n_w: int, conditional: bool, w_prior: str, y_prior: str) -> None:
    settings: dict[str, Any] = {"n_w": n_w, "conditional": conditional, "w_prior": w_prior, "y_prior": y_prior}
    module, tensors = make_module(n_latent=1, **settings), make_tensors([-1] * 4)
    grid = torch.linspace(-15, 15, 1501).double()
    around = torch.linspace(-8, 8, 201).double()
    with torch.no_grad():
        log_x = log_counts(module, tensors, grid.view(-1, 1, 1).expand(-1, 4, 1))
        expected = []
        for cell in range(4):
            condition = tensors["condition"][cell]
            loc, scale = torch.zeros(()).double(), torch.ones(()).double()
            if w_prior == "learned":
                row = one_hot(condition, N_CONDITIONS)
                loc, scale = (row @ module.w_prior_loc)[0], (row @ module.w_prior_log_scale).exp()[0]
            places = loc + scale * around if n_w else around[:1]
            share = Normal(loc, scale).log_prob(places).exp()
            density = torch.zeros_like(grid)
            for place, weight in zip(places, share / share.sum(), strict=True):
                for k in range(K):
                    prior = component(module, k, place.view(1) if n_w else None, condition)
                    density += weight * log_shares(module)[k].exp() * prior.log_prob(grid).exp()
            width = float(grid[1] - grid[0])
            expected.append((log_x[:, cell].exp() * density).sum().log() + math.log(width))
    torch.manual_seed(0)
    found = module.marginal_ll(tensors, n_mc_samples=60_000, n_mc_samples_per_pass=5000)
    torch.testing.assert_close(found, torch.stack(expected), atol=0.05, rtol=0)


# -- answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", ["posterior", "z", "mean"])
@pytest.mark.parametrize("n_labels", [0, N_LABELS])
@pytest.mark.parametrize(("n_w", "conditional"), [(0, False), (2, False), (2, True)])
def test_answers_are_those_at_posterior_means(n_w: int, conditional: bool, n_labels: int, classifier: str) -> None:
    settings: dict[str, Any] = {"n_w": n_w, "conditional": conditional, "classifier": classifier}
    module, tensors = make_module(n_labels=n_labels, y_prior="learned", **settings), make_tensors()
    q_z, q_w = encoded(module, tensors)
    logits = torch.stack(
        [
            logits_of_cell(module, q_z.loc[i], q_z.loc[i], None if q_w is None else q_w.loc[i], tensors["condition"][i])
            for i in range(N_CELLS)
        ]
    )
    found = module.responsibilities(tensors)
    torch.testing.assert_close(found, logits.exp() / logits.exp().sum(-1, keepdim=True))
    torch.testing.assert_close(found.sum(-1), torch.ones(N_CELLS).double())
    asked = module.class_logits(module.classifier_input(tensors), tensors)
    torch.testing.assert_close(asked, logits[:, :N_LABELS] if n_labels else logits)
    answer = module.classify(tensors)
    torch.testing.assert_close(answer.logits, asked)
    torch.testing.assert_close(answer.features, q_z.loc)
    torch.testing.assert_close(answer.reconstruction_error[:, 0], -log_counts(module, tensors, q_z.loc))


def test_a_known_label_does_not_change_the_answer() -> None:
    module = make_module(n_w=2, conditional=True)
    known, hidden = (module.classify(make_tensors(codes)) for codes in ([0, 1, 2, 0, 1], [-1] * 5))
    torch.testing.assert_close(known.logits, hidden.logits)
    torch.testing.assert_close(known.reconstruction_error, hidden.reconstruction_error)


def test_cells_without_labels_are_answered_without_a_label_column() -> None:
    module, tensors = make_module(n_labels=0), make_tensors()
    expected = module.classify(tensors)
    del tensors["labels"]
    torch.testing.assert_close(module.classify(tensors).logits, expected.logits)


# -- free nats -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("w_prior", ["standard", "learned"])
def test_free_bits_of_w_are_a_floor_of_each_dimensions_mean(w_prior: str) -> None:
    settings: dict[str, Any] = {"n_w": 3, "w_prior": w_prior}
    tensors, plain = make_tensors(), make_module(**settings)
    w = run(plain, tensors)[0]["w"].posterior
    per_cell = torch.stack(
        [w_by_hand(plain, Normal(w.loc[i], w.scale[i]), tensors["condition"][i]) for i in range(N_CELLS)]
    )
    means = per_cell.mean(0).detach()
    torch.testing.assert_close(kl_of(run(plain, tensors)[2], "w"), per_cell.sum(-1))
    smallest, middle, largest = means.sort().values.tolist()
    for floor in (smallest / 2, (smallest + middle) / 2, (middle + largest) / 2, 2 * largest):
        found = kl_of(run(make_module(free_bits_w=floor, **settings), tensors)[2], "w")
        expected = sum(max(float(mean), floor) for mean in means)
        torch.testing.assert_close(found, torch.full((N_CELLS,), expected, dtype=torch.float64))


def test_w_below_its_free_bits_gets_no_gradient_from_its_divergence() -> None:
    tensors = make_tensors()
    for floor, reached in ((0.0, True), (1e-3, True), (100.0, False)):
        module = make_module(n_w=2, w_prior="learned", free_bits_w=floor)
        kl = kl_of(run(module, tensors)[2], "w")
        kl.sum().backward()
        of_w = [*module.w_encoder.parameters(), module.w_prior_loc, module.w_prior_log_scale]
        assert any(p.grad is not None and bool(p.grad.any()) for p in of_w) is reached
        assert reached or (kl == 2 * floor).all()


@pytest.mark.parametrize("y_prior", ["collapsed", "uniform", "learned", "balanced"])
def test_free_bits_of_y_are_a_floor_of_its_term(y_prior: str) -> None:
    tensors = make_tensors()
    plain = kl_of(run(make_module(y_prior=y_prior), tensors)[2], "y").detach()
    for floor in (float(plain.min()) / 2, float(plain.median()), 2 * float(plain.max())):
        found = kl_of(run(make_module(y_prior=y_prior, free_bits_y=floor), tensors)[2], "y")
        torch.testing.assert_close(found, torch.tensor([max(value, floor) for value in plain.tolist()]).double())


# -- what learns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(NAMES, SETTINGS)
def test_every_parameter_gets_a_gradient(
    y_prior: str, z_term: str, classifier: str, n_w: int, conditional: bool, w_prior: str
) -> None:
    given = (y_prior, z_term, classifier, n_w, conditional, w_prior)
    module = make_module(**dict(zip(NAMES, given, strict=True)), gene_likelihood="zinb", library="learned").train()
    run(module, make_tensors())[2].loss.backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    names = {name.split(".")[0] for name, _ in module.named_parameters()}
    assert ("w_encoder" in names) == (n_w > 0)
    assert ("w_prior_loc" in names) == (n_w > 0 and w_prior == "learned")
    assert ("classifier" in names) == (classifier != "posterior")
    assert ("concentration" in names) == (y_prior == "dirichlet")
    assert ("prior_logits" in names) == (y_prior == "learned")


# -- condition -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", ["z", "mean", "posterior"])
def test_the_condition_moves_components_and_decoder(classifier: str) -> None:
    module, tensors = make_module(conditional=True, z_term="mc", classifier=classifier), make_tensors()
    other = {**tensors, "condition": 1 - tensors["condition"].clamp_min(0)}
    inference, generative, output = run(module, tensors)
    switched = module.generative(**module._get_generative_input(other, inference))
    assert not torch.isclose(generative["likelihood"].rate, switched["likelihood"].rate).all(-1).any()
    moved = module.loss(other, inference, generative)
    assert not torch.isclose(kl_of(output, "z"), kl_of(moved, "z")).any()
    assert not torch.isclose(kl_of(output, "y"), kl_of(moved, "y"))[UNLABELLED].all()
    assert not torch.isclose(inference["qz"].loc, run(module, other)[0]["qz"].loc).all(-1).any()


@pytest.mark.parametrize("n_w", [0, 2])
def test_without_a_conditional_mixture_the_condition_changes_nothing(n_w: int) -> None:
    module, tensors = make_module(n_w=n_w, classifier="z"), make_tensors()
    other = {**tensors, "condition": 1 - tensors["condition"].clamp_min(0)}
    without = {name: value for name, value in tensors.items() if name != "condition"}
    loss = run(module, tensors)[2].loss
    for changed in (other, without):
        torch.testing.assert_close(run(module, changed)[2].loss, loss, rtol=0, atol=0)
        torch.testing.assert_close(module.responsibilities(changed), module.responsibilities(tensors))


def test_a_learned_prior_of_w_depends_on_the_condition_alone() -> None:
    module, tensors = make_module(n_w=2, w_prior="learned"), make_tensors()
    other = {**tensors, "condition": 1 - tensors["condition"].clamp_min(0)}
    found, moved = run(module, tensors)[2], run(module, other)[2]
    assert not torch.isclose(kl_of(found, "w"), kl_of(moved, "w")).any()
    for name in ("z", "y", "l"):
        torch.testing.assert_close(kl_of(found, name), kl_of(moved, name), rtol=0, atol=0)


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"n_components": N_LABELS - 1}, "n_components=2"),
        ({"n_components": 0, "n_labels": 0}, "n_components"),
        ({"n_components": 2.5}, "n_components"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": -1.0}, "alpha"),
        ({"n_w": -1}, "n_w"),
        ({"n_w": 1.5}, "n_w"),
        ({"n_w": True}, "n_w"),
        ({"free_bits_w": -0.1}, "free_bits_w"),
        ({"free_bits_y": -0.1}, "free_bits_y"),
        ({"dispersion": "gene-label"}, "dispersion by label"),
        ({"posterior": "deterministic"}, "Gaussian posterior"),
        ({"encoder_input": "counts"}, "encoder_input"),
        ({"classification_weight": -1.0}, "classification_weight"),
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(DeltaviError, match=word):
        make_module(**wrong)


@pytest.mark.parametrize(
    ("name", "typo", "meant"),
    [
        ("y_prior", "colapsed", "collapsed"),
        ("classifier", "posteriour", "posterior"),
        ("z_term", "close", "closed"),
        ("w_prior", "learnt", "learned"),
        ("dispersion", "gene-bach", "gene-batch"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant(name: str, typo: str, meant: str) -> None:
    with pytest.raises(UnknownCategoryError, match=rf"{name} '{typo}'.*'{meant}'"):
        make_module(**{name: typo})
