"""The sums over labels as one function, against autograd through the loop-free terms they replace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from deltavi.latent import LabelHierarchy, label_kl, label_weights
from deltavi.latent._label_sums import LabelSums, Pairs

N_CELLS, N_LATENT, N_HIDDEN = 11, 5, 16
KNOWN = {
    "all": lambda code: code,
    "none": lambda code: torch.full_like(code, -1),
    "some": lambda code: torch.where(torch.arange(len(code)).view(-1, 1) % 3 == 0, -1, code),
}

Terms = Callable[[LabelHierarchy, torch.Tensor, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]


def summed(
    labels: LabelHierarchy, z1: torch.Tensor, logits: torch.Tensor, code: torch.Tensor
) -> dict[str, torch.Tensor]:
    return labels.kl(z1, label_weights(logits, code), code, log_posterior_z1=z1.sum(-1))


def by_autograd(
    labels: LabelHierarchy, z1: torch.Tensor, logits: torch.Tensor, code: torch.Tensor
) -> dict[str, torch.Tensor]:
    weights = label_weights(logits, code)
    return label_kl(labels.terms(z1), weights, log_prior=labels.log_prior, log_posterior_z1=z1.sum(-1))


def found(
    terms: Terms, n_labels: int, samples: tuple[int, ...], known: str, kl_weight: float, dtype: torch.dtype
) -> list[torch.Tensor]:
    """Values of all terms, and gradients by positions, logits and every parameter of a loss that weighs cells apart."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    labels = LabelHierarchy(N_LATENT, n_labels, n_hidden=N_HIDDEN, learn_prior=True).to(dtype)
    z1 = torch.randn(*samples, N_CELLS, N_LATENT, generator=generator).to(dtype).requires_grad_()
    logits = (3 * torch.randn(*samples, N_CELLS, n_labels, generator=generator)).to(dtype).requires_grad_()
    code = KNOWN[known](torch.randint(n_labels, (N_CELLS, 1), generator=generator))
    # the same noise in both precisions
    noise = torch.randn(n_labels, *samples, N_CELLS, N_LATENT, generator=generator).to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *size, **_: noise.reshape(size))
        patch.setattr("torch.distributions.normal._standard_normal", lambda shape, dtype, device: noise.reshape(shape))
        kl = terms(labels, z1, logits, code)
    apart = torch.linspace(0.5, 2, N_CELLS, dtype=dtype)
    (kl["z1"] * apart + kl_weight * (kl["y"] + kl["z2"] * apart.flip(0))).mean().backward()
    gradients = [tensor.grad for tensor in (z1, logits, *labels.parameters()) if tensor.grad is not None]
    assert len(gradients) == 17
    return [*(value.detach() for value in kl.values()), *gradients]


@pytest.mark.parametrize("kl_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("samples", [(), (3,)])
@pytest.mark.parametrize("n_labels", [1, 2, 7])
def test_values_and_gradients_are_those_of_autograd(
    n_labels: int, samples: tuple[int, ...], known: str, kl_weight: float
) -> None:
    grid = n_labels, samples, known, kl_weight
    exact = found(by_autograd, *grid, torch.float64)
    for value, expected in zip(found(summed, *grid, torch.float64), exact, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
    single, autograd = found(summed, *grid, torch.float32), found(by_autograd, *grid, torch.float32)
    for value, other, expected in zip(single, autograd, exact, strict=True):
        # as exact as autograd is, which rounds as well
        error, others = (float((found - expected).abs().max()) for found in (value, other))
        assert error <= 2 * others + 1e-6 * max(1.0, float(expected.abs().max()))


def test_gradients_by_finite_differences() -> None:
    labels = LabelHierarchy(3, 2, n_hidden=4).double()
    z1 = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(2, 5, 3, dtype=torch.float64)
    pairs = Pairs.of(torch.full((5,), -1), 2)
    tensors = [t.detach().requires_grad_() for t in (*labels.posterior.tensors, *labels.conditional.tensors)]

    def function(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found: tuple[torch.Tensor, torch.Tensor] = LabelSums.apply(*given[:2], noise, pairs, *given[2:])
        return found

    assert torch.autograd.gradcheck(function, (z1, weights, *tensors))


def test_the_same_noise_is_drawn_as_by_the_terms() -> None:
    labels = LabelHierarchy(N_LATENT, 3, n_hidden=N_HIDDEN)
    z1, logits, code = torch.randn(4, N_LATENT), torch.randn(4, 3), torch.tensor([[-1], [2], [-1], [0]])
    torch.manual_seed(0)
    ours = summed(labels, z1, logits, code)
    after = torch.rand(1)
    torch.manual_seed(0)
    theirs = by_autograd(labels, z1, logits, code)
    assert torch.equal(after, torch.rand(1))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name])


def test_no_cells_are_no_error() -> None:
    labels = LabelHierarchy(N_LATENT, 3, n_hidden=N_HIDDEN)
    kl = summed(labels, torch.zeros(0, N_LATENT), torch.zeros(0, 3), torch.zeros(0, 1))
    assert {name: value.shape for name, value in kl.items()} == {"z1": (0,), "y": (0,), "z2": (0,)}


def test_a_sure_classifier_has_finite_gradients() -> None:
    labels = LabelHierarchy(N_LATENT, 3, n_hidden=N_HIDDEN)
    logits = torch.tensor([[0.0, 400.0, -400.0]], requires_grad=True)
    sum(summed(labels, torch.randn(1, N_LATENT), logits, torch.tensor([[-1]])).values()).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in labels.parameters())


def test_frozen_weights_get_no_gradient() -> None:
    labels = LabelHierarchy(N_LATENT, 3, n_hidden=N_HIDDEN)
    for name, parameter in labels.named_parameters():
        parameter.requires_grad_("label" in name)
    code = torch.tensor([[0], [-1]])
    kl = summed(labels, torch.randn(2, N_LATENT), torch.randn(2, 3), code)
    (kl["z1"] + kl["z2"]).sum().backward()
    assert {name for name, p in labels.named_parameters() if p.grad is not None} == {
        "posterior.label",
        "conditional.label",
    }


@pytest.mark.parametrize("dropout_rate", [0.0, 0.5])
def test_dropout_and_autocast_take_the_terms(dropout_rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = LabelHierarchy(N_LATENT, 3, n_hidden=N_HIDDEN, dropout_rate=dropout_rate)
    monkeypatch.setattr(LabelSums, "apply", lambda *_: pytest.fail("the function knows neither"))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dropout_rate == 0):
        kl = summed(labels, torch.randn(2, N_LATENT), torch.randn(2, 3), torch.tensor([[0], [-1]]))
    assert all(torch.isfinite(value).all() for value in kl.values())
