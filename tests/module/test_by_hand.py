"""The step written by hand: the loss, gradients, draws and running means of the step by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse
from scvi.module.base import LossOutput
from torch import Tensor, nn

from deltavi.kernels import compiled, kernels
from deltavi.model import SCGEN, VAE
from deltavi.module import VAE as VAEModule
from deltavi.module.by_hand import Step
from deltavi.registry.cells import Cells

pytestmark = [
    pytest.mark.skipif(kernels("shares") is None, reason="numba is switched off"),
    pytest.mark.filterwarnings("ignore:.*have no counts at all"),
    pytest.mark.filterwarnings("ignore:This dataset has some empty cells"),
]

N_CELLS, N_GENES = 60, 40


@pytest.fixture(scope="module")
def adata() -> anndata.AnnData:
    """Counts of two batches with a cell without counts, a covariate and size factors."""
    generator = np.random.default_rng(0)
    counts = generator.poisson(generator.gamma(0.3, 1, N_GENES), (N_CELLS, N_GENES)).astype(np.float32)
    counts[3] = 0
    counts[4, :2] = 17, 400
    obs = {
        "batch": np.where(np.arange(N_CELLS) % 3 == 0, "a", "b"),
        "site": np.array(list("uvw"))[np.arange(N_CELLS) % 3],
        "stim": np.where(np.arange(N_CELLS) % 2 == 0, "control", "treated"),
        "depth": counts.sum(1) + 1.0,
    }
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs)


def prepared(adata: anndata.AnnData, cls: type = VAE, setup: dict[str, Any] | None = None, **settings: Any) -> Any:
    """A module in training with weights away from their start, and the mini-batch of all cells."""
    cls.setup_anndata(adata, **(setup or {}))
    model = cls(adata, seed=0, **settings)
    module = model.module.train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return module, Cells(model.adata_manager).take(np.arange(N_CELLS))


def loss_by_hand(module: nn.Module, tensors: dict[str, Tensor], kl_weight: Tensor | float) -> LossOutput | None:
    """Loss of a mini-batch by hand, if it is covered."""
    step = Step.of(module)
    return None if step is None else step.loss(tensors, kl_weight)


def both(module: nn.Module, tensors: dict[str, Tensor], kl_weight: Tensor | float = 0.3) -> list[dict[str, Tensor]]:
    """What is left of a step after it was made by hand, and by automatic differentiation."""

    def graph() -> LossOutput:
        found: LossOutput = module.forward(tensors, loss_kwargs={"kl_weight": kl_weight})[2]
        return found

    def by_hand() -> LossOutput:
        found = loss_by_hand(module, tensors, kl_weight)
        assert found is not None, "not covered"
        return found

    before = {name: value.clone() for name, value in module.state_dict().items()}
    return [after(module, before, step) for step in (by_hand, graph)]


def after(module: nn.Module, before: dict[str, Tensor], step: Callable[[], LossOutput]) -> dict[str, Tensor]:
    """Losses, gradients, buffers and the next random number."""
    module.load_state_dict(before)
    module.zero_grad()
    torch.manual_seed(0)
    output = step()
    output.loss.backward()
    found = {f"slope of {name}": weight.grad for name, weight in module.named_parameters() if weight.requires_grad}
    found |= {name: value.clone() for name, value in module.named_buffers()}
    found |= output.kl_local
    return {
        **{name: value.detach().clone() for name, value in found.items() if value is not None},
        "loss": output.loss.detach(),
        "reconstruction": output.reconstruction_loss["reconstruction_loss"].detach(),
        "next draw": torch.rand(1),
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Up to 1e-6 of each tensor; biases before a normalisation have no effect but rounding, of the size of others."""
    assert found.keys() == expected.keys()
    scale = max(float(value.norm()) for name, value in expected.items() if name.startswith("slope"))
    for name, value in found.items():
        size = float(expected[name].double().norm())
        wrong = float((value.double() - expected[name].double()).norm())
        floor = 1e-6 if name.endswith("bias") else 1e-7
        assert wrong <= 1e-6 * size + floor * scale, (name, wrong, size)
    assert torch.equal(found["next draw"], expected["next draw"])


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "without zero inflation": {"gene_likelihood": "nb"},
    "no dropout": {"dropout_rate": 0.0},
    "much dropout": {"dropout_rate": 0.5, "dropout_rate_decoder": 0.3},
    "two layers": {"n_layers": 2},
    "a deeper decoder": {"n_layers_decoder": 3, "gene_likelihood": "nb"},
    "normalised encoder": {"use_batch_norm": "encoder"},
    "normalised decoder": {"use_batch_norm": "decoder"},
    "nothing normalised": {"use_batch_norm": "none", "n_layers": 2},
    "one latent dimension": {"n_latent": 1, "n_hidden": 7},
}
SETUPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batches": {"batch_key": "batch"},
    "covariates": {"batch_key": "batch", "categorical_covariate_keys": ["site"]},
    "size factors": {"size_factor_key": "depth"},
}
# Size factors are units of what is decoded, by default not of shares.
SHARES = {"size factors": {"scale_activation": "softmax"}}


@pytest.mark.parametrize("settings", list(SETTINGS))
@pytest.mark.parametrize("setup", list(SETUPS))
def test_equals_automatic_differentiation(adata: anndata.AnnData, setup: str, settings: str) -> None:
    chosen = {**SETTINGS[settings], **SHARES.get(setup, {})}
    assert_same(*both(*prepared(adata, setup=SETUPS[setup], **chosen)))


@pytest.mark.parametrize("inject", [False, True])
def test_covariates_of_deeper_layers(adata: anndata.AnnData, inject: bool) -> None:
    module = prepared(adata, setup=SETUPS["covariates"], n_layers=3, deeply_inject_covariates=inject)
    assert_same(*both(*module))


def test_conditions_in_the_decoder(adata: anndata.AnnData) -> None:
    setup = {"condition_key": "stim", "labels_key": "site"}
    assert_same(*both(*prepared(adata, SCGEN, setup, gene_likelihood="zinb")))


@pytest.mark.parametrize("kl_weight", [0.0, 1.0, torch.tensor(0.7)])
def test_weights_of_the_divergence(adata: anndata.AnnData, kl_weight: Tensor | float) -> None:
    assert_same(*both(*prepared(adata), kl_weight))


def test_frozen_weights_get_no_gradient(adata: anndata.AnnData) -> None:
    module, tensors = prepared(adata)
    module.px_r.requires_grad_(False)
    next(module.z_encoder.parameters()).requires_grad_(False)
    found, expected = both(module, tensors)
    assert_same(found, expected)
    assert module.px_r.grad is None


def test_part_of_a_loss(adata: anndata.AnnData) -> None:
    """A loss that is one term of another."""
    module, tensors = prepared(adata)
    torch.manual_seed(0)
    output = loss_by_hand(module, tensors, 1.0)
    assert output is not None
    (3 * output.loss + module.px_r.sum()).backward()
    torch.manual_seed(0)
    expected = module.forward(tensors, loss_kwargs={"kl_weight": 1.0})[2].loss
    (slope,) = torch.autograd.grad(expected, module.px_r)
    torch.testing.assert_close(module.px_r.grad, 3 * slope + 1, rtol=1e-5, atol=1e-6)


# -- what is not covered --------------------------------------------------------------------------------------

OTHERS: dict[str, dict[str, Any]] = {
    "Poisson": {"gene_likelihood": "poisson"},
    "dispersion of cells": {"dispersion": "gene-cell"},
    "dispersion of batches": {"dispersion": "gene-batch"},
    "learned library": {"library": "learned"},
    "autoencoder": {"posterior": "deterministic"},
    "mixture": {"prior": "vamp", "n_pseudo_inputs": 3},
    "penalty": {"weight_l2": 0.1},
    "linear decoder": {"n_layers_decoder": 0},
    "layer norm": {"use_layer_norm": "both", "use_batch_norm": "none"},
    "leaky": {"activation": "leaky_relu"},
    "no bias": {"bias": False},
    "softplus": {"scale_activation": "softplus"},
    "covariates in the encoder": {"encode_covariates": True},
}


@pytest.mark.parametrize("settings", list(OTHERS))
def test_other_modules_go_the_long_way(adata: anndata.AnnData, settings: str) -> None:
    try:
        module, tensors = prepared(adata, setup=SETUPS["batches"], **OTHERS[settings])
    except Exception as error:
        pytest.fail(f"not a setting: {error}")
    assert loss_by_hand(module, tensors, 1.0) is None


class Own(VAEModule):
    """A module of a user's own."""


def in_evaluation(module: nn.Module) -> None:
    module.eval()


def frozen_means(module: Any) -> None:
    module.z_encoder.encoder.fc_layers[0][1].eval()


def hooked(module: Any) -> None:
    module.decoder.register_forward_hook(lambda *_: None)


def in_double(module: nn.Module) -> None:
    module.double()


def of_a_user(module: nn.Module) -> None:
    module.__class__ = Own


def with_a_loss_of_its_own(module: Any) -> None:
    module.loss = lambda *_, **__: None


@pytest.mark.parametrize("change", [with_a_loss_of_its_own, in_evaluation, frozen_means, hooked, in_double, of_a_user])
def test_other_states_go_the_long_way(adata: anndata.AnnData, change: Callable[[Any], None]) -> None:
    module, tensors = prepared(adata)
    change(module)
    assert loss_by_hand(module, tensors, 1.0) is None


def test_other_circumstances_go_the_long_way(adata: anndata.AnnData) -> None:
    module, tensors = prepared(adata)
    with torch.no_grad():
        assert loss_by_hand(module, tensors, 1.0) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert loss_by_hand(module, tensors, 1.0) is None
    with compiled(False):
        assert loss_by_hand(module, tensors, 1.0) is None
    assert loss_by_hand(module, {**tensors, "X": tensors["X"].double()}, 1.0) is None
    assert loss_by_hand(module, tensors, 1.0) is not None


def test_a_loss_that_is_not_finite_is_not_a_number(adata: anndata.AnnData) -> None:
    module, tensors = prepared(adata)
    with torch.no_grad():
        module.decoder.px_scale_decoder[0].bias[0] = torch.inf
    output = loss_by_hand(module, tensors, 1.0)
    assert output is not None
    output.loss.backward()
    assert output.loss.isnan()
    assert module.px_r.grad is not None
    assert module.px_r.grad.isnan().all()


def test_training_is_that_of_automatic_differentiation(adata: anndata.AnnData) -> None:
    """All steps of a training, whose weights drift apart by rounding alone."""

    def trained() -> VAE:
        VAE.setup_anndata(adata, batch_key="batch")
        model = VAE(adata, seed=0)
        model.train(4, batch_size=16, accelerator="cpu")
        return model

    def slow(*_: object) -> None:
        return None

    found = trained()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "loss", slow)
        expected = trained()
    for name, value in expected.history.items():
        np.testing.assert_allclose(found.history[name].astype(float), value.astype(float), rtol=2e-5, err_msg=name)
    for (name, ours), theirs in zip(found.module.named_parameters(), expected.module.parameters(), strict=True):
        np.testing.assert_allclose(ours.detach(), theirs.detach(), atol=2e-4, err_msg=name)
