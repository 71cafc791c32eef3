"""A VAE whose prior is a mixture of encoded pseudo-inputs: its bound, its start, files and queries."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from torch.distributions import Normal

from deltavi.errors import DeltaviError
from deltavi.model import LABELVI, MIXVI, SCGEN, VAE
from deltavi.module import VAE as VAEModule
from tests.model.conftest import QUIET, SETUP, dense, small_adata

COVARIATES = {"encode_covariates": True, "condition_in_decoder": True}


def vamp(model_class: Any = VAE, *, epochs: int = 2, seed: int = 0, **init: Any) -> Any:
    adata = small_adata()
    model_class.setup_anndata(adata, **SETUP)
    model = model_class(adata, n_hidden=16, n_latent=3, prior="vamp", n_pseudo_inputs=5, seed=seed, **init)
    if epochs:
        model.train(max_epochs=epochs, batch_size=32, **QUIET)
    return model


def tensors_of(model: Any) -> dict[str, torch.Tensor]:
    return next(iter(model._make_data_loader(adata=model.adata, batch_size=20)))


@pytest.mark.parametrize("init", [{}, COVARIATES], ids=["plain", "covariates"])
@torch.no_grad()
def test_the_bound_is_that_of_a_sum_by_hand(init: dict[str, Any]) -> None:
    model = vamp(**init)
    module, tensors = model.module.eval(), tensors_of(model)
    torch.manual_seed(0)
    inference = module.inference(**module._get_inference_input(tensors), n_samples=400)
    generative = module.generative(**module._get_generative_input(tensors, inference))
    found = module.loss(tensors, inference, generative)

    # pseudo-inputs go through the encoder with every covariate at its average
    rows = module.prior.pseudo_inputs
    average = (
        [torch.full((5, n), 1 / n) for n in module.covariate_sizes] if init else []  # batch, condition
    )
    components = module.z_encoder(rows, *average).posterior
    z, posterior = inference["z"], inference["qz"]
    densities = torch.stack(
        [Normal(loc, scale).log_prob(z).sum(-1) for loc, scale in zip(*_rows(components), strict=True)]
    )
    log_prior = densities.logsumexp(0) - math.log(5)
    log_prob = generative["likelihood"].log_prob(tensors[REGISTRY_KEYS.X_KEY])
    by_hand = (log_prob + log_prior - posterior.log_prob(z).sum(-1)).mean(0)
    # the entropy is exact in one of them, and drawn in the other
    torch.testing.assert_close(-found.loss, by_hand.mean(), atol=0.2, rtol=0)
    kl = found.kl_local["kl_divergence_z"]
    torch.testing.assert_close(kl, -posterior.entropy().sum(-1) - log_prior.mean(0), atol=1e-4, rtol=1e-4)


def _rows(components: Normal) -> tuple[torch.Tensor, torch.Tensor]:
    return components.loc, components.scale


def test_importance_weights_know_the_prior() -> None:
    model = vamp(epochs=4)
    bound = float(model.get_elbo())
    marginal = model.get_marginal_ll(n_mc_samples=400)
    # log p(x) is above its bound, by no more than what draws can explain
    assert bound - 0.5 < marginal < bound + 30


def test_pseudo_inputs_start_at_cells() -> None:
    model = vamp(epochs=0)
    expression = np.log1p(dense(model.adata.X))
    start = model.module.prior.pseudo_inputs.detach().numpy()
    nearest = np.abs(start[:, None] - expression[None]).max(-1).min(1)
    np.testing.assert_allclose(nearest, 0, atol=1e-6)
    assert len(np.unique(start, axis=0)) == 5


def test_a_seed_decides_where_they_start() -> None:
    starts = [vamp(epochs=0, seed=seed).module.prior.pseudo_inputs.detach().numpy() for seed in (1, 1, 2)]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])


def test_they_are_learned_and_a_file_keeps_them(tmp_path: Path) -> None:
    start = vamp(epochs=0).module.prior.pseudo_inputs.detach().clone()
    model = vamp()
    learned = model.module.prior.pseudo_inputs.detach()
    assert not torch.equal(start, learned)
    model.save(tmp_path / "model")
    again = VAE.load(tmp_path / "model", model.adata)
    assert torch.equal(again.module.prior.pseudo_inputs, learned)
    assert float(again.get_elbo()) == pytest.approx(float(model.get_elbo()), rel=1e-6)
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


def test_a_mapped_query_keeps_the_prior() -> None:
    model = vamp()
    query = small_adata(seed=1)
    query.obs_names = "query-" + query.obs_names
    mapped = VAE.load_query_data(query, model)
    mapped.train(max_epochs=1, batch_size=32, **QUIET)
    assert torch.equal(mapped.module.prior.pseudo_inputs, model.module.prior.pseudo_inputs)


def test_responses_are_predicted_with_it() -> None:
    model = vamp(SCGEN)
    predicted = model.predict_perturbation(small_adata(seed=1), control="control", perturbation="stimulated")
    assert predicted.n_obs > 0
    assert np.isfinite(dense(predicted.X)).all()


def test_encoding_pseudo_inputs_leaves_batch_normalisation_alone() -> None:
    model = vamp(epochs=1)
    module = model.module.train()
    before = {name: value.clone() for name, value in module.named_buffers()}
    module.prior.log_prob(torch.zeros(4, 3), module._given(torch.zeros(4, 1, dtype=torch.long)))
    assert all(torch.equal(value, before[name]) for name, value in module.named_buffers())
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize("model_class", [LABELVI, MIXVI])
def test_models_with_a_prior_of_their_own_refuse_it(model_class: Any) -> None:
    with pytest.raises(DeltaviError, match="has a prior of its own"):
        vamp(model_class, epochs=0)


def test_labels_take_its_place() -> None:
    model = vamp()
    labelled = LABELVI.from_vae(model)
    assert not any("prior.pseudo" in name for name in labelled.module.state_dict())
    weights = labelled.module.z_encoder.mean_encoder.state_dict()
    assert all(
        torch.equal(value, weights[name]) for name, value in model.module.z_encoder.mean_encoder.state_dict().items()
    )


def test_a_point_estimate_has_no_prior() -> None:
    with pytest.raises(DeltaviError, match="posterior='gaussian'"):
        VAEModule(5, prior="vamp", posterior="deterministic")


def test_a_name_of_no_prior_is_answered_with_the_nearest() -> None:
    with pytest.raises(DeltaviError, match="'vamp'"):
        VAEModule(5, prior="wamp")  # type: ignore[arg-type]


def test_scvi_tools_has_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(DeltaviError, match="prior='VampPrior'"):
        vamp().export_scvi(tmp_path / "scvi")
    assert not (tmp_path / "scvi").exists()
