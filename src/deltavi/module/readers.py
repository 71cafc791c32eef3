"""Settings of modules and models by their names, each read as one kind of entry."""

from __future__ import annotations

from collections.abc import Mapping

from deltavi._entries import flag, seed_number, share, shown, whole_number
from deltavi._errors import DeltaviError
from deltavi._reading import Reader, one_of, optional, real, setting, whole
from deltavi.module.settings import ALLOWED

# Units, dimensions and layers beyond which a model fits into no memory.
MOST_UNITS = 1_000_000
MOST_LAYERS = 1_000


units = whole(1, MOST_UNITS)


def widths(name: str, value: object) -> tuple[int, ...]:
    """`value` as the widths of layers: a number for one, or a list of them."""
    if isinstance(value, list | tuple):
        return tuple(units(name, width) for width in value)
    return (units(name, value),)


def several_sizes(name: str, value: object) -> tuple[int, ...]:
    """`value` as a list of numbers of categories."""
    # an array without an axis has the method, and cannot be iterated over
    if isinstance(value, str | bytes | dict) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) == 0:
        raise DeltaviError(f"{name} must be a list of whole numbers, not {shown(value)}.")
    return tuple(whole_number(name, size, least=1) for size in value)


READERS: dict[str, Reader] = {
    "seed": optional(seed_number),
    "n_cats_per_cov": several_sizes,
    "library": optional(setting(*ALLOWED["library"])),
    "scale_activation": optional(setting(*ALLOWED["scale_activation"])),
    "n_layers_decoder": optional(whole(0, MOST_LAYERS)),
    "class_weight": optional(setting("balanced")),
    "noise": setting("isotropic", "diagonal"),
    "encoder_input": one_of("log1p", "log1p_cp10k"),
    "drop_labels_after": optional(share),
    **dict.fromkeys(("n_input", "n_hidden", "n_latent", "n_networks", "n_pseudo_inputs"), units),
    **dict.fromkeys(("n_labels", "n_w", "n_continuous_cov"), whole(0, MOST_UNITS)),
    "n_components": whole(1, MOST_UNITS),
    **dict.fromkeys(("n_layers", "classifier_layers"), whole(0, MOST_LAYERS)),
    **dict.fromkeys(("n_batch", "n_conditions"), whole(1)),
    **dict.fromkeys(("dropout_rate", "dropout_rate_decoder", "class_balance"), share),
    **dict.fromkeys(("alpha", "noise_variance", "size_factor_unit"), real(above=0)),
    **dict.fromkeys(
        ("classification_weight", "condition_mmd", "free_bits_w", "free_bits_y", "weight_l2"), real(least=0)
    ),
    "logit_adjustment": real(),
    **{
        name: setting(*ALLOWED[name])
        for name in (
            *("gene_likelihood", "dispersion", "use_batch_norm", "use_layer_norm", "activation", "posterior"),
            "prior",
        )
    },
    **dict.fromkeys(
        (
            *("bias", "check_input", "condition_in_decoder", "conditional", "deeply_inject_covariates"),
            *("encode_covariates", "filter_genes", "log_variational", "scale"),
        ),
        flag,
    ),
}
READERS_OF_ACTINN: dict[str, Reader] = {**READERS, "n_hidden": widths, "n_labels": whole(1)}


def with_defaults(readers: Mapping[str, Reader], *names: str) -> dict[str, Reader]:
    """`readers` that also accept ``None`` for the settings `names`, whose values follow from the data."""
    return {name: optional(read) if name in names else read for name, read in readers.items()}
