"""SCGEN: the response of unseen combinations of cell type and condition, by a shift in latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._errors import DeltaviError
from deltavi._random import isolated_randomness, model_seed
from deltavi._reading import reads
from deltavi.model._decoding import CellDecoder, Predicted, predict_cells, stack
from deltavi.model._totals import TotalCountsMixin
from deltavi.model._training import EPOCHS_RANGE
from deltavi.model._vae import VAE
from deltavi.module.readers import READERS
from deltavi.perturbation.batches import batch_moves
from deltavi.perturbation.noise import cell_generators
from deltavi.registry.columns import category_names, column
from deltavi.registry.writable import writable_columns

# What the comparison on held-out cell types chose for counts.
COUNT_DEFAULTS: dict[str, Any] = {"n_hidden": 256, "n_latent": 100, "n_layers": 1, "dropout_rate": 0.1}
COUNT_KL_WEIGHT = 0.3
# Lotfollahi, Wolf and Theis (2019): what gene_likelihood="normal" stands for.
PAPER_DEFAULTS: dict[str, Any] = {
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


class SCGEN(TotalCountsMixin, VAE):
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

    default_batch_size: ClassVar[int] = 256
    most_epochs: ClassVar[int] = EPOCHS_RANGE[1]
    default_plan: ClassVar[dict[str, Any]] = {
        "lr": 2e-3,
        "eps": 1e-8,
        "lr_schedule": "one_cycle",
        "max_kl_weight": COUNT_KL_WEIGHT,
    }

    @reads(READERS)
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
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
            kwargs = {**self._activation(adata), **kwargs}
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
            hint = NAMES_OF_SCGEN.get(name)
            known = "." if hint is None else f": {hint}"
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{known}")

    def _plan_defaults(self) -> dict[str, Any]:
        plan = dict(self.default_plan)
        if self.module.gene_likelihood == "normal":
            plan |= {"max_kl_weight": PAPER_KL_WEIGHT, "lr_schedule": "constant", "lr": 1e-3}
        return plan

    @torch.inference_mode()
    def batch_removal(self, adata: AnnData | None = None, *, batch_size: int = 512, seed: int = 0) -> AnnData:
        """Move every batch of a label onto the label's largest batch.

        Parameters
        ----------
        adata
            Cells to correct; by default those of the model. Needs the registered label and batch columns.
        batch_size
            Cells decoded at a time.
        seed
            Seed of quantiles within counts.

        Returns
        -------
        New AnnData with the same cells, order, names and metadata. X: corrected log1p CP10k (a Gaussian model: the
        scale of its input); obsm ``"X_deltavi"``: corrected latent positions; uns ``"deltavi"``: the reference batch
        of each label, and the labels seen in one batch only, which are left as they are.
        """
        self._require_trained("batch_removal")
        labels_key, batch_key = (self._setup_argument(name) for name in ("labels_key", "batch_key"))
        if labels_key is None or batch_key is None:
            raise DeltaviError("batch_removal needs labels_key and batch_key in setup_anndata.")
        source = self._validate_anndata() if adata is None else adata
        aligned = self._validate_anndata(adata)
        before = self._positions(aligned, np.arange(aligned.n_obs))
        batches = category_names(column(source, batch_key), self._categories(REGISTRY_KEYS.BATCH_KEY))
        moves = batch_moves(before, labels=self._groups(source), batches=batches)
        after = (before + moves.vectors).astype(np.float32)
        with isolated_randomness(seed):
            predicted = self._decode_moved(aligned, before, after, moves.reference, batch_size, seed)
        result = AnnData(
            X=predicted.profile, obs=writable_columns(source.obs), var=pd.DataFrame(index=self.gene_names.astype(str))
        )
        result.obsm.update(
            {key: np.asarray(value) for key, value in source.obsm.items() if not key.startswith("_scvi")}
        )
        result.obsm[_keys.OBSM_LATENT_AFTER] = after
        result.uns[_keys.UNS_PREDICTION] = {
            "reference_batch": pd.DataFrame(
                {"label": list(moves.references), "batch": [str(b) for b in moves.references.values()]}
            ),
            "unmoved_labels": np.asarray(moves.single_batch, dtype=str),
            "seed": seed,
        }
        return result

    def _decode_moved(
        self,
        adata: AnnData,
        before: np.ndarray,
        after: np.ndarray,
        reference: np.ndarray,
        batch_size: int,
        seed: int,
    ) -> Predicted:
        """Profiles of cells moved to `after` and decoded as if from their reference batch."""
        known = pd.Index([str(b) for b in self._categories(REGISTRY_KEYS.BATCH_KEY)])
        codes = known.get_indexer(pd.Index(reference))
        totals, parts, start = self._totals(adata), [], 0
        for tensors in self._make_data_loader(adata=adata, batch_size=batch_size):
            rows = slice(start, start + tensors[REGISTRY_KEYS.X_KEY].shape[0])
            decode = CellDecoder(self.module, tensors)
            batch = torch.from_numpy(codes[rows].reshape(-1, 1).astype(np.int64))
            parts.append(
                predict_cells(
                    decode.observed,
                    decode(before[rows]),
                    decode(after[rows], batch=batch),
                    totals=totals[rows],
                    output="cells",
                    generators=cell_generators(adata.obs_names[rows], seed=seed),
                )
            )
            start = rows.stop
        return stack(parts, len(self.gene_names))
