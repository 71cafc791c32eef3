"""Base of every model: registration, queries matched by name, seeds, training and files.

The mixins of scvi-tools do the rest (normalised expression, differential expression, evidence lower bound, query
mapping); they all reach their data through ``_validate_anndata``, where a fresh AnnData becomes an aligned one.
"""

from __future__ import annotations

import inspect
import os
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self
from weakref import WeakValueDictionary

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.dataloaders import DataSplitter
from scvi.model.base import ArchesMixin, BaseModelClass, UnsupervisedTrainingMixin
from scvi.train import Trainer

from deltavi import _keys
from deltavi._compat import FIELD_REGISTRIES_KEY, SETUP_ARGS_KEY, STATE_REGISTRY_KEY, AnnDataManager
from deltavi._entries import known_keywords, require_anndata
from deltavi._errors import DeltaviError, NotTrainedError
from deltavi._reading import known_arguments
from deltavi._types import State
from deltavi.dataloaders.registry import awaited, require_made, with_cells
from deltavi.model._aligned import aligned_copy
from deltavi.model._attached import attach, pointing
from deltavi.model._copies import restore, state_of
from deltavi.model._files import loaded, save
from deltavi.model._given import plain_settings
from deltavi.model._mapping import mapped, prepare_query_anndata, to_device
from deltavi.model._registration import registered
from deltavi.model._stored_registry import HINTS, convert_legacy_save, load_registry, view_setup_args
from deltavi.model._training import train
from deltavi.model.recipe import EPOCHS_RANGE, AnyRecipe, Parts, Recipe
from deltavi.model.verbs import INHERITED, OWN, of_trained
from deltavi.registry.cells import Cells
from deltavi.registry.checks import MatrixReport, Offer, scale_check
from deltavi.registry.covariates import ContinuousCovariatesField, SizeFactorField
from deltavi.registry.fields import CategoricalCovariatesField, CategoryField, ExpressionField
from deltavi.registry.labels import LabelField
from deltavi.registry.manager import DataManager
from deltavi.registry.source import elsewhere, matrix_name
from deltavi.registry.tables import require_cells, tables_read
from deltavi.train import ObjectivePlan
from deltavi.train.on_device import DeviceSplitter
from deltavi.train.runner import Runner


class CountModel(UnsupervisedTrainingMixin, ArchesMixin, BaseModelClass):
    """Base of all models; not used directly.

    Attributes
    ----------
    min_gene_overlap
        Smallest share of the model's genes that a query must have.
    """

    _training_plan_cls = ObjectivePlan
    _data_splitter_cls: ClassVar[type[DataSplitter]] = DeviceSplitter
    _train_runner_cls = Runner
    min_gene_overlap: float = 0.5
    # how it is trained, and what it keeps of its training cells; each subclass says what differs
    recipe: ClassVar[AnyRecipe] = Recipe()
    keeps: ClassVar[Parts] = ()
    # whether a decoder of counts starts at the mean share of every gene
    starts_at_mean_shares: ClassVar[bool] = False
    # whether some cells may lack a label
    partly_labelled: ClassVar[bool] = False
    default_plan: ClassVar[State] = {}
    default_batch_size: ClassVar[int] = 128
    # passes over the data beyond which the model overfits, where there are enough of them
    most_epochs: ClassVar[int] = EPOCHS_RANGE[1]
    # names of the cells the model was trained on, in their order
    trained_on_: str | None = None
    # whether the model comes from a file, which does not say which weights were frozen
    is_loaded_ = False
    # whether the weights are those of a reference that a query is mapped onto, most of them frozen
    is_mapped_ = False
    # of the initial weights, of training, and of whatever is drawn without a seed of its own
    seed: int
    # arguments that the model was made with, and trainer of the latest training
    init_params_: State
    trainer: Trainer
    _adata: AnnData | None
    _adata_manager: DataManager | None

    train = train  # type: ignore[assignment]  # keyword-only after the first
    save = save
    load_registry = staticmethod(load_registry)
    view_setup_args = staticmethod(view_setup_args)
    convert_legacy_save = classmethod(convert_legacy_save)
    prepare_query_anndata = classmethod(prepare_query_anndata)
    to_device = to_device

    def __init__(self, adata: AnnData | None = None, registry: State | None = None) -> None:
        super().__init__(adata, registry)
        if adata is not None:
            # between setup and here
            self.adata_manager.validate()

    if not TYPE_CHECKING:  # to which any name would be one that the model has

        def __getattr__(self, name):
            require_made(self, name)
            return object.__getattribute__(self, name)

    def __repr__(self) -> str:
        """Settings and state; scvi-tools prints them, and returns an empty text."""
        if awaited(self):
            return f"{type(self).__name__} without cells; not trained"
        settings = " ".join(str(self._model_summary_string).replace("\n", " ").split())
        return f"{settings}; {'trained' if self.is_trained_ else 'not trained'}"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if inspect.isabstract(cls):
            # a part of models: what it carries is wrapped in the models themselves
            return
        if "__init__" in vars(cls):
            cls.__init__ = with_cells(cls.__init__)  # type: ignore[method-assign]
        for name in (*INHERITED, *OWN):
            verb = getattr(cls, name, None)
            if verb is not None and not hasattr(verb, "__wrapped_for_training__"):
                setattr(cls, name, of_trained(verb))

    def __getstate__(self) -> State:
        """Attributes, with the registered cells and without the trainer."""
        return state_of(self)

    def __setstate__(self, state: State) -> None:
        """Take over attributes, and register the cells under identifiers of their own."""
        restore(self, state)

    def __copy__(self) -> Self:
        """The same model under another name: a shallow copy shares weights, cells and registration."""
        same = type(self).__new__(type(self))
        vars(same).update(vars(self))
        return same

    # -- registration ----------------------------------------------------------------------------------------

    @classmethod
    def _fields(cls, setup: State) -> list[Any]:
        """AnnData fields for the arguments of ``setup_anndata``."""
        expression = ExpressionField(REGISTRY_KEYS.X_KEY, setup.get("layer"), sums_genes=cls.starts_at_mean_shares)
        fields: list[Any] = [
            expression,
            CategoryField(REGISTRY_KEYS.BATCH_KEY, setup.get("batch_key")),
            cls._label_field(setup),
            SizeFactorField(REGISTRY_KEYS.SIZE_FACTOR_KEY, setup.get("size_factor_key"), expression=expression),
            CategoricalCovariatesField(REGISTRY_KEYS.CAT_COVS_KEY, setup.get("categorical_covariate_keys")),
            ContinuousCovariatesField(REGISTRY_KEYS.CONT_COVS_KEY, setup.get("continuous_covariate_keys")),
        ]
        if setup.get("condition_key") is not None:
            fields.append(CategoryField(_keys.CONDITION, setup["condition_key"], optional_in_query=True))
        return fields

    @classmethod
    def _label_field(cls, setup: State) -> Any:
        if cls.partly_labelled and setup.get("labels_key") is not None:
            unlabeled = setup.get("unlabeled_category")
            return LabelField(REGISTRY_KEYS.LABELS_KEY, setup["labels_key"], unlabeled_category=unlabeled)
        return CategoryField(REGISTRY_KEYS.LABELS_KEY, setup.get("labels_key"), optional_in_query=True)

    @classmethod
    def _register(cls, adata: AnnData, setup_method_args: State, **transfer: Any) -> None:
        """Check `adata` and register it with this class; ``setup_anndata`` ends here."""
        with tables_read(require_anndata(adata, lazy=True)):
            cls.register_manager(registered(cls, adata, setup_method_args, **transfer))

    def _get_init_params(self, locals: State) -> State:
        """Arguments of the model, which a file must be able to hold."""
        return plain_settings(super()._get_init_params(locals))

    def _setup_argument(self, name: str) -> Any:
        return self.registry_[SETUP_ARGS_KEY].get(name)

    def _state(self, key: str) -> State:
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
        """Function that finds where else in the model's cells, or those of a query, values of the right kind lie."""
        source = self.adata if query is None else query
        return partial(elsewhere, source, self._setup_argument("layer"), for_model=query is not None)

    def _scan(self) -> MatrixReport:
        return MatrixReport.from_dict(self._state(REGISTRY_KEYS.X_KEY)["scan"])

    def _matrix_name(self) -> str:
        return matrix_name(self._setup_argument("layer"))

    # -- queries ---------------------------------------------------------------------------------------------

    def _register_manager_for_instance(self, adata_manager: AnnDataManager) -> None:
        # scvi-tools keeps every AnnData a model was ever asked about alive; ours live as long as they are used
        managers = self._per_instance_manager_store
        managers.setdefault(self.id, WeakValueDictionary())[adata_manager.adata_uuid] = adata_manager

    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData:
        """AnnData in the form the networks take: the model's own, or an aligned stand-in for a query."""
        if adata is None or adata is self._adata:
            if self._adata is None:
                raise DeltaviError("The model was loaded without data: pass the cells to predict as adata=...")
            self.adata_manager.validate()
            return self._adata
        if getattr(adata, "_deltavi_owner", None) == self.id:
            return adata
        return self._align(require_cells(adata))

    def _align(self, adata: AnnData) -> AnnData:
        """Stand-in for `adata` with the model's genes in the model's order; `adata` itself is left alone."""
        query = aligned_copy(
            adata, self.gene_names, layer=self._setup_argument("layer"), min_overlap=self.min_gene_overlap
        )
        setup = self.registry_[SETUP_ARGS_KEY]
        # it is read in this call alone
        given = {SETUP_ARGS_KEY: dict(setup)}
        manager = DataManager(is_watched=False, fields=self._fields(setup), setup_method_args=given)
        manager.register_fields(query, source_registry=self.registry_)
        self._check_query(manager, self._offer(adata))
        # each keeps the other alive, and both go when the caller lets go of the stand-in
        query._deltavi_owner, query._deltavi_manager = self.id, manager
        self._register_manager_for_instance(manager)
        return query

    def _cells(self, adata: AnnData) -> Cells:
        """Cells of the model, or of a query in its form, in mini-batches."""
        return Cells(self._manager_of(adata))

    def _manager_of(self, adata: AnnData) -> DataManager:
        """Manager of the model's cells, or of a query in its form, which may be without cells."""
        # scvi-tools takes an AnnData without cells for none at all
        manager: DataManager | None = getattr(adata, "_deltavi_manager", None)
        return self.get_anndata_manager(adata, required=True) if manager is None else manager

    def _check_query(self, manager: DataManager, offer: Offer) -> None:
        """Raise where a query is on another scale than the data the model was trained on; `offer` what it has else."""

    # -- state -----------------------------------------------------------------------------------------------

    def _require_trained(self, what: str) -> None:
        if not self.is_trained_:
            raise NotTrainedError(f"{what} needs a trained model: call train() first.")

    def _check_if_trained(self, warn: bool = True, message: str = "") -> None:
        # scvi-tools only warns in some methods; an untrained model has no answer worth giving
        self._require_trained("This")

    # -- cells -----------------------------------------------------------------------------------------------

    @property
    def adata(self) -> Any:
        """Cells of the model; None where it was loaded without any.

        Others can be assigned, as to ``load``: genes are matched by name. A refusal leaves model and cells as they are.
        """
        return self._adata

    @adata.setter
    def adata(self, adata: AnnData) -> None:
        attach(self, adata)

    @property
    def train_indices(self) -> Any:
        """Positions of the training cells in ``adata``; an error where it no longer holds the cells they point at."""
        return pointing(self, self.train_indices_)

    @train_indices.setter
    def train_indices(self, value: Any) -> None:
        self.train_indices_ = value

    @property
    def validation_indices(self) -> Any:
        """Positions of the validation cells in ``adata``; an error as for ``train_indices``."""
        return pointing(self, self.validation_indices_)

    @validation_indices.setter
    def validation_indices(self, value: Any) -> None:
        self.validation_indices_ = value

    @property
    def test_indices(self) -> Any:
        """Positions of the cells that were in neither; an error as for ``train_indices``."""
        return pointing(self, self.test_indices_)

    @test_indices.setter
    def test_indices(self, value: Any) -> None:
        self.test_indices_ = value

    @known_arguments
    def get_var_names(self, legacy_mudata_format: bool = False) -> np.ndarray:
        """Genes of the model, in its order.

        Parameters
        ----------
        legacy_mudata_format
            Of scvi-tools, for MuData; it changes nothing here.
        """
        return self.gene_names

    def _get_user_attributes(self) -> list[tuple[str, Any]]:
        # properties are left out: what is asked of the cells may be refused
        return list(vars(self).items())

    # -- files -----------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike[str],
        adata: AnnData | None = None,
        *,
        accelerator: str | None = None,
        device: str | int | torch.device | None = None,
        **unknown: Any,
    ) -> Self:
        """Read a model that :meth:`save` wrote; nothing is unpickled.

        Parameters
        ----------
        dir_path
            Folder of the model.
        adata
            Cells to attach, with any gene order; by default those saved with the model, else none: a model without
            data predicts for the cells it is given.
        accelerator, device
            Where to put the weights, by default on the CPU: a device of torch, as ``"cuda:1"``, or as in scvi-tools a
            kind of hardware (``"cpu"``, ``"gpu"``, ``"mps"``, ``"auto"``) and which one of it.
        **unknown
            Refused; other names of scvi-tools' ``load`` are answered with what to pass here.

        Raises
        ------
        UnknownArgumentError
            If another keyword is passed.
        DeltaviError
            If torch has no such device.
        ModelFileError
            If the folder is damaged, newer than this version, or holds another class of model.
        """
        known = ("dir_path", "adata", "accelerator", "device")
        known_keywords(unknown, known, among=f"{cls.__name__}.load", hints=HINTS)
        return loaded(cls, dir_path, adata, accelerator=accelerator, device=device)

    @classmethod
    def load_query_data(  # type: ignore[override]  # keyword-only after the first two
        cls,
        adata: AnnData,
        reference_model: Any,
        *,
        accelerator: str | None = None,
        device: str | int | torch.device | None = None,
        **options: Any,
    ) -> Self:
        """Extend a trained model by the batches of a query, to be trained on it (scArches; Lotfollahi et al. 2022).

        The reference's mean responses are kept: cells of a query that was measured in one condition only can be
        predicted in another.

        Parameters
        ----------
        adata
            Query cells; genes are matched by name.
        reference_model
            A trained model, or the folder of one.
        accelerator, device
            Where to put the weights, as in :meth:`load`.
        **options
            What to keep fixed (``freeze_dropout`` and others, or ``unfrozen=True`` for nothing); see
            :meth:`scvi.model.base.ArchesMixin.load_query_data`.

        Raises
        ------
        UnknownArgumentError
            If that has no such argument.
        NotTrainedError
            If the reference was never trained.
        """
        extend = super().load_query_data
        return mapped(cls, extend, adata, reference_model, accelerator=accelerator, device=device, **options)
