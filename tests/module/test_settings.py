"""Every setting of the module changes what it says it changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scvi.module
import torch

from deltavi.errors import DeltaviError
from deltavi.latent import Architecture
from deltavi.module import VAE
from deltavi.module.decoder import Decoder

SIZES: dict[str, Any] = {"n_hidden": 9, "n_latent": 3, "dropout_rate": 0.3}


def count(module: torch.nn.Module, kind: type) -> int:
    return sum(isinstance(part, kind) for part in module.modules())


@pytest.mark.parametrize("where", ["none", "encoder", "decoder", "both"])
@pytest.mark.parametrize(("argument", "kind"), [("use_batch_norm", "BatchNorm1d"), ("use_layer_norm", "LayerNorm")])
def test_normalisation_is_where_it_was_asked_for(argument: str, kind: str, where: str) -> None:
    module = VAE(6, **SIZES, **{argument: where})
    norm = getattr(torch.nn, kind)
    assert count(module.z_encoder, norm) == (where in ("encoder", "both"))
    assert count(module.decoder, norm) == (where in ("decoder", "both"))


def test_depths_and_dropouts_of_the_two_networks_are_their_own() -> None:
    module = VAE(6, **SIZES, n_layers=2, n_layers_decoder=3, dropout_rate_decoder=0.2)
    assert len(module.z_encoder.encoder.fc_layers) == 2
    assert len(module.decoder.px_decoder.fc_layers) == 3
    rates = [
        [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)] for net in (module.z_encoder, module.decoder)
    ]
    assert rates == [[0.3] * 2, [0.2] * 3]
    assert count(VAE(6, **SIZES).decoder, torch.nn.Dropout) == 0
    linear = VAE(6, **SIZES, n_layers=2, n_layers_decoder=0)
    assert linear.decoder.px_decoder is None
    assert linear.z_encoder.encoder is not None


def test_bias_and_activation() -> None:
    without = VAE(6, **SIZES, bias=False, use_batch_norm="none", activation="leaky_relu")
    assert not [name for name, _ in without.named_parameters() if name.endswith("bias")]
    assert count(without, torch.nn.LeakyReLU) == 2
    assert count(without, torch.nn.ReLU) == 0


@pytest.mark.parametrize("deep", [True, False])
def test_covariates_of_deeper_layers_are_those_of_scvi(deep: bool) -> None:
    shared = {"n_batch": 3, "n_layers": 2, "encode_covariates": True, "deeply_inject_covariates": deep, **SIZES}
    ours, theirs = VAE(6, gene_likelihood="nb", **shared), scvi.module.VAE(6, gene_likelihood="nb", **shared)
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert value.shape == expected[name].shape, name


@pytest.mark.parametrize("activation", ["softmax", "softmax_rest", "exp"])
@pytest.mark.parametrize("n_layers", [0, 1])
def test_a_decoder_starts_at_the_given_shares(activation: str, n_layers: int) -> None:
    torch.manual_seed(0)
    decoder = Decoder(
        3,
        4,
        architecture=Architecture(n_layers=n_layers, n_hidden=8, dropout_rate=0.0),
        covariates=(1,),
        activation=activation,
        with_dropout=False,
        with_dispersion=False,
    ).eval()
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1]) * (1.0 if activation == "softmax" else 0.5)
    decoder.start_at(shares)
    head = decoder.px_scale_decoder[0]
    layer = head if n_layers else head.fc_layers[0][0]
    torch.nn.init.zeros_(layer.weight)
    scale = decoder(torch.randn(5, 3), torch.ones(5, 1)).scale
    torch.testing.assert_close(scale, shares.expand(5, 4), rtol=1e-5, atol=1e-6)


def test_softmax_rest_leaves_room_for_genes_outside_the_model() -> None:
    module = VAE(6, **SIZES, library="size_factor", scale_activation="softmax_rest").eval()
    scale = module.decode(torch.randn(50, 3), torch.zeros(50, 1), torch.zeros(50, 1)).scale
    assert (scale > 0).all()
    assert (scale.sum(-1) < 1).all()


def test_an_exponential_decoder_does_not_overflow_far_out() -> None:
    module = VAE(6, **SIZES, n_layers=0, scale_activation="exp", gene_likelihood="poisson").eval()
    rate = module.decode(1e4 * torch.randn(20, 3), torch.zeros(20, 1), torch.zeros(20, 1)).mean
    assert torch.isfinite(rate).all()


def test_transform_batch_decodes_as_if_from_that_batch() -> None:
    torch.manual_seed(0)
    module = VAE(6, n_batch=2, **SIZES, gene_likelihood="nb", dispersion="gene-batch").eval()
    z, library, batch = torch.randn(4, 3), torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.long)
    moved = module.generative(z, library, batch, transform_batch=1)["likelihood"]
    there = module.generative(z, library, torch.ones_like(batch))["likelihood"]
    torch.testing.assert_close(moved.rate, there.rate)
    torch.testing.assert_close(moved.dispersion.gathered(), there.dispersion.gathered())
    here = module.generative(z, library, batch)["likelihood"]
    assert not torch.allclose(moved.rate, here.rate)


def test_encoding_counts_or_their_logarithm() -> None:
    torch.manual_seed(0)
    module = VAE(6, **SIZES).eval()
    x = torch.poisson(torch.full((5, 6), 3.0))
    logs = module.inference(x, torch.zeros(5, 1))["qz"].loc
    module.log_variational = False
    torch.testing.assert_close(module.inference(x.log1p(), torch.zeros(5, 1))["qz"].loc, logs)


def test_decoding_anywhere_knows_the_condition_and_no_batch() -> None:
    torch.manual_seed(0)
    module = VAE(6, n_batch=3, n_conditions=2, condition_in_decoder=True, n_layers=0, **{**SIZES, "dropout_rate": 0.0})
    module.eval()
    z = torch.randn(4, 3)
    first, second = (module.decode_anywhere(z, condition=code) for code in (0, 1))
    assert not torch.allclose(first, second)
    library, average = torch.full((4, 1), np.log(1e4)), torch.full((4, 1), -1)
    expected = module.decode(z, library, average, torch.zeros(4, 1, dtype=torch.long)).mean.log1p()
    torch.testing.assert_close(first, expected)


@pytest.mark.parametrize("given", [np.array(2), 2, "2", {"a": 2}])
def test_sizes_of_covariates_are_a_list(given: Any) -> None:
    with pytest.raises(DeltaviError, match="n_cats_per_cov must be a list of whole numbers"):
        VAE(5, n_cats_per_cov=given)
