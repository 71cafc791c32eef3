"""What the settings of a module may be; a typo must not build another model than was meant."""

from __future__ import annotations

from deltavi._entries import share
from deltavi._errors import DeltaviError, unknown_category
from deltavi.latent import LibraryKind
from deltavi.module._decoder import GeneLikelihood, ScaleActivation

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
}
# Likelihoods of raw counts; the others have no library size.
COUNT_LIKELIHOODS = ("zinb", "nb", "poisson")
# Likelihoods whose variance follows from the mean.
WITHOUT_DISPERSION = ("poisson", "bernoulli")
LOG_ODDS = (None, "linear")
# Only a Gaussian has a spread that may be one number for all genes, or given.
GAUSSIAN_DISPERSIONS = ("shared", "fixed")


def check_settings(**settings: str | None) -> None:
    """Raise where a setting is none of the allowed, or two do not go together."""
    for name, value in settings.items():
        if value is not None and value not in ALLOWED[name]:
            raise unknown_category(name, value, ALLOWED[name], among="the settings")
    likelihood, dispersion = settings["gene_likelihood"], settings["dispersion"]
    if dispersion in GAUSSIAN_DISPERSIONS and likelihood != "normal":
        raise DeltaviError(f"dispersion={dispersion!r} is for gene_likelihood='normal', not for {likelihood!r}.")
    if settings["library"] == "none" and likelihood in COUNT_LIKELIHOODS:
        raise DeltaviError("library='none' is for gene_likelihood='normal'; counts have a library size.")
    if likelihood == "bernoulli" and (settings["library"] != "none" or settings["scale_activation"] not in LOG_ODDS):
        raise DeltaviError("gene_likelihood='bernoulli' decodes log odds: no library size, and a linear activation.")


def check_sizes(**sizes: int) -> None:
    """Raise where a width or number of dimensions is not a positive whole number."""
    for name, value in sizes.items():
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise DeltaviError(f"{name} must be a whole number of at least 1, not {value!r}.")


def check_shares(**shares: float) -> None:
    """Raise where a share, such as that of the units that dropout leaves out, does not lie from 0 to 1."""
    for name, value in shares.items():
        share(name, value)


def default_activation(gene_likelihood: GeneLikelihood, library: LibraryKind) -> ScaleActivation:
    """Softmax shares of a library; a free positive rate per unit of a given size factor; else linear."""
    if gene_likelihood not in COUNT_LIKELIHOODS and library == "none":
        return "linear"
    return "softplus" if library == "size_factor" else "softmax"
