"""Linear models whose optimum is known on paper: the tutorial's autoencoder and VAE, and PCA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from deltavi.module import VAE

LINEAR = {
    "n_layers": 0,
    "gene_likelihood": "normal",
    "dispersion": "fixed",
    "library": "none",
    "log_variational": False,
    "use_batch_norm": "none",
    "dropout_rate": 0.0,
}


def tensors_of(x: np.ndarray) -> dict[str, torch.Tensor]:
    zeros = torch.zeros(len(x), 1, dtype=torch.long)
    return {"X": torch.from_numpy(x), "batch": zeros, "labels": zeros}


def minimise(module: VAE, x: np.ndarray, *, steps: int = 300) -> None:
    """L-BFGS to the bottom: no minibatch noise, so that the optimum is met to many digits."""
    tensors = tensors_of(x)
    optimiser = torch.optim.LBFGS(
        module.parameters(), max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = module(tensors)[2].loss
        loss.backward()
        return loss

    optimiser.step(closure)


def encoder_weights(module: VAE) -> np.ndarray:
    return module.z_encoder.mean_encoder.fc_layers[0][0].weight.detach().numpy()


def decoder_weights(module: VAE) -> np.ndarray:
    return module.decoder.px_scale_decoder[0].fc_layers[0][0].weight.detach().numpy()


@pytest.mark.parametrize("penalty", [0.05, 0.5])
@pytest.mark.parametrize("g", [0.5, 1.0, 3.0])
def test_penalised_autoencoder_reaches_its_closed_form(g: float, penalty: float) -> None:
    """x2 = 2 x1 with mean x1^2 = g: a1 = b1 = sqrt((5 g - lambda) / (25 g)) up to a common sign."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal(400)
    first *= np.sqrt(g / (first**2).mean())
    torch.manual_seed(0)
    # a Gaussian of variance 1/2 turns the loss into the plain sum of squares the closed form is for
    module = VAE(
        2, n_latent=1, posterior="deterministic", noise_variance=0.5, weight_l2=penalty, bias=False, **LINEAR
    ).double()
    minimise(module, np.stack([first, 2 * first], axis=1))
    expected = np.sqrt((5 * g - penalty) / (25 * g))
    np.testing.assert_allclose(np.abs(encoder_weights(module)), [[expected, 2 * expected]], atol=1e-5)
    np.testing.assert_allclose(np.abs(decoder_weights(module)), [[expected], [2 * expected]], atol=1e-5)
    assert (np.sign(encoder_weights(module)).ravel() == np.sign(decoder_weights(module)).ravel()).all()


@pytest.mark.parametrize("gamma", [0.1, 1.0, 10.0])
def test_linear_gaussian_vae_reaches_its_closed_form(gamma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """x = (z, 2 z) + noise of variance gamma: a = (1, 2) / (5 + gamma), b = (1, 2), variance gamma / (5 + gamma)."""
    n = 4000
    x = exact_gaussian(np.array([[1 + gamma, 2.0], [2.0, 4 + gamma]]), n)
    torch.manual_seed(0)
    module = VAE(2, n_latent=1, noise_variance=gamma, bias=False, **LINEAR).double()
    # antithetic, standardised noise makes the one-sample bound equal its expectation up to a cross term with x
    noise = orthogonal_noise(x)
    monkeypatch.setattr(
        torch.distributions.Normal, "rsample", lambda self, shape=torch.Size(): self.loc + self.scale * noise
    )
    # the variance of this posterior does not depend on x: its head is a bias
    head = torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    module.z_encoder.var_encoder = ConstantHead(head)
    minimise(module, x, steps=2000)
    sign = np.sign(decoder_weights(module)[0, 0])
    np.testing.assert_allclose(sign * decoder_weights(module), [[1.0], [2.0]], atol=2e-3)
    np.testing.assert_allclose(sign * encoder_weights(module), np.array([[1.0, 2.0]]) / (5 + gamma), atol=2e-3)
    with torch.no_grad():
        variance = module.z_encoder(torch.from_numpy(x)).posterior.variance
    np.testing.assert_allclose(variance.numpy(), gamma / (5 + gamma), atol=2e-3)


class ConstantHead(torch.nn.Module):
    def __init__(self, value: torch.nn.Parameter) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value.expand(x.shape[0], 1)


def exact_gaussian(covariance: np.ndarray, n: int) -> np.ndarray:
    """Sample whose mean is zero and whose covariance is exactly `covariance`."""
    raw = np.random.default_rng(0).standard_normal((n, len(covariance)))
    raw -= raw.mean(0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T, bias=True))).T
    return whitened @ np.linalg.cholesky(covariance).T


def orthogonal_noise(x: np.ndarray) -> torch.Tensor:
    """Noise of mean zero and variance one that is uncorrelated with every column of `x`."""
    noise = np.random.default_rng(1).standard_normal(len(x))
    design = np.column_stack([np.ones(len(x)), x])
    noise -= design @ np.linalg.lstsq(design, noise, rcond=None)[0]
    return torch.from_numpy(noise / noise.std()).view(-1, 1)


def test_linear_autoencoder_spans_the_principal_subspace() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3)) @ rng.standard_normal((3, 8)) + 0.1 * rng.standard_normal((300, 8))
    x -= x.mean(0)
    torch.manual_seed(0)
    module = VAE(8, n_latent=3, posterior="deterministic", noise_variance=0.5, bias=False, **LINEAR).double()
    minimise(module, x, steps=3000)
    principal = np.linalg.svd(x, full_matrices=False)[2][:3].T
    assert subspace_angles(decoder_weights(module), principal).max() < 1e-3


def test_a_deterministic_posterior_has_no_variance_head_and_no_kl() -> None:
    module = VAE(6, n_latent=2, posterior="deterministic", gene_likelihood="poisson")
    assert not any("var_encoder" in name for name, _ in module.named_parameters())
    x = torch.ones(5, 6)
    tensors = {"X": x, "batch": torch.zeros(5, 1), "labels": torch.zeros(5, 1)}
    inference, _, loss = module.eval()(tensors)
    assert torch.equal(inference["z"], inference["qz"].loc)
    assert float(loss.kl_local["kl_divergence_z"].sum()) == 0.0


@pytest.mark.parametrize(
    ("settings", "absent"),
    [
        ({"gene_likelihood": "nb"}, ("px_dropout_decoder", "px_r_decoder", "l_encoder")),
        ({"gene_likelihood": "poisson"}, ("px_dropout_decoder", "px_r")),
        ({"gene_likelihood": "normal", "dispersion": "fixed", "library": "none"}, ("px_r", "l_encoder")),
        ({"gene_likelihood": "zinb", "dispersion": "gene-cell"}, ("l_encoder",)),
    ],
)
def test_no_head_exists_that_is_not_used(settings: dict[str, str], absent: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    module = VAE(6, n_latent=2, **settings)
    names = [name for name, _ in module.named_parameters()]
    for part in absent:
        assert not any(part in name.split(".") for name in names), part
    x = torch.poisson(torch.full((8, 6), 2.0))
    module({"X": x, "batch": torch.zeros(8, 1), "labels": torch.zeros(8, 1)})[2].loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_an_unseen_batch_decodes_as_the_average_covariate() -> None:
    torch.manual_seed(0)
    module = VAE(5, n_batch=2, n_latent=2, n_layers=0, gene_likelihood="nb", scale_activation="exp").eval()
    z, library = torch.randn(3, 2), torch.zeros(3, 1)
    decode = lambda code: module.decode(z, library, torch.full((3, 1), code)).rate.log()  # noqa: E731
    torch.testing.assert_close(decode(-1), (decode(0) + decode(1)) / 2)


def test_switching_the_condition_changes_the_decoded_rate() -> None:
    torch.manual_seed(0)
    module = VAE(5, n_conditions=2, condition_in_decoder=True, n_latent=2, gene_likelihood="nb").eval()
    z, library, batch = torch.randn(3, 2), torch.zeros(3, 1), torch.zeros(3, 1)
    control, target = (module.decode(z, library, batch, torch.full((3, 1), code)).rate for code in (0, 1))
    assert not torch.allclose(control, target)


def test_a_learned_library_needs_its_prior() -> None:
    with pytest.raises(ValueError, match="library_log_means"):
        VAE(5, library="learned")
