"""PPCA and factor analysis: the linear members of the family, fitted in closed form."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Literal, NoReturn

import numpy as np
import pandas as pd
from anndata import AnnData
from lightning.pytorch import LightningDataModule
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._entries import Indices, positions, seed_number
from deltavi._errors import DeltaviError, examples
from deltavi._random import isolated_randomness, model_seed
from deltavi._reading import known_arguments, reads
from deltavi._types import State
from deltavi.io import PathLike
from deltavi.latent import common_factors, principal_factors
from deltavi.model._answers import LATENT, Answered, AskedCells, latent_arrays, only_array
from deltavi.model._asked_module import asked_of_module
from deltavi.model._asked_split import asked_split
from deltavi.model._checkpoint import check_checkpoint
from deltavi.model._dimensions import data_dimensions
from deltavi.model._faults import finish
from deltavi.model._linear_weights import factor_positions, read_weights, write_weights
from deltavi.model._responds import Responds
from deltavi.model._training import train
from deltavi.model._training_options import loading_options, plan_options, trainer_options
from deltavi.model._vae import named_arguments
from deltavi.module import VAE as VAEModule
from deltavi.module.readers import READERS
from deltavi.registry.checks import MatrixReport, Offer, require_log_normalised, row_blocks
from deltavi.registry.manager import DataManager
from deltavi.registry.names import names_checksum
from deltavi.registry.source import matrix_of
from deltavi.train import launch_of

DISPERSIONS: dict[str, Literal["shared", "gene"]] = {"isotropic": "shared", "diagonal": "gene"}
# Cells whose likelihood is the loss that training notes.
MOST_JUDGED = 20_000
# What other models register, and a linear Gaussian has no place for.
FOREIGN_KEYS = ("batch_key", "size_factor_key", "categorical_covariate_keys", "continuous_covariate_keys")
# What to do about a matrix on another scale, when fitting and of a query.
FIT_NEEDS = (
    "PPCA needs log1p CP10k: of raw counts deltavi.pp.log_normalise(adata) writes layers['log1p_cp10k'], and "
    "PPCA.setup_anndata(adata, layer='log1p_cp10k') reads it."
)
QUERY_NEEDS = (
    "PPCA needs log1p CP10k, as it was fitted to: of raw counts deltavi.pp.log_normalise(adata, key_added='logs') "
    "makes it, and {target} = adata.layers['logs'] puts it where the model reads."
)


class PPCA(Responds):
    """Probabilistic principal components, or factor analysis, of log-normalised expression.

    x = W z + mean + noise with z ~ N(0, I): the noise of all genes alike (PPCA; Tipping and Bishop 1999), or of each
    gene its own (factor analysis). Maximum likelihood in closed form or by a few rounds of it. It is a linear VAE with
    a Gaussian decoder whose weights need not be learned: its posterior is exact and its bound is tight, and it has
    the verbs of the other models, as a baseline for them.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`, log1p CP10k in its matrix.
    registry
        Registry to build the model from without data, as :meth:`load` does.
    n_latent
        Factors; fewer than genes, and than cells less one.
    noise
        ``"isotropic"`` (PPCA) or ``"diagonal"`` (factor analysis).
    check_input
        Refuse a matrix that is not log-normalised.
    seed
        Seed of the solver, where it draws; by default drawn from ``scvi.settings.seed``, or zero if that is not set.

    Examples
    --------
    >>> deltavi.model.PPCA.setup_anndata(adata, condition_key="condition", labels_key="cell_type")  # doctest: +SKIP
    >>> model = deltavi.model.PPCA(adata, n_latent=20)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> adata.obsm["X_ppca"] = model.get_latent_representation()  # doctest: +SKIP
    """

    module: VAEModule
    check_input: bool
    noise: Literal["isotropic", "diagonal"]

    @reads(READERS)
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: State | None = None,
        *,
        n_latent: int = 10,
        noise: Literal["isotropic", "diagonal"] = "isotropic",
        check_input: bool = True,
        seed: int | None = None,
    ) -> None:
        seed = model_seed(seed)
        if adata is None and registry is None:
            raise DeltaviError("PPCA needs an AnnData that PPCA.setup_anndata has registered.")
        super().__init__(adata, registry)
        self.seed, self.check_input, self.noise = seed, check_input, noise
        if check_input and adata is not None:
            check = partial(require_log_normalised, needs=FIT_NEEDS, offer=self._offer())
            check(self._scan(), where=self._matrix_name(), cells=self.adata.obs_names)
        with isolated_randomness(seed):
            # a linear VAE with a Gaussian decoder, whose weights need not be learned
            self.module = VAEModule(
                **data_dimensions(self),
                n_latent=n_latent,
                n_layers=0,
                dispersion=DISPERSIONS[noise],
                gene_likelihood="normal",
                library="none",
                log_variational=False,
            )
        self._model_summary_string = f"PPCA: {noise} noise, {n_latent} factors, {len(self.gene_names)} genes"
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        condition_key: str | None = None,
        labels_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register `adata`; every value of the matrix is checked.

        Parameters
        ----------
        adata
            Cells to learn from; in memory or backed, dense or sparse.
        layer
            Layer with log1p CP10k, instead of X; :func:`deltavi.pp.log_normalise` makes one.
        condition_key
            obs column of the perturbation, needed for :meth:`predict_perturbation`.
        labels_key
            obs column of the cell type.
        **kwargs
            Used by :meth:`load`.

        Raises
        ------
        InputDataError
            If the matrix holds NaN, infinite values or objects, or a column has missing values.
        UnknownCategoryError
            If a column or layer does not exist.
        DeltaviError
            If batches, covariates or size factors are registered, or one column for two keys.
        """
        _refuse_foreign(kwargs)
        if condition_key is not None and condition_key == labels_key:
            raise DeltaviError(f"condition_key and labels_key are both {condition_key!r}: name a column for each.")
        cls._register(adata, cls._get_setup_method_args(**named_arguments(locals())), **kwargs)

    def train(  # type: ignore[override]  # keyword-only after the first
        self,
        max_epochs: int | None = None,
        *,
        train_size: float | None = None,
        validation_size: float | None = None,
        train_indices: Any = None,
        validation_indices: Any = None,
        seed: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        datamodule: LightningDataModule | None = None,
        **trainer: Any,
    ) -> None:
        """Fit the model; there are no epochs, and each of several processes fits all cells.

        Parameters
        ----------
        train_size, validation_size, train_indices, validation_indices
            Cells to fit to, as in :meth:`deltavi.model.VAE.train`; by default all.
        seed
            Seed of the solver, where it draws, and of a random split; by default the model's.
        checkpoint
            Folder to save the model to.
        datamodule
            Module that the model was made with; the model is fitted to its training cells.
        max_epochs, **trainer
            Further arguments of other models' training, which change nothing here.

        Raises
        ------
        UnknownArgumentError
            If no training takes an argument of that name.
        DeltaviError
            If there are too few cells or genes for the number of factors, or the split makes no sense.
        InputDataError
            If the matrix came to hold NaN or infinite values after it was set up.
        ModelFileError
            If `checkpoint` holds something else than a model, or cannot be written.
        """
        shares = {"train_size": train_size, "validation_size": validation_size}
        parts: State = {"train_indices": train_indices, "validation_indices": validation_indices}
        if datamodule is not None:
            own = {**shares, **parts, **trainer}
            parts, _, _ = asked_of_module(self, datamodule, own, trainer.get("datasplitter_kwargs"))
            shares = dict.fromkeys(shares)
        if self._adata is None:
            raise DeltaviError("The model was loaded without data: there is nothing to train on.")
        options = trainer_options(self, train, trainer)
        plan_options(self, options, options.pop("plan_kwargs", None))
        loading = loading_options(self, options, options.pop("datasplitter_kwargs", None))
        self.adata_manager.validate()
        check_checkpoint(checkpoint, 1)
        accelerator, devices = options.get("accelerator", "auto"), options.get("devices", "auto")
        launch = launch_of(options, accelerator=accelerator, devices=devices, finds_unused=False)
        seed = self.seed if seed is None else seed_number("seed", seed)
        if all(value is None for value in (*shares.values(), *parts.values(), loading.get("external_indexing"))):
            shares["train_size"] = 1.0
        split, _ = asked_split(self, loading, shares=shares, parts=parts, batch_size=self.default_batch_size, seed=seed)
        cells = np.sort(split.train)
        matrix = self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        matrix = matrix if len(cells) == self.adata.n_obs else matrix[cells]
        n_latent = self.module.n_latent
        isotropic = self.noise == "isotropic"
        fit = principal_factors(matrix, n_latent, seed=seed) if isotropic else common_factors(matrix, n_latent)
        write_weights(self.module, fit)
        self.is_trained_, self.trained_on_ = True, names_checksum(self.adata.obs_names)
        self.train_indices_, self.validation_indices_, self.test_indices_ = cells, split.validation, split.test
        # of very many cells some say enough
        every = cells[np.unique(np.linspace(0, len(cells) - 1, min(len(cells), MOST_JUDGED)).astype(int))]
        loss = [-float(self.log_likelihood(indices=every).mean())]
        self.history_ = {"train_loss": pd.DataFrame({"train_loss": loss}, index=pd.Index([0], name="epoch"))}
        self.module.eval()
        finish(self)
        if checkpoint is not None and launch.ranks.is_first:
            self.save(checkpoint, overwrite=True)

    @classmethod
    def load_query_data(  # type: ignore[override]  # it is refused
        cls, adata: AnnData, reference_model: Any, **freeze: Any
    ) -> NoReturn:
        """Refused: the model has no batches that a query could add to."""
        raise DeltaviError("PPCA has no batches to extend by a query: use the trained model on the query as it is.")

    # -- answers ---------------------------------------------------------------------------------------------

    @known_arguments
    def get_loadings(self) -> pd.DataFrame:
        """Loadings W, a frame of genes by factors; the strongest factor first.

        Raises
        ------
        NotTrainedError
            Before training.
        """
        self._require_trained("get_loadings")
        loadings = read_weights(self.module).loadings
        names = [f"factor {i}" for i in range(loadings.shape[1])]
        return pd.DataFrame(loadings, index=pd.Index(self.gene_names.astype(str)), columns=names)

    @known_arguments
    def get_noise(self) -> pd.Series:
        """Variance of the noise of each gene.

        Raises
        ------
        NotTrainedError
            Before training.
        """
        self._require_trained("get_noise")
        return pd.Series(read_weights(self.module).noise, index=pd.Index(self.gene_names.astype(str)), name="noise")

    def get_latent_representation(  # type: ignore[override]  # what scvi-tools names is among the keywords
        self,
        adata: AnnData | None = None,
        indices: Any = None,
        *,
        path: PathLike | None = None,
        overwrite: bool = False,
        progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Posterior mean of the factors of each cell, ``(n_cells, n_latent)``; a sparse matrix is not densified.

        Parameters
        ----------
        adata
            Cells, with any gene order; by default those of the model.
        indices
            Positions of the cells to use.
        path, overwrite, progress
            As in :meth:`deltavi.model.VAE.get_latent_representation`; the key in obsm is ``"X_ppca"``.
        **kwargs
            As there; ``return_dist=True`` also gives variances.

        Raises
        ------
        NotTrainedError
            Before training.
        DeltaviError
            If `path` exists or names no such file.
        FileWriteError
            If the disk is full or the folder read-only; what was there before is unchanged.
        """
        if set(kwargs) - {"batch_size"}:
            return super().get_latent_representation(adata, indices=indices, path=path, progress=progress, **kwargs)
        self._require_trained("get_latent_representation")
        asked = AskedCells.of(self, adata, indices)
        z = factor_positions(read_weights(self.module), self._matrix(asked.adata), asked.cells, progress=progress)

        def answer(cells: np.ndarray) -> Answered:
            return Answered(obsm=latent_arrays(self, z[cells]))

        return asked.delivered(path, answer, only_array, progress=False, batch_size=None, record=LATENT)

    def log_likelihood(self, adata: AnnData | None = None, *, indices: Indices | None = None) -> pd.Series:
        """Exact log density of each cell's log-normalised expression, nats, by cell name.

        Parameters
        ----------
        adata
            Cells, with any gene order; by default those of the model.
        indices
            Positions of the cells to use, or a mask.

        Raises
        ------
        NotTrainedError
            Before training.
        """
        self._require_trained("log_likelihood")
        aligned = self._validate_anndata(adata)
        chosen = positions(indices, aligned.n_obs)
        fit, values = read_weights(self.module), np.zeros(aligned.n_obs)
        for rows, block in row_blocks(self._matrix(aligned), np.unique(chosen)):
            values[rows] = fit.log_prob(block if isinstance(block, np.ndarray) else block.toarray())
        return pd.Series(values[chosen], index=aligned.obs_names[chosen], name="log_likelihood")

    def sample(self, n: int, *, seed: int = 0) -> AnnData:
        """Make up cells: draw factors and noise.

        Parameters
        ----------
        n
            Cells.
        seed
            Seed of all draws.

        Returns
        -------
        AnnData. X: expression as drawn, on the scale of log1p CP10k, negative values among them. layers ``"rate"``:
        what was expected. obsm ``"X_deltavi"``: z.

        Raises
        ------
        NotTrainedError
            Before training.
        """
        self._require_trained("sample")
        fit, rng = read_weights(self.module), np.random.default_rng(seed)
        z = rng.standard_normal((n, fit.loadings.shape[1]))
        expected = z @ fit.loadings.T + fit.mean
        drawn = expected + np.sqrt(fit.noise) * rng.standard_normal(expected.shape)
        return AnnData(
            X=drawn.astype(np.float32),
            obs=pd.DataFrame(index=[f"sample {i}" for i in range(n)]),
            var=pd.DataFrame(index=pd.Index(self.gene_names.astype(str))),
            layers={_keys.LAYER_RATE: expected.astype(np.float32)},
            obsm={_keys.OBSM_LATENT_AFTER: z.astype(np.float32)},
        )

    # -- weights ---------------------------------------------------------------------------------------------

    def _matrix(self, aligned: AnnData) -> Any:
        if aligned is self._adata:
            # in the form rows are cut from: a column-wise file would be read whole for every block
            return self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        layer = self._setup_argument("layer")
        return matrix_of(aligned, layer)

    def _check_query(self, manager: DataManager, offer: Offer) -> None:
        if self.check_input:
            report = MatrixReport.from_dict(manager.get_state_registry(REGISTRY_KEYS.X_KEY)["scan"])
            needs = QUERY_NEEDS.format(target=self._matrix_name())
            require_log_normalised(report, where="The query", cells=manager.adata.obs_names, needs=needs, offer=offer)


def _refuse_foreign(arguments: State) -> None:
    """Raise where a column is named that the model would have to leave out of account."""
    foreign = [key for key in FOREIGN_KEYS if arguments.get(key) is not None]
    if foreign:
        raise DeltaviError(
            f"PPCA takes no {examples(foreign)}: it corrects for nothing. deltavi.pp.log_normalise divides by size "
            "factors (size_factor_key=...), and VAE and SCGEN model batches and covariates."
        )
