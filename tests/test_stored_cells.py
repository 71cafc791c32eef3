"""Public functions given cells that are not in memory: they work, or say how to read the cells."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pytest
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset

from deltavi import get, metrics, perturbation, pl, pp, tl
from deltavi.errors import DeltaviError, InputDataError, NotHeldOutWarning
from deltavi.model import ACTINN, LABELVI, MIXVI, PPCA, SCGEN, VAE
from deltavi.testing import small_adata
from tests.model.conftest import QUIET

CONDITIONS: dict[str, Any] = {"control": "control", "perturbation": "stimulated"}
COLUMNS: dict[str, Any] = {"condition_key": "condition", "labels_key": "cell_type"}
SHORT: dict[str, Any] = {"max_epochs": 1, **QUIET}


@cache
def counted() -> AnnData:
    """Counts of two conditions of three types."""
    return small_adata()


@cache
def logged() -> AnnData:
    """Their logarithms, with those of a few cells as another condition and what a prediction has."""
    adata = counted().copy()
    pp.log_normalise(adata)
    adata.X = adata.layers.pop("log1p_cp10k")
    return adata


@cache
def trained() -> SCGEN:
    adata = counted().copy()
    SCGEN.setup_anndata(adata, **COLUMNS, batch_key="batch")
    model = SCGEN(adata, n_hidden=8, n_latent=2)
    model.train(**SHORT)
    return model


@cache
def predicted() -> AnnData:
    return trained().predict_perturbation(**CONDITIONS)


def unchanged(train: AnnData, query: AnnData, **_: Any) -> AnnData:
    """A method that predicts no change."""
    return query


def is_treated(adata: AnnData) -> Any:
    return np.asarray(adata.obs["condition"]) == "stimulated"


def baseline(adata: AnnData) -> perturbation.ShiftBaseline:
    return perturbation.ShiftBaseline(adata, **COLUMNS)


def halves(adata: AnnData) -> tuple[Any, Any]:
    """Treated cells, and the others, as views of cells that are not in memory."""
    treated = is_treated(adata)
    return adata[treated], adata[~treated]


COMPARED: dict[str, Callable[[AnnData], object]] = {
    "deg_overlap": lambda x: metrics.deg_overlap(x, logged(), control=logged()),
    "differential_genes": lambda x: metrics.differential_genes(logged(), x),
    "differential_overlap": lambda x: metrics.differential_overlap(x, logged(), control=logged()),
    "direction_accuracy": lambda x: metrics.direction_accuracy(logged(), x, control=logged(), genes=None),
    "e_distance": lambda x: metrics.e_distance(logged(), x),
    "energy_distance": lambda x: metrics.energy_distance(x, logged()),
    "explained": lambda x: metrics.explained(x, logged(), control=x, reference=x),
    "mmd": lambda x: metrics.mmd(x, logged()),
    "mse_delta": lambda x: metrics.mse_delta(x, logged(), control=logged()),
    "mse_of_means": lambda x: metrics.mse_of_means(x, logged()),
    "pearson_delta": lambda x: metrics.pearson_delta(logged(), logged(), control=x),
    "perturbation_discrimination": lambda x: metrics.perturbation_discrimination(
        x, {"stimulated": logged(), "other": x}, perturbation="stimulated", control=logged()
    ),
    "principal_axes": lambda x: metrics.principal_axes(x, n_components=3),
    "r2_of_means": lambda x: metrics.r2_of_means(x, logged()),
    "r2_of_variances": lambda x: metrics.r2_of_variances(logged(), x),
    "score_prediction": lambda x: metrics.score_prediction(*halves(x), control=logged(), reference=x),
    "signal_z": lambda x: metrics.signal_z(x, logged(), n_permutations=20),
    "squared_error": lambda x: metrics.squared_error(x, x, control=logged()),
    "top_differential_genes": lambda x: metrics.top_differential_genes(x, logged(), n=3),
    "variance_ratio": lambda x: metrics.variance_ratio(x, logged()),
    "zero_fraction": metrics.zero_fraction,
    "compare": lambda x: perturbation.compare({"a": x, "b": logged()}, x, logged(), reference=x),
    "baseline_predictions": lambda x: perturbation.baseline_predictions(x, halves(x)[1], **COLUMNS, **CONDITIONS),
    "ShiftBaseline": lambda x: perturbation.ShiftBaseline(x, **COLUMNS).predict_perturbation(
        halves(x)[1], **CONDITIONS
    ),
    "estimate_shift": lambda x: perturbation.estimate_shift(
        x.X, is_control=~is_treated(counted()), is_perturbed=is_treated(counted()), estimator="global"
    ),
    "reg_mean": lambda x: pl.reg_mean(*halves(x), control=logged(), show=False),
    "reg_var": lambda x: pl.reg_var(x, logged(), show=False),
    "prediction_umap": lambda x: pl.prediction_umap(halves(x)[1], halves(x)[0], logged(), show=False),
    "response_heatmap": lambda x: pl.response_heatmap(
        predicted(), halves(x)[0], control=halves(x)[1], labels_key="cell_type", show=False
    ),
    "response_intervals": lambda x: pl.response_intervals(
        predicted(), halves(x)[0], label="type_1", labels_key="cell_type", show=False
    ),
}
COUNTED: dict[str, Callable[[AnnData], object]] = {
    "canonical_conditions": lambda x: pp.canonical_conditions(x, "condition", control="control"),
    "highly_variable_genes": lambda x: pp.highly_variable_genes(x, n_top=20),
    "log_normalise": pp.log_normalise,
    "valid_cells": pp.valid_cells,
    "evaluate_perturbation": lambda x: tl.evaluate_perturbation(
        x, {"unchanged": unchanged}, control="control", hold_out=["type_1"], n_genes=20
    ),
    "predict_held_out": lambda x: tl.predict_held_out(
        x, label="type_1", **CONDITIONS, n_genes=20, max_epochs=1, train_kwargs=QUIET
    ),
    "responses": lambda x: tl.responses(x, condition_key="condition", control="control", context_keys="cell_type"),
    "differential_response": lambda x: tl.differential_response(x, responses(), "stimulated"),
    "load_query_data": lambda x: SCGEN.load_query_data(x, trained()).train(**SHORT),
    "predict_perturbation": lambda x: trained().predict_perturbation(x, **CONDITIONS),
    "predict_perturbation of a subset": lambda x: trained().predict_perturbation(halves(x)[1], **CONDITIONS),
    "predict_perturbations": lambda x: trained().predict_perturbations(x, control="control"),
    "get_latent_representation": lambda x: trained().get_latent_representation(x),
    "get_normalized_expression": lambda x: trained().get_normalized_expression(x),
    "get_elbo": lambda x: trained().get_elbo(x),
    "get_reconstruction_error": lambda x: trained().get_reconstruction_error(x),
    "batch_removal": lambda x: trained().batch_removal(x),
    "posterior_predictive_sample": lambda x: trained().posterior_predictive_sample(x),
    "differential_expression": lambda x: trained().differential_expression(x, groupby="condition"),
    **{f"setup_anndata of {cls.__name__}": cls.setup_anndata for cls in (VAE, SCGEN, PPCA)},
    **{
        f"setup_anndata of {cls.__name__}": lambda x, cls=cls: cls.setup_anndata(x, labels_key="cell_type")
        for cls in (LABELVI, MIXVI, ACTINN)
    },
}
PREDICTED: dict[str, Callable[[AnnData], object]] = {
    "changes": get.changes,
    "predictions": get.predictions,
    "provenance": get.provenance,
    "uncertainty": get.uncertainty,
    "weights": get.weights,
    "shift_weights": lambda x: pl.shift_weights(x, show=False),
    "response_heatmap": lambda x: pl.response_heatmap(x, labels_key="cell_type", show=False),
    "response_intervals": lambda x: pl.response_intervals(x, label="type_1", labels_key="cell_type", show=False),
}


@cache
def responses() -> Any:
    table = tl.responses(counted(), condition_key="condition", control="control", context_keys="cell_type")
    return perturbation.ResponseModel.fit(table)


# -- storage ---------------------------------------------------------------------------------------------------


def _sparse_dataset(path: Path) -> AnnData:
    group = zarr.open_group(path / "cells.zarr", mode="r")
    tables = {name: read_elem(group[name]) for name in ("obs", "var", "uns", "obsm", "varm")}
    x = group["X"]
    return AnnData(sparse_dataset(x) if isinstance(x, zarr.Group) else x[:], **tables)


def _lazy(path: Path) -> AnnData:
    pytest.importorskip("xarray")
    return anndata.experimental.read_lazy(path / "cells.h5ad")


OPENED: dict[str, Callable[[Path], AnnData]] = {
    "backed": lambda path: anndata.read_h5ad(path / "cells.h5ad", backed="r"),
    "lazy": _lazy,
    "zarr": _sparse_dataset,
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder with the file and the store of a kind of cells."""

    @cache
    def folder_of(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        cells: AnnData = globals()[kind]()
        with warnings.catch_warnings():
            # of anndata, about the format of its next release
            warnings.simplefilter("ignore")
            cells.write_h5ad(folder / "cells.h5ad")
            cells.write_zarr(folder / "cells.zarr")
        return folder

    return folder_of


# What is added to cells, or asked of a prediction, is not written to a file that was read lazily.
LAZY = ("canonical_conditions", "differential_response", *PREDICTED)
REFUSED = {
    *((name, "lazy") for name in LAZY if not name.startswith("response_")),
    *(("differential_expression", storage) for storage in OPENED),
}
KINDS = {"counted": COUNTED, "logged": COMPARED, "predicted": PREDICTED}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("storage", OPENED)
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, calls in KINDS.items() for name in calls])
def test_a_public_function_works_or_says_how_to_read_cells(
    kind: str, name: str, storage: str, stored: Callable[[str], Path]
) -> None:
    adata, call = OPENED[storage](stored(kind)), KINDS[kind][name]
    is_refused = (name, storage) in REFUSED
    with pytest.raises(DeltaviError, match=r"to_memory\(\)") if is_refused else nullcontext():
        found = call(adata)
        if isinstance(found, float):
            assert found == pytest.approx(call(globals()[kind]()), rel=1e-6, nan_ok=True)
    plt.close("all")


def test_a_file_that_is_gone_is_an_error_that_names_the_cells(tmp_path: Path) -> None:
    logged().write_h5ad(tmp_path / "cells.h5ad")
    adata = _lazy(tmp_path)
    (tmp_path / "cells.h5ad").unlink()
    with pytest.raises(InputDataError, match=r"real cannot be read \(FileNotFoundError.*gone, closed or damaged"):
        metrics.mse_of_means(logged(), adata)
    with pytest.raises(InputDataError, match="adata cannot be read"):
        tl.predict_held_out(adata, label="type_1", **CONDITIONS)


CELLS = {"AnnData", "Matrix", "Expression", "Cells", "Mapping[str, Cells]", "AnnData | pd.DataFrame"}


@pytest.mark.parametrize("module", [get, metrics, perturbation, pl, pp, tl], ids=lambda module: module.__name__)
def test_every_public_function_of_cells_is_among_them(module: Any) -> None:
    functions = [(name, getattr(module, name)) for name in module.__all__ if inspect.isfunction(getattr(module, name))]
    first = {name: next(iter(inspect.signature(function).parameters.values())) for name, function in functions}
    of_cells = {name for name, parameter in first.items() if str(parameter.annotation) in CELLS}
    # those that need another prediction, and read its record as the others do
    alike = {"prediction", "treated", "response_df", "response_notes"}
    assert of_cells - alike <= {name for calls in KINDS.values() for name in calls}


def test_the_way_to_hold_cells_out_can_be_followed_with_cells_in_a_file(stored: Callable[[str], Path]) -> None:
    adata = OPENED["backed"](stored("counted"))
    SCGEN.setup_anndata(adata, **COLUMNS)
    model = SCGEN(adata, n_hidden=8, n_latent=2)
    model.train(**SHORT)
    with pytest.warns(NotHeldOutWarning) as warned:
        model.predict_perturbation(adata, **CONDITIONS, labels="type_1")
    (own,) = [one for one in warned if issubclass(one.category, NotHeldOutWarning)]
    assert own.filename == __file__
    code = str(own.message).split("hold them out: ")[1].split(";")[0]
    assert "train(train_indices=np.flatnonzero(~measured))" in str(own.message)
    names: dict[str, Any] = {"adata": adata}
    exec(code, names)  # the line of the message
    SCGEN.setup_anndata(adata, **COLUMNS)
    again = SCGEN(adata, n_hidden=8, n_latent=2)
    again.train(train_indices=np.flatnonzero(~names["measured"]), **SHORT)
    again.predict_perturbation(adata, **CONDITIONS, labels="type_1")
