"""scvi-tools' view of the expression: there when somebody looks at it, and not made before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from scvi.distributions import NegativeBinomial as ScviNegativeBinomial
from scvi.distributions import Poisson as ScviPoisson
from scvi.distributions import ZeroInflatedNegativeBinomial as ScviZeroInflatedNegativeBinomial

from deltavi._compat import MODULE_KEYS
from deltavi.likelihood import Likelihood, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from deltavi.model import VAE
from deltavi.module import VAE as VAEModule
from deltavi.module._generated import Generated
from tests.model.conftest import QUIET, SETUP, small_adata
from tests.models import classes_of

LIKELIHOODS: dict[str, tuple[type[Likelihood], type]] = {
    "zinb": (ZeroInflatedNegativeBinomial, ScviZeroInflatedNegativeBinomial),
    "nb": (NegativeBinomial, ScviNegativeBinomial),
    "poisson": (Poisson, ScviPoisson),
}
MODELS = pytest.mark.parametrize("model_class", classes_of(decodes=True, reads="counts"))


def generated(kind: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    module = VAEModule(5, n_hidden=8, n_latent=2, gene_likelihood=kind).eval()
    tensors = {
        REGISTRY_KEYS.X_KEY: torch.poisson(torch.full((6, 5), 2.0)),
        REGISTRY_KEYS.BATCH_KEY: torch.zeros(6, 1),
        REGISTRY_KEYS.LABELS_KEY: torch.zeros(6, 1),
    }
    _, outputs = module(tensors, compute_loss=False)
    return outputs


@contextmanager
def counted(patch: pytest.MonkeyPatch, *classes: type) -> Iterator[list[str]]:
    """Names of the likelihoods whose distribution was made inside the block."""
    made: list[str] = []
    with patch.context() as patched:
        for cls in classes:
            make = cls.distribution.fget

            def count(self: Any, make: Any = make) -> Any:
                made.append(type(self).__name__)
                return make(self)

            patched.setattr(cls, "distribution", property(count))
        yield made


@pytest.mark.parametrize("kind", list(LIKELIHOODS))
def test_px_is_the_distribution_of_scvi_and_made_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = LIKELIHOODS[kind]
    with counted(monkeypatch, ours) as made:
        output = generated(kind)
        assert MODULE_KEYS.PX_KEY in output
        assert made == []
        px = output[MODULE_KEYS.PX_KEY]
        assert output[MODULE_KEYS.PX_KEY] is px
        assert made == [ours.__name__]
    assert type(px) is theirs
    x = torch.poisson(torch.full((6, 5), 2.0))
    torch.testing.assert_close(px.log_prob(x).sum(-1), output["likelihood"].log_prob(x), rtol=1e-4, atol=1e-4)


def test_it_is_a_dictionary_otherwise() -> None:
    output = generated("nb")
    assert isinstance(output, Generated)
    assert "likelihood" in output
    for key in ("pz", "pl", "other"):
        assert key not in output
        assert output.get(key) is None
        with pytest.raises(KeyError, match=key):
            output[key]
    output["other"] = 1
    assert output["other"] == 1
    assert "other" in output


@MODELS
def test_training_makes_no_distribution(model_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = small_adata()
    model_class.setup_anndata(adata, **SETUP)
    model = model_class(adata, n_hidden=8, n_latent=2)
    with counted(monkeypatch, *(ours for ours, _ in LIKELIHOODS.values())) as made:
        model.train(max_epochs=1, batch_size=32, check_val_every_n_epoch=1, **QUIET)
        assert len(model.history["validation_loss"]) == 1
        assert made == []
        model.get_normalized_expression()
        assert made


@pytest.fixture(scope="module", params=["zinb", "nb", "poisson"])
def fitted(request: pytest.FixtureRequest) -> VAE:
    adata = small_adata()
    VAE.setup_anndata(adata, **SETUP)
    model = VAE(adata, n_hidden=8, n_latent=2, gene_likelihood=request.param)
    model.train(max_epochs=1, batch_size=32, **QUIET)
    return model


def tensors_of(model: VAE) -> dict[str, torch.Tensor]:
    return {key: torch.as_tensor(values) for key, values in model.adata_manager.create_torch_dataset()[:].items()}


def test_methods_of_scvi_read_it(fitted: VAE) -> None:
    shape = (144, 40)
    parameters = fitted.get_likelihood_parameters()
    further = {"zinb": {"dropout", "dispersions"}, "nb": {"dispersions"}, "poisson": set()}
    assert set(parameters) == {"mean"} | further[fitted.module.gene_likelihood]
    for name, values in parameters.items():
        assert values.shape == shape, name
        assert np.isfinite(values).all()
    # what posterior_predictive_sample asks of the module
    drawn = fitted.module.sample(tensors_of(fitted), n_samples=2)
    assert drawn.shape == (*shape, 2)
    assert (drawn == drawn.floor()).all()
    assert fitted.get_normalized_expression(library_size=1e4, n_samples=2).shape == shape
    assert np.isfinite(float(fitted.get_reconstruction_error()["reconstruction_loss"]))
    assert np.isfinite(float(fitted.get_elbo()))
    assert np.isfinite(float(fitted.get_marginal_ll(n_mc_samples=4)))


def test_what_scvi_computes_from_it_is_what_the_likelihood_says(fitted: VAE) -> None:
    tensors, module = tensors_of(fitted), fitted.module.eval()
    with torch.inference_mode():
        torch.manual_seed(0)
        _, output = module(tensors, compute_loss=False)
        ours = module._log_prob(output["likelihood"], tensors)
        theirs = output[MODULE_KEYS.PX_KEY].log_prob(tensors[REGISTRY_KEYS.X_KEY]).sum(-1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
