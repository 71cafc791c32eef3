"""Names of settings and weights in ``scvi.model.SCVI``, and those without a counterpart there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scvi.nn import FCLayers
from torch import nn

from deltavi._errors import DeltaviError, ModelFileError
from deltavi._types import State
from deltavi.latent import StandardNormal
from deltavi.module import VAE
from deltavi.module.settings import ALLOWED, COUNT_LIKELIHOODS, WITHOUT_DISPERSION

# Arguments of SCVI and of its module, with the defaults that a file does not repeat.
SCVI_DEFAULTS: State = {
    "n_hidden": 128,
    "n_latent": 10,
    "n_layers": 1,
    "dropout_rate": 0.1,
    "dispersion": "gene",
    "gene_likelihood": "zinb",
    "log_variational": True,
    "encode_covariates": False,
    "deeply_inject_covariates": True,
    "use_batch_norm": "both",
    "use_layer_norm": "none",
    "use_observed_lib_size": True,
    "latent_distribution": "normal",
    "batch_representation": "one-hot",
    "batch_embedding_kwargs": None,
    "var_activation": None,
    "extra_encoder_kwargs": None,
    "extra_decoder_kwargs": None,
    "extra_payload_autotune": False,
}
# Those that are called the same here, and mean the same.
SHARED_NUMBERS = ("n_hidden", "n_latent", "n_layers", "dropout_rate")
SHARED_SWITCHES = ("log_variational", "encode_covariates", "deeply_inject_covariates")
SHARED_CHOICES = ("dispersion", "gene_likelihood", "use_batch_norm", "use_layer_norm")
# Those that an imported model can have at one value only.
ONLY: State = {
    "latent_distribution": "normal",
    "batch_representation": "one-hot",
    "batch_embedding_kwargs": None,
    "var_activation": None,
}
SCVI_CHOICES = {"dispersion": ("gene", "gene-batch", "gene-label", "gene-cell")}
SCVI_LIKELIHOODS = (*COUNT_LIKELIHOODS, "normal")
ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}
ACTIVATION_NAMES = {f"torch.nn.modules.activation.{made.__name__}": name for name, made in ACTIVATIONS.items()}
RELU = next(iter(ACTIVATION_NAMES))
# Standard deviations from zero up to which a mean leaves single precision enough digits for what varies.
FARTHEST_MEAN = 1e4
# How our names of weights differ from those of scvi.module.VAE.
OUR_PRIOR, THEIR_PRIOR = "library_prior.log_", "library_log_"


def settings_from_scvi(given: State, size_factor_key: str | None) -> State:
    """Our arguments for those of a saved SCVI.

    Parameters
    ----------
    given
        Arguments as the file has them.
    size_factor_key
        Registered size factor, which SCVI takes for the library where there is one.

    Raises
    ------
    ModelFileError
        If an argument is unknown, or has a value that no model here can have.
    """
    unknown = sorted(set(map(str, given)) - SCVI_DEFAULTS.keys() - {"use_size_factor_key"})
    if unknown:
        raise ModelFileError(f"The setting {unknown[0]!r} of the file is unknown here: it cannot be imported.")
    settings = {**SCVI_DEFAULTS, **given}
    for name, value in ONLY.items():
        if settings[name] not in (value, None):
            raise _no_counterpart(name, settings[name])
    for name in SHARED_NUMBERS:
        kinds: Any = int | float if name == "dropout_rate" else int
        if not isinstance(settings[name], kinds) or isinstance(settings[name], bool) or settings[name] < 0:
            raise _no_counterpart(name, settings[name])
    if settings["n_layers"] < 1:
        raise _no_counterpart("n_layers", settings["n_layers"])
    for name in (*SHARED_SWITCHES, "use_observed_lib_size"):
        if not isinstance(settings[name], bool):
            raise _no_counterpart(name, settings[name])
    for name in SHARED_CHOICES:
        allowed = SCVI_LIKELIHOODS if name == "gene_likelihood" else SCVI_CHOICES.get(name, ALLOWED.get(name, ()))
        if settings[name] not in allowed:
            raise _no_counterpart(name, settings[name])
    library = "observed" if settings["use_observed_lib_size"] else "learned"
    return {
        **{name: settings[name] for name in (*SHARED_NUMBERS, *SHARED_SWITCHES, *SHARED_CHOICES)},
        "library": library if size_factor_key is None else "size_factor",
        "scale_activation": _scale_activation(size_factor_key is not None),
        "activation": _activation(settings),
    }


def _scale_activation(has_size_factor: bool) -> str:
    """Activation of the last layer of SCVI's decoder, which cannot be chosen there."""
    return "softplus" if has_size_factor else "softmax"


def _activation(settings: State) -> str:
    """Activation of hidden layers, the same in both networks."""
    found = set()
    for name in ("extra_encoder_kwargs", "extra_decoder_kwargs"):
        further = settings[name] or {}
        if not isinstance(further, dict) or further.keys() - {"activation_fn"}:
            raise _no_counterpart(name, further)
        found.add(ACTIVATION_NAMES.get(str(further.get("activation_fn", next(iter(ACTIVATION_NAMES))))))
    if None in found or len(found) > 1:
        raise _no_counterpart(
            "activation_fn", [settings[name] for name in ("extra_encoder_kwargs", "extra_decoder_kwargs")]
        )
    return str(found.pop())


def _no_counterpart(name: str, value: Any) -> ModelFileError:
    return ModelFileError(f"The file has {name}={value!r}, which no model here can have: it cannot be imported.")


def settings_for_scvi(module: VAE) -> State:
    """Arguments of SCVI that build the same model as `module`.

    Raises
    ------
    DeltaviError
        If `module` has a setting that SCVI does not, with its name and what SCVI has.
    """
    encoder: State = module._new_encoder.keywords["architecture"].__dict__
    _require_counterparts(module, encoder)
    stacks = {"encoder": module.z_encoder.encoder, "decoder": module.decoder.px_decoder}
    networks = {name: layers for name, layers in stacks.items() if layers is not None}
    activation = ACTIVATIONS[encoder["activation"]]
    further = {} if activation is nn.ReLU else {"activation_fn": activation}
    return {
        "n_hidden": encoder["n_hidden"],
        "n_latent": module.n_latent,
        "n_layers": encoder["n_layers"],
        "dropout_rate": encoder["dropout_rate"],
        "dispersion": module.dispersion,
        "gene_likelihood": module.gene_likelihood,
        "use_observed_lib_size": module.library != "learned",
        "log_variational": module.log_variational,
        "encode_covariates": module.encode_covariates,
        "deeply_inject_covariates": encoder["inject_covariates"],
        "use_batch_norm": _where(networks, nn.BatchNorm1d),
        "use_layer_norm": _where(networks, nn.LayerNorm),
        **({"extra_encoder_kwargs": further, "extra_decoder_kwargs": dict(further)} if further else {}),
    }


def _require_counterparts(module: VAE, encoder: State) -> None:
    """Raise where `module` is something that SCVI cannot be."""
    if encoder["n_layers"] < 1:
        raise _not_in_scvi("n_layers", encoder["n_layers"], "1 or more")
    decoder = module.decoder.px_decoder
    for name, value, possible in (
        ("gene_likelihood", module.gene_likelihood, SCVI_LIKELIHOODS),
        ("library", module.library, ("observed", "size_factor", "learned")),
        ("dispersion", module.dispersion, SCVI_CHOICES["dispersion"]),
        ("posterior", "deterministic" if module.z_encoder.deterministic else "gaussian", ("gaussian",)),
        ("prior", "normal" if isinstance(module.prior, StandardNormal) else type(module.prior).__name__, ("normal",)),
        ("condition_in_decoder", module.condition_in_decoder, (False,)),
        ("n_layers_decoder", 0 if decoder is None else len(decoder.fc_layers), (encoder["n_layers"],)),
        ("scale_activation", module.scale_activation, (_scale_activation(module.library == "size_factor"),)),
    ):
        if value not in possible:
            raise _not_in_scvi(name, value, ", ".join(map(repr, possible)))


def _not_in_scvi(name: str, value: Any, possible: str) -> DeltaviError:
    return DeltaviError(
        f"The model has {name}={value!r}, and scvi-tools' SCVI can only have {possible}: it cannot be exported. "
        f"{ADVICE.get(name, '')}".rstrip()
    )


ADVICE = {
    "condition_in_decoder": "SCVI knows no condition; one trained as a categorical covariate can be exported.",
    "scale_activation": "Train with it, or without a size factor, to export.",
}


def _where(networks: dict[str, FCLayers], kind: type[nn.Module]) -> str:
    """In which networks there are layers of `kind`, in scvi-tools' words."""
    found = [name for name, layers in networks.items() if any(isinstance(part, kind) for part in layers.modules())]
    return "both" if len(found) == len(networks) else (found or ["none"])[0]


def weights_for_scvi(module: VAE, theirs: nn.Module) -> dict[str, torch.Tensor]:
    """State of `theirs` with the weights of `module`.

    Heads that nothing uses stay as they are, and a bias that `module` has none of is zero.
    """
    ours = {name.replace(OUR_PRIOR, THEIR_PRIOR): value.detach().cpu() for name, value in module.state_dict().items()}
    state = dict(theirs.state_dict())
    for name, value in state.items():
        if name in ours:
            state[name] = ours.pop(name)
        elif not module.bias and name.endswith(".bias") and name.replace(".bias", ".weight") in state:
            state[name] = torch.zeros_like(value)
    if ours:
        raise DeltaviError(
            f"SCVI of this scvi-tools has no place for {sorted(ours)[0]!r}: the model cannot be exported."
        )
    return state


def require_near(moments: State | None, keys: list[str] | None) -> None:
    """Raise where single precision cannot tell the values of a covariate apart, which SCVI reads as they are."""
    if moments is None or keys is None:
        return
    means, scales = np.asarray(moments["means"]), np.asarray(moments["scales"])
    for place in np.flatnonzero(np.abs(means) > FARTHEST_MEAN * np.where(scales > 0, scales, np.inf)):
        raise DeltaviError(
            f"obs[{keys[place]!r}] has mean {means[place]:g} and standard deviation {scales[place]:g}. SCVI does not "
            "scale covariates, and reads them in single precision, in which such values are all alike: the model "
            "cannot be exported. Train with the column less its mean to export."
        )


def with_moments(weights: dict[str, torch.Tensor], module: VAE, moments: State | None) -> Any:
    """`weights` of an SCVI that standardises covariates with these moments in the first layer that reads them."""
    if moments is None:
        return weights
    means, scales = (torch.from_numpy(np.array(moments[name], dtype=np.float64)) for name in ("means", "scales"))
    inverse = torch.where(scales > 0, 1 / scales, 0.0)
    first = {"decoder.px_decoder": module.n_latent}
    if module.encode_covariates:
        first |= {"z_encoder.encoder": module.n_input, "l_encoder.encoder": module.n_input}
    for network, start in first.items():
        weight, bias = (weights.get(f"{network}.fc_layers.Layer 0.0.{kind}") for kind in ("weight", "bias"))
        if weight is None or bias is None:
            continue
        columns = slice(start, start + len(means))
        scaled = weight.to(torch.float64, copy=True)
        scaled[:, columns] *= inverse
        weights[f"{network}.fc_layers.Layer 0.0.weight"] = scaled.to(weight.dtype)
        weights[f"{network}.fc_layers.Layer 0.0.bias"] = (bias.double() - scaled[:, columns] @ means).to(bias.dtype)
    return weights


def weights_from_scvi(weights: dict[str, torch.Tensor], settings: State) -> dict[str, torch.Tensor]:
    """Weights under our names, without those of heads that a model of these settings does not use."""
    likelihood, dispersion = settings["gene_likelihood"], settings["dispersion"]
    unused = []
    if settings["library"] != "learned":
        unused += ["l_encoder.", THEIR_PRIOR]
    if dispersion != "gene-cell" or likelihood in WITHOUT_DISPERSION:
        unused.append("decoder.px_r_decoder.")
    if likelihood != "zinb":
        unused.append("decoder.px_dropout_decoder.")
    if likelihood in WITHOUT_DISPERSION:
        unused.append("px_r")
    return {
        name.replace(THEIR_PRIOR, OUR_PRIOR): value
        for name, value in weights.items()
        if not name.startswith(tuple(unused))
    }
