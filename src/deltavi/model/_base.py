"""What every model shares: registration, queries matched by name, seeds, training and files.

The mixins of scvi-tools do the rest (normalised expression, differential expression, evidence lower bound, query
mapping); they all reach their data through ``_validate_anndata``, where a fresh AnnData becomes an aligned one.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.train import Trainer

from deltavi import _keys
from deltavi._compat import (
    FIELD_REGISTRIES_KEY,
    SETUP_ARGS_KEY,
    STATE_REGISTRY_KEY,
    AnnDataManager,
    make_actual,
)
from deltavi._devices import torch_device
from deltavi._entries import known_keywords, require_anndata
from deltavi._errors import DeltaviError, DeltaviWarning, NotTrainedError
from deltavi._random import taking_turns
from deltavi._reading import known_arguments
from deltavi.model._copies import CopiesMixin
from deltavi.model._given import plain_settings, plain_setup
from deltavi.model.verbs import INHERITED, OWN, of_trained
from deltavi.registry.checks import MatrixReport, Offer, scale_check
from deltavi.registry.columns import user_columns
from deltavi.registry.covariates import ContinuousCovariatesField, SizeFactorField
from deltavi.registry.depth import chosen_size_factor
from deltavi.registry.fields import (
    CategoricalCovariatesField,
    CategoryField,
    ExpressionField,
)
from deltavi.registry.genes import match_genes, require_unique_genes, warn_duplicate_cells
from deltavi.registry.leftovers import drop, left_behind
from deltavi.registry.manager import DataManager
from deltavi.registry.matrix import loadable, take_columns
from deltavi.registry.source import elsewhere, matrix_name, matrix_of, refuse_mask

logger = logging.getLogger("deltavi")

# Arguments of a registration that follows another one, as of a query
TRANSFER = ("source_registry", "extend_categories", "allow_missing_labels")
SETUP_HINTS = {
    "cell_type_key": "Pass labels_key.",
    "celltype_key": "Pass labels_key.",
    "perturbation_key": "Pass condition_key.",
    "stim_key": "Pass condition_key.",
    "counts_layer": "Pass layer.",
    "covariate_keys": "Pass categorical_covariate_keys or continuous_covariate_keys.",
    "covariates": "Pass categorical_covariate_keys or continuous_covariate_keys.",
}


class CountModel(CopiesMixin):
    """Base of all models; not used directly.

    Attributes
    ----------
    min_gene_overlap
        Smallest share of the model's genes that a query must have.
    """

    min_gene_overlap: float = 0.5
    # names of the cells the model was trained on, in their order
    trained_on_: str | None = None
    # of the initial weights, of training, and of whatever is drawn without a seed of its own
    seed: int
    # arguments that the model was made with
    init_params_: dict[str, Any]
    # of the latest training
    trainer: Trainer
    _adata_manager: DataManager | None

    def __init__(self, adata: AnnData | None = None, registry: dict[str, Any] | None = None) -> None:
        super().__init__(adata, registry)
        if adata is not None:
            # between setup and here
            self.adata_manager.validate()

    def __repr__(self) -> str:
        """Settings and state; scvi-tools prints them, and returns an empty text."""
        settings = " ".join(str(self._model_summary_string).replace("\n", " ").split())
        return f"{settings}; {'trained' if self.is_trained_ else 'not trained'}"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if inspect.isabstract(cls):
            # a part of models: what it carries is wrapped in the models themselves
            return
        for name in (*INHERITED, *OWN):
            verb = getattr(cls, name, None)
            if verb is not None and not hasattr(verb, "__wrapped_for_training__"):
                setattr(cls, name, of_trained(verb))

    # -- registration ----------------------------------------------------------------------------------------

    @classmethod
    def _fields(cls, setup: dict[str, Any]) -> list[Any]:
        """AnnData fields for the arguments of ``setup_anndata``."""
        expression = ExpressionField(REGISTRY_KEYS.X_KEY, setup.get("layer"))
        fields: list[Any] = [
            expression,
            CategoryField(REGISTRY_KEYS.BATCH_KEY, setup.get("batch_key")),
            CategoryField(REGISTRY_KEYS.LABELS_KEY, setup.get("labels_key"), optional_in_query=True),
            SizeFactorField(REGISTRY_KEYS.SIZE_FACTOR_KEY, setup.get("size_factor_key"), expression=expression),
            CategoricalCovariatesField(REGISTRY_KEYS.CAT_COVS_KEY, setup.get("categorical_covariate_keys")),
            ContinuousCovariatesField(REGISTRY_KEYS.CONT_COVS_KEY, setup.get("continuous_covariate_keys")),
        ]
        if setup.get("condition_key") is not None:
            fields.append(CategoryField(_keys.CONDITION, setup["condition_key"], optional_in_query=True))
        return fields

    @classmethod
    def _register(cls, adata: AnnData, setup_method_args: dict[str, Any], **transfer: Any) -> None:
        """Check `adata` and register it with this class; ``setup_anndata`` ends here."""
        require_anndata(adata)
        _require_cells(adata)
        _require_known_arguments(cls.__name__, transfer, setup_method_args[SETUP_ARGS_KEY])
        setup_method_args[SETUP_ARGS_KEY] = plain_setup(setup_method_args[SETUP_ARGS_KEY])
        require_unique_genes(adata.var_names, where="adata.var_names")
        warn_duplicate_cells(adata.obs_names)
        left = left_behind(adata)
        if adata.is_view:
            _refuse_view_of_file(adata)
            # what hides values goes with the view; a layer that is not there is for the field to say
            layer = setup_method_args[SETUP_ARGS_KEY].get("layer")
            if layer is None or layer in adata.layers:
                refuse_mask(adata, layer)
            logger.info("A view was set up; it becomes an AnnData of its own, and its parent stays as it is.")
            make_actual(adata)
        setup = setup_method_args[SETUP_ARGS_KEY]
        if "size_factor_key" in setup and "source_registry" not in transfer:
            # a file and a query need the column that training had
            setup["size_factor_key"] = chosen_size_factor(adata, setup.get("layer"), setup["size_factor_key"])
        manager = DataManager(fields=cls._fields(setup), setup_method_args=setup_method_args)
        # cells a file is loaded with may be those of training; those a query brings are others
        if "source_registry" in transfer and not transfer.get("extend_categories", False):
            transfer["attached"] = True
        with taking_turns():
            manager.register_fields(adata, **transfer)
            drop(adata, left, manager.written)
        cls.register_manager(manager)

    def _get_init_params(self, locals: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the model, which a file must be able to hold."""
        return plain_settings(super()._get_init_params(locals))

    def _setup_argument(self, name: str) -> Any:
        return self.registry_[SETUP_ARGS_KEY].get(name)

    def _state(self, key: str) -> dict[str, Any]:
        registries = self.registry_[FIELD_REGISTRIES_KEY]
        return dict(registries[key][STATE_REGISTRY_KEY]) if key in registries else {}

    def _categories(self, key: str) -> np.ndarray:
        """Categories of a registered column, in the order of their codes."""
        return np.asarray(self._state(key).get("categorical_mapping", []), dtype=object)

    @property
    def gene_names(self) -> np.ndarray:
        """Genes of the model, in its order."""
        return np.asarray(self._state(REGISTRY_KEYS.X_KEY)["column_names"], dtype=object)

    def _check_scale(self, gene_likelihood: str) -> None:
        """Raise where the registered matrix is not on the scale the likelihood needs."""
        check, offer = scale_check(gene_likelihood), self._offer()
        check(self._scan(), where=self._matrix_name(), cells=self.adata.obs_names, offer=offer)

    def _offer(self, query: AnnData | None = None) -> Offer:
        """What says where else in the model's cells, or those of a query, values of the right kind lie."""
        source = self.adata if query is None else query
        return partial(elsewhere, source, self._setup_argument("layer"), for_model=query is not None)

    def _scan(self) -> MatrixReport:
        """What the scan of the registered matrix found."""
        return MatrixReport.from_dict(self._state(REGISTRY_KEYS.X_KEY)["scan"])

    def _matrix_name(self) -> str:
        return matrix_name(self._setup_argument("layer"))

    # -- queries ---------------------------------------------------------------------------------------------

    def _register_manager_for_instance(self, adata_manager: AnnDataManager) -> None:
        # scvi-tools keeps every AnnData a model was ever asked about alive; ours live as long as they are used
        store = self._per_instance_manager_store.setdefault(self.id, WeakValueDictionary())
        store[adata_manager.adata_uuid] = adata_manager

    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData:
        """AnnData in the form the networks take: the model's own, or an aligned stand-in for a query."""
        if adata is None or adata is self._adata:
            if self._adata is None:
                raise DeltaviError("The model was loaded without data: pass the cells to predict as adata=...")
            self.adata_manager.validate()
            return self._adata
        if getattr(adata, "_deltavi_owner", None) == self.id:
            return adata
        return self._align(require_anndata(adata))

    def _align(self, adata: AnnData) -> AnnData:
        """Stand-in for `adata` with the model's genes in the model's order; `adata` itself is left alone."""
        query = aligned_copy(
            adata, self.gene_names, layer=self._setup_argument("layer"), min_overlap=self.min_gene_overlap
        )
        setup = self.registry_[SETUP_ARGS_KEY]
        # it is read in this call alone
        arguments = {SETUP_ARGS_KEY: dict(setup)}
        manager = DataManager(is_watched=False, fields=self._fields(setup), setup_method_args=arguments)
        manager.register_fields(query, source_registry=self.registry_)
        self._check_query(manager, self._offer(adata))
        # each keeps the other alive, and both go when the caller lets go of the stand-in
        query._deltavi_owner, query._deltavi_manager = self.id, manager
        self._register_manager_for_instance(manager)
        return query

    def _check_query(self, manager: DataManager, offer: Offer) -> None:
        """Raise where a query is on another scale than the data the model was trained on; `offer` what it has else."""

    # -- state -----------------------------------------------------------------------------------------------

    def _require_trained(self, what: str) -> None:
        if not self.is_trained_:
            raise NotTrainedError(f"{what} needs a trained model: call train() first.")

    @known_arguments
    def to_device(self, device: str | int | torch.device) -> None:
        """Move the weights to a device; where there is none such, to the CPU, with a warning.

        Parameters
        ----------
        device
            As in torch: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or the number of a GPU; ``"auto"`` is a GPU
            where there is one.

        Raises
        ------
        DeltaviError
            If torch has no such kind of device.
        """
        wanted = torch_device("device", device)
        if not _is_present(wanted):
            warnings.warn(
                f"This computer has no device {str(wanted)!r}; the model is on the CPU, with the same answers.",
                DeltaviWarning,
                stacklevel=2,
            )
            wanted = torch.device("cpu")
        super().to_device(wanted)

    def _after_training(self) -> None:
        """Keep of the training cells what answers need; each class calls the next one."""

    def _extra_state(self) -> dict[str, Any]:
        """Collect what a model keeps beside its weights, JSON-able; each class adds to that of the next one."""
        return {}

    def _restore_extra_state(self, extra: dict[str, Any]) -> None:
        """Take back what :meth:`_extra_state` collected; each class calls the next one."""

    def _check_if_trained(self, warn: bool = True, message: str = "") -> None:
        # scvi-tools only warns in some methods; an untrained model has no answer worth giving
        self._require_trained("This")


def _is_present(device: torch.device) -> bool:
    """Whether tensors can be moved to `device`; of kinds that are not known here torch itself says so."""
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type != "mps" or torch.backends.mps.is_available()


def _require_cells(adata: AnnData) -> None:
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise DeltaviError(f"adata has {adata.n_obs} cells and {adata.n_vars} genes; there is nothing to learn from.")


def _refuse_view_of_file(adata: AnnData) -> None:
    if adata.isbacked:
        raise DeltaviError(
            f"adata is a view of {adata.n_obs} cells and {adata.n_vars} genes of a backed file, which cannot be set "
            "up. Read them into memory, adata = adata.to_memory(), or write them to a file of their own, adata = "
            "adata.copy(filename='subset.h5ad')."
        )


def _require_known_arguments(model: str, given: dict[str, Any], known: Iterable[str]) -> None:
    """Raise where ``setup_anndata`` was given a name that is none of its own, nor of a transfer between models."""
    own = [name for name in given if name not in TRANSFER]
    known_keywords(own, known, among=f"{model}.setup_anndata", hints=SETUP_HINTS)


def aligned_copy(adata: AnnData, genes: np.ndarray, *, layer: str | None, min_overlap: float) -> AnnData:
    """New AnnData with `genes` in order, the obs of `adata`, and nothing else.

    Parameters
    ----------
    adata
        Cells to predict: in memory, a view, or backed.
    genes
        Names of the model's genes.
    layer
        Layer that holds the expression, or ``None`` for X; it is kept under the same name.
    min_overlap
        Smallest share of `genes` that must be present.

    Returns
    -------
    AnnData whose matrix is shared with `adata` where the genes agree, and a CSR copy of the model's genes otherwise.
    """
    match = match_genes(adata.var_names, pd.Index(genes), min_overlap=min_overlap)
    warn_duplicate_cells(adata.obs_names)
    matrix = loadable(_expression(adata, layer), where=matrix_name(layer), quiet=True)
    if not match.is_identity:
        matrix = take_columns(matrix, match.positions)
    with taking_turns():
        # a model that was set up on these cells may be writing columns of its own
        obs = user_columns(adata.obs)
    var = pd.DataFrame(index=pd.Index(genes.astype(str)))
    return AnnData(X=matrix, obs=obs, var=var) if layer is None else AnnData(obs=obs, var=var, layers={layer: matrix})


def _expression(adata: AnnData, layer: str | None) -> Any:
    if layer is not None and layer not in adata.layers:
        raise DeltaviError(
            f"The model reads layers[{layer!r}], which the query does not have. If its X holds raw counts and the "
            f"model was trained on such: adata.layers[{layer!r}] = adata.X.copy(); if it was trained on log1p CP10k: "
            f"deltavi.pp.log_normalise(adata, key_added={layer!r})."
        )
    return matrix_of(adata, layer)
