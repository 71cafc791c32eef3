"""Models handed to scvi-tools and taken from it: ``export_scvi`` and ``import_scvi``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from deltavi._compat import (
    ADATA_MINIFY_TYPE_UNS_KEY,
    FIELD_REGISTRIES_KEY,
    MODEL_NAME_KEY,
    SAVE_KEYS,
    SCVI,
    SETUP_ARGS_KEY,
    SETUP_METHOD_KEY,
    STATE_REGISTRY_KEY,
    SUMMARY_STATS_KEY,
)
from deltavi._errors import DeltaviError, ModelFileError
from deltavi._random import isolated_randomness
from deltavi._reading import known_arguments
from deltavi._types import State
from deltavi.io import resolved
from deltavi.io.atomic import is_as_described
from deltavi.io.export import require_exportable, write_export
from deltavi.io.scvi import EXPORT_MARK, SETUP_ARGUMENTS, SETUP_LISTS, ScviFile, export_mark, read_scvi
from deltavi.model._faults import finish
from deltavi.model._files import assembled, blaming
from deltavi.model._saving import cells_writer
from deltavi.model._scvi_settings import (
    require_near,
    settings_for_scvi,
    settings_from_scvi,
    weights_for_scvi,
    weights_from_scvi,
    with_moments,
)
from deltavi.module import VAE as VAEModule
from deltavi.registry.columns import column, used_categories
from deltavi.registry.covariates import ContinuousCovariatesField
from deltavi.registry.manager import DataManager

if TYPE_CHECKING:
    from deltavi.model._vae import VAE

Model = TypeVar("Model", bound="VAE")

logger = logging.getLogger("deltavi")

PathLike = str | os.PathLike[str]
TRAINING = ("is_trained_", "train_indices_", "validation_indices_", "test_indices_")
# scvi-tools warns of categories of fewer cells
CELLS_PER_CATEGORY = 3


@known_arguments
def export_scvi(self: VAE, dir_path: PathLike, *, overwrite: bool = False, save_anndata: bool = False) -> None:
    """Write the model as ``scvi.model.SCVI.save`` does, for ``scvi.model.SCVI.load`` to read.

    scvi-tools' own SCVI is built, given the weights, the split and the history, and told to save itself. It has
    the same latent positions, decoded means and evidence lower bound, to single precision. What only training
    uses is left behind: ``condition_mmd``, ``weight_l2``, ``dropout_rate_decoder`` and the condition.

    Parameters
    ----------
    dir_path
        Folder to create.
    overwrite
        Write to the folder though it exists. A model that was exported to it is replaced, once the new one is
        complete; other files in it stay.
    save_anndata
        Also write the model's AnnData, as ``adata.h5ad`` in the folder.

    Raises
    ------
    NotTrainedError
        Before training.
    DeltaviError
        If the model has a setting that SCVI does not, such as a Bernoulli likelihood or the condition in the
        decoder; the error names it. If `save_anndata` is set and the model has no data.
    ModelFileError
        If the folder exists and `overwrite` is not set, or has a ``model.pt`` or, with `save_anndata`, an
        ``adata.h5ad`` that was not exported to it, or was changed since.
    ModelWriteError
        If the disk is full or the folder read-only.
    """
    self._require_trained("export_scvi")
    _require_exchanged(type(self))
    settings = settings_for_scvi(self.module)
    target = require_exportable(dir_path, overwrite=overwrite, with_cells=save_anndata)
    if save_anndata and self._adata is None:
        raise DeltaviError("The model was loaded without data: there are no cells to save with it.")
    if save_anndata:
        self.adata_manager.validate()
    setup = {name: self._setup_argument(name) for name in (*SETUP_ARGUMENTS, *SETUP_LISTS)}
    moments = self._state(REGISTRY_KEYS.CONT_COVS_KEY).get(ContinuousCovariatesField.MOMENTS_KEY)
    require_near(moments, setup["continuous_covariate_keys"])
    stand_ins = _stand_ins(
        self.gene_names,
        setup,
        {name: self._categories(name).tolist() for name in ("batch", "labels")},
        self._state("extra_categorical_covs").get("mappings", {}),
    )

    def write(folder: Path) -> None:
        with isolated_randomness(self.seed):
            SCVI.setup_anndata(stand_ins, **setup)
            theirs = SCVI(stand_ins, **settings)
        weights = weights_for_scvi(self.module, theirs.module)
        theirs.module.load_state_dict(with_moments(weights, self.module, moments))
        for name in TRAINING:
            setattr(theirs, name, getattr(self, name))
        theirs.history_ = _plain_history(self.history_)
        cells = self.registry_[FIELD_REGISTRIES_KEY]["X"][SUMMARY_STATS_KEY]
        _say_how_many(theirs.registry_, int(cells["n_cells"]))
        cells_file = folder / SAVE_KEYS.ADATA_FNAME if save_anndata else None
        if cells_file is not None:
            cells_writer(self._adata, {})(cells_file)
        setattr(theirs, EXPORT_MARK, export_mark(theirs.module.state_dict(), cells_file))
        theirs.save(str(folder), overwrite=True)
        theirs.deregister_manager(stand_ins)

    write_export(target, write)


def imported(
    cls: type[Model],
    dir_path: PathLike,
    adata: AnnData | None,
    *,
    condition_key: str | None,
    labels_key: str | None,
    check_input: bool,
    allow_pickle: bool,
) -> Model:
    """Model that ``scvi.model.SCVI.save`` wrote; see ``VAE.import_scvi``."""
    _require_exchanged(cls)
    if not allow_pickle:
        raise ModelFileError(
            f"{dir_path} was not read: models of scvi-tools are pickles, which are programs that can run code on "
            "this machine. If you know who made it, pass allow_pickle=True, and save() the model afterwards: "
            "files of that kind hold no code."
        )
    dir_path = resolved(dir_path, "dir_path", error=ModelFileError)
    file = read_scvi(dir_path)
    settings = settings_from_scvi(file.settings, file.setup["size_factor_key"])
    if adata is None:
        adata = _saved_cells(dir_path, file)
    elif ADATA_MINIFY_TYPE_UNS_KEY in adata.uns:
        raise DeltaviError("adata is minified: it holds latent positions in place of counts. Pass the counts.")
    known, setup = _with_columns(file, settings, adata, condition_key=condition_key, labels_key=labels_key)
    checked = check_input and settings["gene_likelihood"] != "normal"
    with blaming(dir_path):
        registry = _registry_of(cls, file, setup, known)
    description = {
        "registry": registry,
        "init_params": {"non_kwargs": {**settings, "check_input": checked}, "kwargs": {}},
        "attributes": file.attributes,
        "extra": {},
    }
    weights = weights_from_scvi(file.weights, settings)
    model = assembled(cls, weights, description, adata, source=dir_path)
    if condition_key is not None and model.is_trained_:
        finish(model)
    return model


def _registry_of(cls: type[VAE], file: ScviFile, setup: State, known: dict[str, list[Any]]) -> State:
    """The registry that ``setup_anndata`` would have made of the cells the model was trained on."""
    stand_ins = _stand_ins(file.genes, setup, known, file.covariates)
    arguments = {MODEL_NAME_KEY: cls.__name__, SETUP_METHOD_KEY: "setup_anndata", SETUP_ARGS_KEY: setup}
    manager = DataManager(fields=cls._fields(setup), setup_method_args=arguments)
    manager.register_fields(stand_ins)
    registry: State = manager.registry
    # SCVI reads covariates as they are
    covariates = registry[FIELD_REGISTRIES_KEY].get(REGISTRY_KEYS.CONT_COVS_KEY, {STATE_REGISTRY_KEY: {}})
    covariates[STATE_REGISTRY_KEY].pop(ContinuousCovariatesField.MOMENTS_KEY, None)
    _say_how_many(registry, file.n_cells)
    return registry


def _require_exchanged(cls: type[VAE]) -> None:
    """Raise where the module of a model is another one than that of SCVI by another name."""
    if cls._module_cls is not VAEModule:
        raise DeltaviError(
            f"{cls.__name__} has no counterpart in scvi-tools that answers alike: only VAE and SCGEN are exchanged "
            "with SCVI."
        )


def _stand_ins(genes: Any, setup: State, known: dict[str, list[Any]], covariates: State) -> AnnData:
    """Cells that make a registry of these genes and categories: every category a few times, one count each."""
    columns = {setup.get(f"{name}_key"): values for name, values in known.items()}
    columns |= {key: list(covariates[key]) for key in covariates}
    columns.pop(None, None)
    n_cells = CELLS_PER_CATEGORY * max([1, *map(len, columns.values())])
    places = (np.zeros(n_cells, dtype=int), np.arange(n_cells + 1))
    counts = sparse.csr_matrix((np.ones(n_cells, np.float32), *places), shape=(n_cells, len(genes)))
    obs = pd.DataFrame(index=[f"cell_{i}" for i in range(n_cells)])
    for key in [setup["size_factor_key"], *(setup["continuous_covariate_keys"] or ())]:
        if key is not None:
            obs[key] = np.arange(1.0, n_cells + 1)
    for key, values in columns.items():
        codes = np.arange(n_cells) % len(values)
        obs[key] = pd.Categorical.from_codes(codes, categories=pd.Index(values, dtype=object))
    var = pd.DataFrame(index=pd.Index([str(gene) for gene in genes]))
    layer = setup.get("layer")
    return AnnData(X=counts, obs=obs, var=var) if layer is None else AnnData(obs=obs, var=var, layers={layer: counts})


def _say_how_many(registry: State, n_cells: int) -> None:
    field = registry[FIELD_REGISTRIES_KEY]["X"]
    field[STATE_REGISTRY_KEY]["n_obs"] = field[SUMMARY_STATS_KEY]["n_cells"] = n_cells


def _plain_history(history: dict[str, pd.DataFrame] | None) -> dict[str, pd.DataFrame] | None:
    """Copy whose names are Python's strings: a pickle of pandas' own cannot be read by an older pandas."""
    if history is None:
        return None
    return {
        str(name): pd.DataFrame(
            table.to_numpy(),
            columns=pd.Index([str(column) for column in table.columns], dtype=object),
            index=pd.Index(table.index.to_numpy(), name=table.index.name),
        )
        for name, table in history.items()
    }


def _saved_cells(folder: Path, model: ScviFile) -> AnnData | None:
    """Cells saved with a model, unless they hold no counts; of an exported one, those that it was exported with."""
    file = folder / SAVE_KEYS.ADATA_FNAME
    if not file.is_file() or (model.mark is not None and not is_as_described(file, model.mark.get("cells"))):
        return None
    with blaming(file):
        adata = anndata.read_h5ad(file)
    if ADATA_MINIFY_TYPE_UNS_KEY in adata.uns:
        logger.info("%s is minified: it holds latent positions in place of counts, and is left out.", file)
        return None
    return adata


def _with_columns(
    file: ScviFile,
    settings: State,
    adata: AnnData | None,
    *,
    condition_key: str | None,
    labels_key: str | None,
) -> tuple[dict[str, list[Any]], State]:
    """Categories by field, and arguments of ``setup_anndata``, with the columns that SCVI did not know."""
    known, setup = dict(file.categories), {**file.setup, "condition_key": condition_key}
    if labels_key not in (None, setup["labels_key"]):
        if setup["labels_key"] is not None or settings["dispersion"] == "gene-label":
            raise DeltaviError(
                f"The model was trained with the labels of obs[{setup['labels_key']!r}]; labels_key cannot be "
                f"{labels_key!r}."
            )
        known["labels"] = _categories_of(adata, labels_key)
        setup["labels_key"] = labels_key
    if condition_key is not None:
        if condition_key in (setup["labels_key"], setup["batch_key"]):
            raise DeltaviError(f"condition_key and another key are both {condition_key!r}: name a column for each.")
        known["condition"] = _categories_of(adata, condition_key)
    return known, setup


def _categories_of(adata: AnnData | None, key: str | None) -> list[Any]:
    if adata is None or key is None:
        raise DeltaviError(f"Without cells nothing is known of obs[{key!r}]: pass adata.")
    return used_categories(column(adata, key), key).tolist()  # type: ignore[no-any-return]
