"""Allowed settings of a module; a typo must not build another model than intended."""

from __future__ import annotations

from typing import Literal

from deltavi._errors import DeltaviError
from deltavi.latent import PRIORS, LibraryKind
from deltavi.module.decoder import GeneLikelihood, ScaleActivation

Where = Literal["none", "encoder", "decoder", "both"]
WHERE = ("none", "encoder", "decoder", "both")
ALLOWED: dict[str, tuple[str, ...]] = {
    "gene_likelihood": ("zinb", "nb", "poisson", "normal", "bernoulli"),
    "dispersion": ("gene", "gene-batch", "gene-label", "gene-cell", "shared", "fixed"),
    "library": ("observed", "size_factor", "learned", "none"),
    "scale_activation": ("softmax", "softmax_rest", "softplus", "exp", "linear"),
    "use_batch_norm": WHERE,
    "use_layer_norm": WHERE,
    "activation": ("relu", "leaky_relu"),
    "posterior": ("gaussian", "deterministic"),
    "prior": tuple(PRIORS),
}
# Likelihoods of raw counts; the others have no library size.
COUNT_LIKELIHOODS = ("zinb", "nb", "poisson")
# Likelihoods whose variance follows from the mean.
WITHOUT_DISPERSION = ("poisson", "bernoulli")
LOG_ODDS = (None, "linear")
# Only a Gaussian has a spread that may be one number for all genes, or given.
GAUSSIAN_DISPERSIONS = ("shared", "fixed")


def check_settings(**settings: str | None) -> None:
    """Raise where two settings do not go together."""
    likelihood, dispersion = settings["gene_likelihood"], settings["dispersion"]
    if settings["prior"] != "normal" and settings["posterior"] == "deterministic":
        raise DeltaviError(f"prior={settings['prior']!r} is for posterior='gaussian'; a point estimate has no prior.")
    if dispersion in GAUSSIAN_DISPERSIONS and likelihood != "normal":
        raise DeltaviError(f"dispersion={dispersion!r} is for gene_likelihood='normal', not for {likelihood!r}.")
    if settings["library"] == "none" and likelihood in COUNT_LIKELIHOODS:
        raise DeltaviError("library='none' is for gene_likelihood='normal'; counts have a library size.")
    if likelihood == "bernoulli" and (settings["library"] != "none" or settings["scale_activation"] not in LOG_ODDS):
        raise DeltaviError("gene_likelihood='bernoulli' decodes log odds: no library size, and a linear activation.")


def default_activation(gene_likelihood: GeneLikelihood, library: LibraryKind) -> ScaleActivation:
    """Softmax shares of a library; a free positive rate per unit of a given size factor; else linear."""
    if gene_likelihood not in COUNT_LIKELIHOODS and library == "none":
        return "linear"
    return "softplus" if library == "size_factor" else "softmax"
