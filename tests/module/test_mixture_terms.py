"""What MIXVI's module answers beside its loss: components out of use, nats, means under a condition, draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Dirichlet, Normal, kl_divergence

from deltavi.module._mixvi import MIXVI
from tests.module.mixvi_by_hand import (
    ALPHA,
    CODES,
    LABELLED,
    N_BATCH,
    N_CELLS,
    N_CONDITIONS,
    N_LABELS,
    N_LATENT,
    N_TRAINING,
    UNLABELLED,
    K,
    component,
    encoded,
    kl_of,
    log_counts,
    logits_of_cell,
    make_module,
    make_tensors,
    negative_bound,
    one_hot,
    run,
    w_by_hand,
)

Y_PRIORS = ("collapsed", "dirichlet", "uniform", "balanced", "learned")
CLASSIFIERS = ("z", "mean", "posterior")
KEPT = [0, 2, 4]
KEEP = torch.tensor([k in KEPT for k in range(K)])
DEPENDENCE = pytest.mark.parametrize(
    ("n_w", "conditional", "w_prior"),
    [(0, False, "standard"), (0, True, "standard"), (2, False, "learned"), (2, True, "standard"), (2, True, "learned")],
)


def pruned(**kwargs: Any) -> MIXVI:
    """A module without labels that keeps three of its components."""
    module = make_module(n_labels=0, **kwargs)
    module.prune(KEEP)
    return module


def without(module: MIXVI, **kwargs: Any) -> MIXVI:
    """A module of the kept components alone, with the weights of `module`."""
    smaller = make_module(n_labels=0, n_components=len(KEPT), **kwargs)
    own = smaller.state_dict()
    state = {
        name: value if value.shape == own[name].shape else value[KEPT] for name, value in module.state_dict().items()
    }
    smaller.load_state_dict(state)
    return smaller


# -- components out of use -----------------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("y_prior", Y_PRIORS)
def test_a_pruned_component_has_no_share_and_leaves_its_own_to_the_others(y_prior: str, classifier: str) -> None:
    settings: dict[str, Any] = {"y_prior": y_prior, "classifier": classifier, "n_w": 2, "conditional": True}
    module, tensors = make_module(n_labels=0, **settings), make_tensors()
    before = module.responsibilities(tensors)
    assert (before[:, ~KEEP].sum(-1) > 1e-3).any()
    module.prune(KEEP)
    after = module.responsibilities(tensors)
    assert (after[:, ~KEEP] == 0).all()
    kept = before * KEEP
    torch.testing.assert_close(after, kept / kept.sum(-1, keepdim=True))
    asked = module.class_logits(module.classifier_input(tensors), tensors)
    torch.testing.assert_close(asked.softmax(-1), after[:, KEPT])


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("z_term", ["closed", "mc"])
@pytest.mark.parametrize("y_prior", Y_PRIORS)
def test_pruning_leaves_loss_and_gradients_finite(y_prior: str, z_term: str, classifier: str) -> None:
    """In single precision, as models train; probabilities of pruned components underflow there."""
    settings: dict[str, Any] = {"y_prior": y_prior, "z_term": z_term, "classifier": classifier}
    module = pruned(n_w=2, conditional=True, **settings).float().train()
    tensors = make_tensors()
    loss = run(module, {**tensors, "X": tensors["X"].float()})[2].loss
    loss.backward()
    assert torch.isfinite(loss)
    assert [n for n, p in module.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()] == []
    gradient = module.mixture.loc.grad
    assert gradient is not None
    assert gradient.any(-1).tolist() == KEEP.tolist()


@pytest.mark.parametrize("z_term", ["closed", "mc"])
@pytest.mark.parametrize("y_prior", ["uniform", "learned"])
@pytest.mark.parametrize(("n_w", "conditional"), [(0, False), (2, True)])
def test_a_pruned_mixture_is_the_mixture_of_what_is_kept(
    n_w: int, conditional: bool, y_prior: str, z_term: str
) -> None:
    settings: dict[str, Any] = {"n_w": n_w, "conditional": conditional, "y_prior": y_prior, "z_term": z_term}
    module, tensors = pruned(**settings), make_tensors()
    smaller = without(module, **settings)
    found, expected = run(module, tensors)[2], run(smaller, tensors)[2]
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(negative_bound(found), negative_bound(expected))
    torch.testing.assert_close(module.log_prior[KEPT], smaller.log_prior)
    torch.testing.assert_close(module.responsibilities(tensors)[:, KEPT], smaller.responsibilities(tensors))
    torch.testing.assert_close(module.kl_per_dimension(tensors), smaller.kl_per_dimension(tensors))
    torch.testing.assert_close(module.component_means(tensors, 1), smaller.component_means(tensors, 1))
    torch.manual_seed(2)
    evidence = smaller.importance_weighted_bound(tensors, 5)
    torch.manual_seed(2)
    torch.testing.assert_close(module.importance_weighted_bound(tensors, 5), evidence)


def test_components_of_labels_are_never_pruned() -> None:
    module = make_module()
    module.prune(torch.zeros(K, dtype=torch.bool))
    assert module.is_active.tolist() == [k < N_LABELS for k in range(K)]
    module.prune(torch.arange(K) == K - 1)
    assert module.is_active.tolist() == [True] * N_LABELS + [False, True]
    assert "log_active" in module.state_dict()


@pytest.mark.parametrize("y_prior", Y_PRIORS)
def test_shares_of_components_in_use_sum_to_one(y_prior: str) -> None:
    module = make_module(y_prior=y_prior, n_labels=0)
    before = module.log_prior.exp()
    module.prune(KEEP)
    after = module.log_prior.exp()
    torch.testing.assert_close(after.sum(), torch.ones(()).double())
    assert (after[~KEEP] == 0).all()
    torch.testing.assert_close(after[KEPT], before[KEPT] / before[KEPT].sum())


def test_the_prior_of_learned_shares_is_about_components_in_use() -> None:
    def penalty(module: MIXVI) -> tuple[Tensor, Tensor]:
        prior = Dirichlet(torch.full((len(KEPT),), 1 + ALPHA, dtype=torch.float64))
        return torch.as_tensor(module._penalties()), prior.log_prob(module.log_prior[KEPT].exp())

    module = pruned(y_prior="learned")
    first, first_density = penalty(module)
    with torch.no_grad():
        module.prior_logits.copy_(torch.linspace(-2, 1, K))
    second, second_density = penalty(module)
    torch.testing.assert_close(second - first, (first_density - second_density) / N_TRAINING)
    (gradient,) = torch.autograd.grad(second, module.prior_logits)
    assert (gradient != 0).tolist() == KEEP.tolist()


# -- nats ----------------------------------------------------------------------------------------------------


def shares_of(module: MIXVI, tensors: dict[str, Tensor]) -> Tensor:
    """q(y | z) at the posterior means, one cell at a time."""
    q_z, q_w = encoded(module, tensors)
    rows = [
        logits_of_cell(module, q_z.loc[i], q_z.loc[i], None if q_w is None else q_w.loc[i], tensors["condition"][i])
        for i in range(len(q_z.loc))
    ]
    return torch.stack(rows).softmax(-1)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@DEPENDENCE
def test_nats_are_the_divergence_of_each_dimension(n_w: int, conditional: bool, w_prior: str, classifier: str) -> None:
    settings: dict[str, Any] = {"n_w": n_w, "conditional": conditional, "w_prior": w_prior, "classifier": classifier}
    module, tensors = make_module(**settings), make_tensors()
    (q_z, q_w), shares = encoded(module, tensors), shares_of(module, tensors)
    found = module.kl_per_dimension(tensors)
    assert found.shape == (N_CELLS, N_LATENT + n_w)
    for i in range(N_CELLS):
        condition, own = tensors["condition"][i], Normal(q_z.loc[i], q_z.scale[i])
        w = None if q_w is None else q_w.loc[i]
        of_z = sum(shares[i, k] * kl_divergence(own, component(module, k, w, condition)) for k in range(K))
        torch.testing.assert_close(found[i, :N_LATENT], torch.as_tensor(of_z))
        if q_w is not None:
            of_w = w_by_hand(module, Normal(q_w.loc[i], q_w.scale[i]), condition)
            torch.testing.assert_close(found[i, N_LATENT:], of_w)
    assert (found >= 0).all()


@pytest.mark.parametrize("conditional", [False, True])
def test_nats_of_z_sum_to_the_closed_term_of_unlabelled_cells(conditional: bool) -> None:
    module, tensors = make_module(classifier="mean", conditional=conditional), make_tensors()
    term, nats = kl_of(run(module, tensors)[2], "z"), module.kl_per_dimension(tensors).sum(-1)
    torch.testing.assert_close(nats[UNLABELLED], term[UNLABELLED])
    # of a labelled cell the loss takes its own component
    assert not torch.isclose(nats[LABELLED], term[LABELLED]).any()


# -- means under another condition ---------------------------------------------------------------------------


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("n_w", [0, 2])
def test_component_means_keep_component_and_w_and_switch_the_condition(
    n_w: int, classifier: str, released: bool
) -> None:
    module, tensors = make_module(n_w=n_w, conditional=True, classifier=classifier), make_tensors()
    module.labels_dropped = released
    q_w, shares = encoded(module, tensors)[1], shares_of(module, tensors)
    found = [module.component_means(tensors, target) for target in range(N_CONDITIONS)]
    for target, i in [(target, i) for target in range(N_CONDITIONS) for i in range(N_CELLS)]:
        w = None if q_w is None else q_w.loc[i]
        means = torch.stack([component(module, k, w, torch.tensor(target)).loc for k in range(K)])
        expected = shares[i] @ means if released or CODES[i] < 0 else means[CODES[i]]
        torch.testing.assert_close(found[target][i], expected)
    assert not torch.isclose(found[0], found[1]).all(-1).any()


def test_labels_that_were_let_go_are_those_of_no_cell() -> None:
    settings: dict[str, Any] = {"n_w": 2, "conditional": True, "y_prior": "learned"}
    labelled, hidden = make_tensors(), make_tensors([-1] * N_CELLS)
    module = make_module(**settings)
    kept = run(module, labelled)[2]
    expected = run(module, hidden)[2]
    module.labels_dropped = True
    found = run(module, labelled)[2]
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=0)
    torch.testing.assert_close(negative_bound(found), negative_bound(expected), rtol=0, atol=0)
    assert float(found.extra_metrics["classification_loss"]) == 0
    assert float(kept.extra_metrics["classification_loss"]) > 0
    # the names of components are still those of labels
    assert module.class_logits(module.classifier_input(labelled), labelled).shape == (N_CELLS, N_LABELS)


# -- draws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [False, True])
def test_without_w_a_draw_is_one_of_the_gaussian_of_its_component(conditional: bool) -> None:
    module = make_module(conditional=conditional)
    codes, conditions = torch.arange(K).repeat(2), torch.tensor([0] * K + [1] * K).view(-1, 1)
    torch.manual_seed(4)
    noise = torch.randn(2 * K, N_LATENT, dtype=torch.float64)
    torch.manual_seed(4)
    found = module.draw(codes, conditions)
    for i in range(2 * K):
        own = component(module, int(codes[i]), None, conditions[i])
        torch.testing.assert_close(found[i], own.loc + own.scale * noise[i])
    torch.manual_seed(4)
    moved = module.draw(codes, 1 - conditions)
    assert torch.equal(found, moved) is not conditional


@pytest.mark.parametrize("condition", range(N_CONDITIONS))
@pytest.mark.parametrize("w_prior", ["standard", "learned"])
def test_moments_of_draws_are_those_of_a_component_whose_w_is_summed_out(w_prior: str, condition: int) -> None:
    """By quadrature over the one dimension of w: the variance within, and that of the mean."""
    module, n, code = make_module(n_w=1, conditional=True, w_prior=w_prior), 40_000, torch.tensor([condition])
    with torch.no_grad():
        # moves components by more than they are wide
        module.mixture.loc_shift.weight.mul_(8)
        at, scale = torch.zeros(()).double(), torch.ones(()).double()
        if w_prior == "learned":
            row = one_hot(code, N_CONDITIONS)
            at, scale = (row @ module.w_prior_loc)[0], (row @ module.w_prior_log_scale).exp()[0]
        places = at + scale * torch.linspace(-8, 8, 801).double()
        weights = Normal(at, scale).log_prob(places).softmax(0)
        for k in (0, K - 1):
            given = [component(module, k, place.view(1), code) for place in places]
            means, variances = (torch.stack([getattr(one, name) for one in given]) for name in ("mean", "variance"))
            mean = weights @ means
            of_mean = weights @ (means - mean) ** 2
            variance = weights @ variances + of_mean
            assert (of_mean > 0.05 * variance).any()
            torch.manual_seed(0)
            drawn = module.draw(torch.full((n,), k), code.expand(n, 1))
            error = (variance / n).sqrt()
            assert ((drawn.mean(0) - mean).abs() < 5 * error).all()
            spread = ((drawn - mean) ** 2).std(0) / math.sqrt(n)
            assert (((drawn - mean) ** 2).mean(0) - variance).abs().div(spread).max() < 5


# -- decoding of positions that are nobody's -----------------------------------------------------------------


@pytest.mark.parametrize("gene_likelihood", ["nb", "zinb", "poisson"])
def test_a_position_is_decoded_like_a_cell_of_that_batch_condition_and_library(gene_likelihood: str) -> None:
    module, tensors = make_module(conditional=True, gene_likelihood=gene_likelihood), make_tensors()
    z = torch.randn(N_CELLS, N_LATENT).double()
    expected = log_counts(module, tensors, z)
    for i in range(N_CELLS):
        likelihood = module.likelihood_anywhere(
            z[i : i + 1],
            condition=int(tensors["condition"][i]),
            batch=int(tensors["batch"][i]),
            library=float(tensors["X"][i].sum()),
        )
        torch.testing.assert_close(likelihood.log_prob(tensors["X"][i : i + 1])[0], expected[i])


def test_no_batch_is_the_average_of_all_and_the_library_scales_the_rate() -> None:
    module, z = make_module(conditional=True), torch.randn(4, N_LATENT).double()
    conditions = torch.tensor([[0], [1], [1], [0]])
    average = torch.full((4, N_BATCH), 1 / N_BATCH).double()
    decoded = module.decoder(z, average, torch.eye(N_CONDITIONS).double()[conditions[:, 0]])
    found = module.likelihood_anywhere(z, condition=conditions).rate
    torch.testing.assert_close(found, 1e4 * decoded.scale)
    torch.testing.assert_close(module.likelihood_anywhere(z, condition=conditions, library=123.0).rate, found * 0.0123)
    for code in range(N_CONDITIONS):
        one = module.likelihood_anywhere(z, condition=code).rate
        of_code = conditions[:, 0] == code
        torch.testing.assert_close(one[of_code], found[of_code])
        assert not torch.isclose(one[~of_code], found[~of_code]).all(-1).any()
        torch.testing.assert_close(module.decode_anywhere(z, condition=code), one.log1p())
    batches = [module.likelihood_anywhere(z, condition=conditions, batch=b).rate for b in range(N_BATCH)]
    assert all(not torch.isclose(rate, found).all(-1).any() for rate in batches)


def test_further_covariates_are_at_their_average_and_at_zero() -> None:
    module = make_module(conditional=True, n_cats_per_cov=(3, 2), n_continuous_cov=2)
    z, ones = torch.randn(4, N_LATENT).double(), torch.ones(4, 1).double()
    rows = [ones * row for row in (torch.eye(N_BATCH)[1], torch.eye(N_CONDITIONS)[0], torch.ones(3) / 3)]
    decoded = module.decoder(torch.cat([z, torch.zeros(4, 2).double()], -1), *rows, ones * torch.ones(2) / 2)
    found = module.likelihood_anywhere(z, condition=0, batch=1)
    torch.testing.assert_close(found.rate, 1e4 * decoded.scale)
