"""The module of ACTINN: its input, its loss, and logistic regression as the case without hidden layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from deltavi.errors import DeltaviError
from deltavi.module import ACTINN

N_CELLS, N_GENES, N_LABELS = 600, 6, 3


def tensors(*, seed: int = 0, n_cells: int = N_CELLS) -> dict[str, torch.Tensor]:
    """Counts of three types that overlap, so that the likelihood has an optimum without a penalty."""
    rng, of_types = np.random.default_rng(seed), np.random.default_rng(5)
    codes = rng.choice(N_LABELS, n_cells, p=[0.6, 0.3, 0.1])
    rates = of_types.gamma(2.0, 10.0, N_GENES) * np.exp(0.4 * of_types.normal(size=(N_LABELS, N_GENES)))
    x = rng.poisson(rates[codes] * rng.gamma(2.0, 0.5, (n_cells, 1)) + 0.1)
    return {
        "X": torch.from_numpy(x.astype(np.float32)).double(),
        "labels": torch.from_numpy(codes).view(-1, 1),
    }


def expression(batch: dict[str, torch.Tensor]) -> np.ndarray:
    x = batch["X"].numpy()
    return np.log2(1 + 1e4 * x / np.maximum(x.sum(1, keepdims=True), 1))


def trained(module: ACTINN, batch: dict[str, torch.Tensor]) -> ACTINN:
    """To convergence, on all cells at once."""
    optimiser = torch.optim.LBFGS(
        module.parameters(), max_iter=2000, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = module(batch)[2].loss
        loss.backward()
        return loss

    optimiser.step(closure)
    return module.eval()


# -- input ---------------------------------------------------------------------------------------------------


def test_input_is_log2_of_cp10k_and_zero_for_empty_cells() -> None:
    batch = tensors()
    batch["X"][3] = 0
    found = ACTINN(N_GENES, n_labels=N_LABELS).classifier_input(batch).numpy()
    np.testing.assert_allclose(found, expression(batch), rtol=1e-12)
    assert (found[3] == 0).all()
    with_factor = {**batch, "size_factor": 2 * batch["X"].sum(1, keepdim=True) + 1}
    found = ACTINN(N_GENES, n_labels=N_LABELS).classifier_input(with_factor).numpy()
    factor = with_factor["size_factor"].numpy()
    np.testing.assert_allclose(found, np.log2(1 + 1e4 * batch["X"].numpy() / factor), rtol=1e-12)


def test_hooks_and_answers_agree() -> None:
    batch = tensors(n_cells=9)
    for n_hidden, n_networks in (((5, 4), 1), ((5, 4), 3), ((), 2), (7, 2)):
        module = ACTINN(N_GENES, n_labels=N_LABELS, n_hidden=n_hidden, n_networks=n_networks).double().eval()
        answer = module.classify(batch)
        torch.testing.assert_close(module.class_logits(module.classifier_input(batch), batch), answer.logits)
        assert answer.reconstruction_error is None
        of_networks = module(batch)[1]["logits"]
        assert of_networks.shape == (n_networks, 9, N_LABELS)
        torch.testing.assert_close(of_networks.mean(0), answer.logits)
        x = module.classifier_input(batch)
        own = [network.output(network.hidden(x)) for network in module.networks]
        torch.testing.assert_close(torch.stack(own), of_networks)
        torch.testing.assert_close(answer.features, answer.logits - answer.logits.mean(1, keepdim=True))
        assert module.n_latent == N_LABELS


def test_genes_that_are_not_chosen_change_nothing_and_get_no_gradient() -> None:
    batch, mask = tensors(), torch.tensor([1.0, 0, 1, 1, 0, 1])
    module = ACTINN(N_GENES, n_labels=N_LABELS, n_hidden=(5,), weight_l2=0.1).double()
    module.choose_genes(mask)
    module(batch)[2].loss.backward()
    for network in module.networks:
        first = network.hidden[0].weight
        assert (first[:, mask == 0] == 0).all()
        assert (first.grad[:, mask == 0] == 0).all()
        assert (first.grad[:, mask == 1] != 0).any(0).all()
    x = module.classifier_input(batch)
    other = x + 3 * (mask == 0)
    torch.testing.assert_close(module.class_logits(other, batch), module.class_logits(x, batch))


# -- loss ----------------------------------------------------------------------------------------------------


def test_loss_is_cross_entropy_and_half_the_squared_weights() -> None:
    batch = tensors()
    module = ACTINN(N_GENES, n_labels=N_LABELS, n_hidden=(5, 4), n_networks=1, weight_l2=0.25).double()
    with torch.no_grad():
        for layer in module.networks[0].linear_layers():
            layer.bias.normal_()
    _, generative, output = module(batch)
    (logits,) = generative["logits"]
    log_probabilities = logits.log_softmax(1)
    cross_entropy = -log_probabilities.gather(1, batch["labels"]).mean()
    weights = [value for name, value in module.named_parameters() if name.endswith("weight")]
    expected = cross_entropy + 0.25 * sum(w.square().sum() for w in weights) / 2
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.extra_metrics["classification_loss"], cross_entropy.detach())
    torch.testing.assert_close(output.reconstruction_loss_sum, N_CELLS * cross_entropy)
    right = (logits.argmax(1) == batch["labels"].squeeze()).float().mean()
    assert float(output.extra_metrics["accuracy"]) == pytest.approx(float(right))
    assert output.n_obs_minibatch == N_CELLS


@pytest.mark.parametrize("balanced", [False, True])
def test_a_committee_is_as_many_networks_that_each_leave_out_their_fold(balanced: bool) -> None:
    batch, n_networks = tensors(n_cells=40), 3
    batch["labels"][5] = -1
    folds = torch.from_numpy(np.random.default_rng(1).integers(-1, n_networks, 40))
    committee = ACTINN(N_GENES, n_labels=N_LABELS, n_hidden=(5,), n_networks=n_networks, weight_l2=0.25).double()
    if balanced:
        committee.get_buffer("label_weight").copy_(torch.tensor([0.5, 1.0, 4.0]))
    output = committee({**batch, "fold": folds.view(-1, 1)})[2]
    output.loss.backward()
    losses, per_cell = [], torch.full((n_networks, 40), float("nan"), dtype=torch.double)
    for k in range(n_networks):
        alone = ACTINN(N_GENES, n_labels=N_LABELS, n_hidden=(5,), n_networks=1, weight_l2=0.25).double()
        alone.networks[0].load_state_dict(committee.networks[k].state_dict())
        alone.get_buffer("label_weight").copy_(committee.get_buffer("label_weight"))
        seen = (folds != k) & (batch["labels"].squeeze() >= 0)
        single = alone({name: value[seen] for name, value in batch.items()})[2]
        single.loss.backward()
        losses.append(single.loss)
        per_cell[k, seen] = single.reconstruction_loss["reconstruction_loss"]
        for (name, own), theirs in zip(
            alone.networks[0].named_parameters(), committee.networks[k].parameters(), strict=True
        ):
            torch.testing.assert_close(theirs.grad * n_networks, own.grad, msg=name)
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    torch.testing.assert_close(output.reconstruction_loss["reconstruction_loss"], per_cell.nanmean(0).nan_to_num(0.0))


def test_a_cell_with_a_fold_is_judged_by_the_network_that_did_not_see_it() -> None:
    batch, folds = tensors(n_cells=12), torch.arange(12) % 4 - 1
    module = ACTINN(N_GENES, n_labels=N_LABELS, n_hidden=(5,), n_networks=3).double().eval()
    of_networks = module(batch)[1]["logits"]
    found = module.classify({**batch, "fold": folds.view(-1, 1)})
    for cell, fold in enumerate(folds.tolist()):
        expected = of_networks[:, cell].mean(0) if fold < 0 else of_networks[fold, cell]
        torch.testing.assert_close(found.logits[cell], expected)
    torch.testing.assert_close(found.features, module.classify(batch).features)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("weight_l2", [0.0, 0.02])
def test_without_hidden_layers_it_is_scikit_learns_logistic_regression(
    weight_l2: float, class_weight: str | None
) -> None:
    batch, query = tensors(), tensors(seed=1)
    module = ACTINN(N_GENES, n_labels=N_LABELS, n_hidden=(), n_networks=1, weight_l2=weight_l2).double()
    if class_weight == "balanced":
        n = np.bincount(batch["labels"].numpy().ravel())
        module.get_buffer("label_weight").copy_(torch.from_numpy(N_CELLS / (N_LABELS * n)))
    # scikit-learn sums over cells what is averaged here, and weighs it by C rather than the penalty
    c = 1 / (weight_l2 * N_CELLS) if weight_l2 else np.inf
    oracle = LogisticRegression(C=c, tol=1e-10, max_iter=10_000, class_weight=class_weight)
    oracle.fit(expression(batch), batch["labels"].numpy().ravel())
    with torch.no_grad():
        found = trained(module, batch).classify(query).logits.softmax(1).numpy()
    expected = oracle.predict_proba(expression(query))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # a task neither trivial nor hopeless
    assert 0.6 < (expected.argmax(1) == query["labels"].numpy().ravel()).mean() < 0.97


def test_standardising_is_what_scikit_learn_would_do() -> None:
    batch = tensors()
    x = expression(batch)
    module = ACTINN(N_GENES, n_labels=N_LABELS, n_hidden=(), n_networks=1, weight_l2=0.1).double()
    module.standardise(torch.from_numpy(x.mean(0)), torch.from_numpy(x.std(0)))
    oracle = LogisticRegression(C=1 / (0.1 * N_CELLS), tol=1e-10, max_iter=10_000)
    oracle.fit((x - x.mean(0)) / x.std(0), batch["labels"].numpy().ravel())
    with torch.no_grad():
        found = trained(module, batch).classify(batch).logits.softmax(1).numpy()
    np.testing.assert_allclose(found, oracle.predict_proba((x - x.mean(0)) / x.std(0)), atol=1e-4)


# -- settings ------------------------------------------------------------------------------------------------


def test_initial_weights_are_xaviers_and_biases_zero() -> None:
    module = ACTINN(300, n_labels=4, n_hidden=(100,))
    bound = (6 / 400) ** 0.5
    for network in module.networks:
        weight = network.hidden[0].weight
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert all((layer.bias == 0).all() for layer in network.linear_layers())
    assert not torch.equal(module.networks[0].hidden[0].weight, module.networks[1].hidden[0].weight)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"n_hidden": (10, 0)}, "n_hidden"),
        ({"n_hidden": 0}, "n_hidden"),
        ({"n_labels": 0}, "n_labels"),
        ({"n_networks": 0}, "n_networks"),
        ({"weight_l2": -1.0}, "weight_l2"),
    ],
)
def test_senseless_settings(settings: dict[str, object], word: str) -> None:
    with pytest.raises(DeltaviError, match=word):
        ACTINN(5, **{"n_labels": 3, **settings})
