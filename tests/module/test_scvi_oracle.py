"""Every term and gradient of the module against ``scvi.module.VAE`` with the same weights."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scvi.module
import torch

from deltavi.module import VAE

N_CELLS, N_GENES, N_BATCH, N_LABELS = 23, 11, 3, 4
LIBRARY_MEANS = np.array([[1.0, 1.4, 1.8]])
LIBRARY_VARS = np.array([[0.3, 0.2, 0.5]])
SIZES = {"n_hidden": 9, "n_latent": 4, "n_layers": 2, "dropout_rate": 0.0}


def make_tensors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    return {
        "X": torch.from_numpy(rng.poisson(1.5, (N_CELLS, N_GENES))).to(dtype),
        "batch": torch.from_numpy(rng.integers(0, N_BATCH, (N_CELLS, 1))),
        "labels": torch.from_numpy(rng.integers(0, N_LABELS, (N_CELLS, 1))),
        "size_factor": torch.from_numpy(rng.uniform(5, 30, (N_CELLS, 1))).to(dtype),
        "extra_continuous_covs": torch.from_numpy(rng.standard_normal((N_CELLS, 2))).to(dtype),
        "extra_categorical_covs": torch.from_numpy(rng.integers(0, 3, (N_CELLS, 1))),
    }


def make_pair(
    likelihood: str, dispersion: str, library: str, covariates: str, dtype: torch.dtype
) -> tuple[VAE, Any, dict[str, torch.Tensor]]:
    """Our module, scvi-tools', with the same weights, and the tensors both take."""
    tensors = make_tensors(dtype)
    with_covariates = covariates != "none"
    if not with_covariates:
        del tensors["extra_continuous_covs"], tensors["extra_categorical_covs"]
    learned = {"library_log_means": LIBRARY_MEANS, "library_log_vars": LIBRARY_VARS} if library == "learned" else {}
    shared = {
        "n_batch": N_BATCH,
        "n_labels": N_LABELS,
        "n_continuous_cov": 2 * with_covariates,
        "gene_likelihood": likelihood,
        "dispersion": dispersion,
        "encode_covariates": covariates == "both",
        **SIZES,
        **learned,
    }
    torch.manual_seed(0)
    theirs = scvi.module.VAE(
        N_GENES,
        n_cats_per_cov=[3] if with_covariates else None,
        use_size_factor_key=library == "size_factor",
        use_observed_lib_size=library != "learned",
        **shared,
    ).to(dtype)
    activation = "softplus" if library == "size_factor" else "softmax"
    ours = VAE(
        N_GENES, n_cats_per_cov=(3,) if with_covariates else (), library=library, scale_activation=activation, **shared
    ).to(dtype)
    weights = {name.replace("library_log", "library_prior.log"): value for name, value in theirs.state_dict().items()}
    ours.load_state_dict({name: weights[name] for name in ours.state_dict()})
    return ours, theirs, tensors


def run(module: Any, tensors: dict[str, torch.Tensor], kl_weight: float) -> Any:
    torch.manual_seed(1)
    module.zero_grad()
    inference, generative, loss = module(tensors, loss_kwargs={"kl_weight": kl_weight})
    loss.loss.backward()
    return inference, generative, loss


def assert_equal(ours: VAE, theirs: Any, tensors: dict[str, torch.Tensor], kl_weight: float, tolerance: float) -> None:
    inference, generative, loss = run(ours, tensors, kl_weight)
    inference_, generative_, loss_ = run(theirs, tensors, kl_weight)

    def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
        scale = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * scale)

    close(loss.loss, loss_.loss)
    close(loss.reconstruction_loss["reconstruction_loss"], loss_.reconstruction_loss["reconstruction_loss"])
    for name in ("kl_divergence_z", "kl_divergence_l"):
        close(loss.kl_local[name], loss_.kl_local[name])
    close(inference["qz"].loc, inference_["qz"].loc)
    close(inference["qz"].scale, inference_["qz"].scale)
    close(inference["z"], inference_["z"])
    close(generative["px"].mean, generative_["px"].mean)
    compare_gradients(ours, theirs, close)


def compare_gradients(ours: VAE, theirs: Any, close: Any) -> None:
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, f"{name} is a head that nothing uses"
        close(parameter.grad, expected.pop(name).grad)
    unused = {name for name, parameter in expected.items() if parameter.grad is not None and parameter.grad.any()}
    assert not unused, f"scvi-tools trains parameters that we lack: {unused}"


GRID = list(
    itertools.product(
        ("zinb", "nb", "poisson"),
        ("gene", "gene-batch", "gene-label", "gene-cell"),
        ("observed", "size_factor", "learned"),
        ("none", "decoder", "both"),
    )
)


@pytest.fixture
def float_means_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """scvi-tools casts one-hot codes with ``.float()``, which a double-precision module cannot multiply."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.mark.usefixtures("float_means_double")
@pytest.mark.parametrize(("likelihood", "dispersion", "library", "covariates"), GRID)
def test_double_precision(likelihood: str, dispersion: str, library: str, covariates: str) -> None:
    ours, theirs, tensors = make_pair(likelihood, dispersion, library, covariates, torch.float64)
    for kl_weight in (0.0, 0.3, 1.0):
        assert_equal(ours, theirs, tensors, kl_weight, 1e-10)


@pytest.mark.parametrize(("likelihood", "dispersion", "library", "covariates"), GRID[::5])
def test_single_precision(likelihood: str, dispersion: str, library: str, covariates: str) -> None:
    ours, theirs, tensors = make_pair(likelihood, dispersion, library, covariates, torch.float32)
    # the reference rounds as well: its log-gamma differences are good to a few units of the seventh digit
    assert_equal(ours, theirs, tensors, 1.0, 3e-6)


@pytest.mark.usefixtures("float_means_double")
@pytest.mark.parametrize("library", ["observed", "learned"])
def test_gaussian_likelihood(library: str) -> None:
    ours, theirs, tensors = make_pair("normal", "gene", library, "decoder", torch.float64)
    assert_equal(ours, theirs, tensors, 0.7, 1e-10)


@pytest.mark.usefixtures("float_means_double")
@pytest.mark.parametrize("library", ["observed", "learned", "size_factor"])
def test_several_samples_average_the_reconstruction(library: str) -> None:
    ours, theirs, tensors = make_pair("zinb", "gene-batch", library, "both", torch.float64)
    ours.eval()
    theirs.eval()
    torch.manual_seed(3)
    inference, generative, loss = ours(tensors, inference_kwargs={"n_samples": 6})
    expected = torch.stack(
        [
            theirs.generative(
                z=inference["z"][k],
                library=inference["library"][k],
                batch_index=tensors["batch"],
                cont_covs=tensors["extra_continuous_covs"],
                cat_covs=tensors["extra_categorical_covs"],
                size_factor=tensors["size_factor"].log(),
                y=tensors["labels"],
            )["px"]
            .log_prob(tensors["X"])
            .sum(-1)
            for k in range(6)
        ]
    )
    torch.testing.assert_close(generative["likelihood"].log_prob(tensors["X"]), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        loss.reconstruction_loss["reconstruction_loss"], -expected.mean(0), rtol=1e-10, atol=1e-10
    )


@pytest.mark.usefixtures("float_means_double")
def test_more_importance_samples_tighten_the_bound() -> None:
    ours, _, tensors = make_pair("nb", "gene", "learned", "none", torch.float64)
    ours.eval()
    torch.manual_seed(0)
    elbo = torch.stack(
        [
            -(loss.reconstruction_loss["reconstruction_loss"] + sum(loss.kl_local.values())).detach()
            for loss in (ours(tensors)[2] for _ in range(400))
        ]
    ).mean()
    few = torch.stack([ours.importance_weighted_bound(tensors, 5) for _ in range(80)]).mean()
    many = torch.stack([ours.importance_weighted_bound(tensors, 400) for _ in range(10)]).mean()
    assert elbo < few < many


def test_importance_weights_reach_the_exact_likelihood() -> None:
    """One gene-free check of log p(x): a linear Gaussian model, whose evidence is a multivariate normal."""
    torch.manual_seed(0)
    module = VAE(
        4,
        n_latent=2,
        n_layers=0,
        gene_likelihood="normal",
        dispersion="fixed",
        noise_variance=0.5,
        library="none",
        log_variational=False,
        use_batch_norm="none",
        dropout_rate=0.0,
    ).double()
    module.eval()
    x = torch.randn(6, 4, dtype=torch.float64)
    tensors = {"X": x, "batch": torch.zeros(6, 1, dtype=torch.long), "labels": torch.zeros(6, 1, dtype=torch.long)}
    linear = module.decoder.px_scale_decoder[0].fc_layers[0][0]
    loading, mean = linear.weight.detach(), linear.bias.detach()
    covariance = loading @ loading.T + 0.5 * torch.eye(4, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)
    torch.manual_seed(0)
    estimate = module.marginal_ll(tensors, n_mc_samples=40_000, n_mc_samples_per_pass=2_000)
    torch.testing.assert_close(estimate, exact, atol=0.02, rtol=0)
