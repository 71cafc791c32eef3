"""SCGEN: the response of unseen combinations of cell type and condition, by a shift in latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from anndata import AnnData

from deltavi._errors import DeltaviError
from deltavi._random import model_seed
from deltavi._reading import reads
from deltavi._types import State
from deltavi.dataloaders.registry import require_made
from deltavi.model._batch_removal import batch_removal
from deltavi.model._totals import activation_of_totals
from deltavi.model._vae import VAE
from deltavi.model.recipe import EPOCHS_RANGE, AnyRecipe, Recipe
from deltavi.module.readers import READERS

# What the comparison on held-out cell types chose for counts.
COUNT_DEFAULTS: State = {"n_hidden": 256, "n_latent": 100, "n_layers": 1, "dropout_rate": 0.1}
COUNT_KL_WEIGHT = 0.3
# Lotfollahi, Wolf and Theis (2019): what gene_likelihood="normal" stands for.
PAPER_DEFAULTS: State = {
    "n_hidden": 800,
    "n_latent": 100,
    "n_layers": 2,
    "dropout_rate": 0.2,
    "dropout_rate_decoder": 0.2,
    "activation": "leaky_relu",
    "dispersion": "fixed",
    "noise_variance": 1.0,
}
# The loss of the paper is 0.5 SSE + 0.5 * 5e-5 KL.
PAPER_KL_WEIGHT = 0.5 * 5e-5
# Names of the scgen package, and what to call here.
NAMES_OF_SCGEN = {
    "predict": "call predict_perturbation(control=..., perturbation=..., labels=...).",
    "reg_mean_plot": "call deltavi.pl.reg_mean.",
    "reg_var_plot": "call deltavi.pl.reg_var.",
}


def _plan(model: SCGEN) -> State:
    """Arguments of the training plan; those of the paper for a Gaussian likelihood."""
    plan = dict(model.default_plan)
    if model.module.gene_likelihood == "normal":
        plan |= {"max_kl_weight": PAPER_KL_WEIGHT, "lr_schedule": "constant", "lr": 1e-3}
    return plan


class SCGEN(VAE):
    """Latent shift prediction of perturbation responses, on counts.

    A VAE whose latent space lets a perturbation be a vector: control cells are encoded, moved by the shift seen in
    other cell types, and decoded (Lotfollahi, Wolf and Theis 2019). Here it decodes raw counts, weights the training
    types by their likeness to the query's, and gives predicted cells the residual of the cells they come from.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    registry
        Registry to build the model from without data, as :meth:`load` does.
    gene_likelihood
        ``"nb"``, ``"zinb"`` or ``"poisson"`` on raw counts; ``"normal"`` on log-normalised expression is the model of
        the paper: 800-800 hidden units, 100 latent dimensions, dropout 0.2, leaky ReLU, batch normalisation in both
        networks, loss 0.5 SSE + 0.5 * 5e-5 KL.
    check_input
        Refuse a matrix on another scale than the likelihood needs.
    seed
        Seed of the initial weights and of training; by default drawn from ``scvi.settings.seed``, or zero where that is
        not set.
    **kwargs
        Arguments of :class:`deltavi.model.VAE` and :class:`deltavi.module.VAE` in place of the defaults.

    Examples
    --------
    >>> deltavi.model.SCGEN.setup_anndata(  # doctest: +SKIP
    ...     adata, layer="counts", condition_key="condition", labels_key="cell_type", size_factor_key="total_counts"
    ... )
    >>> model = deltavi.model.SCGEN(adata)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> ask = {"control": "control", "perturbation": "stimulated"}
    >>> predicted = model.predict_perturbation(**ask, labels="B")  # doctest: +SKIP
    """

    recipe: ClassVar[AnyRecipe] = Recipe(plan=_plan)
    starts_at_mean_shares: ClassVar[bool] = True
    default_batch_size: ClassVar[int] = 256
    most_epochs: ClassVar[int] = EPOCHS_RANGE[1]
    default_plan: ClassVar[State] = {
        "lr": 2e-3,
        "eps": 1e-8,
        "lr_schedule": "one_cycle",
        "max_kl_weight": COUNT_KL_WEIGHT,
    }

    batch_removal = batch_removal

    @reads(READERS)
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: State | None = None,
        *,
        gene_likelihood: Literal["nb", "zinb", "poisson", "normal"] = "nb",
        check_input: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        seed = model_seed(seed)
        defaults = PAPER_DEFAULTS if gene_likelihood == "normal" else COUNT_DEFAULTS
        if adata is None and registry is None:
            raise DeltaviError("SCGEN needs an AnnData that SCGEN.setup_anndata has registered.")
        if adata is not None and gene_likelihood != "normal" and kwargs.get("library") in (None, "size_factor"):
            # among the arguments, so that a file remembers it
            kwargs = {**activation_of_totals(type(self), adata), **kwargs}
        super().__init__(
            adata,
            registry,
            gene_likelihood=gene_likelihood,
            check_input=check_input,
            seed=seed,
            **{**defaults, **kwargs},
        )
        self.init_params_ = self._get_init_params(locals())

    if not TYPE_CHECKING:  # to which any name would be one that the model has

        def __getattr__(self, name: str) -> NoReturn:
            require_made(self, name)
            hint = NAMES_OF_SCGEN.get(name)
            known = "." if hint is None else f": {hint}"
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{known}")
