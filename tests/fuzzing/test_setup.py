"""Whatever AnnData comes: a model can be made of it, or the error is one of ours and nothing was changed."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from anndata import AnnData
from hypothesis import HealthCheck, event, given, settings

from deltavi.errors import DeltaviError, DeltaviWarning
from deltavi.model import ACTINN, LABELVI, MIXVI, PPCA, SCGEN, VAE
from tests.determinism.snapshot import cells
from tests.fuzzing.strategies import Made, stories

SMALL: dict[str, Any] = {"n_hidden": 4, "n_latent": 2}
GROUPS = {"condition_key": "condition", "labels_key": "cell_type", "batch_key": "batch"}
MODELS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "VAE": (VAE, {**GROUPS, "size_factor_key": "size"}, SMALL),
    "covariates": (
        VAE,
        {"categorical_covariate_keys": ["batch", "cell_type"], "continuous_covariate_keys": ["size"]},
        SMALL,
    ),
    "SCGEN": (SCGEN, GROUPS, SMALL),
    "normal": (VAE, {"batch_key": "batch"}, {**SMALL, "gene_likelihood": "normal"}),
    "PPCA": (PPCA, {"condition_key": "condition", "labels_key": "cell_type"}, {"n_latent": 2}),
    "ACTINN": (ACTINN, {"labels_key": "cell_type", "size_factor_key": "size"}, {"n_hidden": 4, "n_networks": 2}),
    "LABELVI": (LABELVI, {**GROUPS, "unlabeled_category": "unknown"}, SMALL),
    "MIXVI": (MIXVI, {**GROUPS, "size_factor_key": "size"}, SMALL),
    "clusters": (MIXVI, {"batch_key": "batch"}, {**SMALL, "n_components": 3}),
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)
# anndata and pandas warn while such an AnnData is made
pytestmark = pytest.mark.filterwarnings("ignore")


def outcome(name: str, adata: AnnData) -> str:
    """ "made", or the class of the error of ours; any other error is a failure of the test."""
    model_class, setup, init = MODELS[name]
    try:
        model_class.setup_anndata(adata, **setup)
        model_class(adata, **init)
    except DeltaviError as error:
        return type(error).__name__
    return "made"


def foreign_warnings(caught: list[warnings.WarningMessage]) -> list[str]:
    """What others say of the data: not that something will change, nor, as anndata does of all, that names repeat."""
    spared = (DeltaviWarning, DeprecationWarning, FutureWarning, PendingDeprecationWarning)
    told = [f"{w.category.__name__}: {w.message}" for w in caught if not issubclass(w.category, spared)]
    return [message for message in told if "names are not unique" not in message]


@EVERY_MODEL
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(story=stories())
def test_a_model_is_made_or_the_error_is_ours(name: str, story: Made) -> None:
    adata = story.adata()
    before = cells(adata)
    keys = set(adata.obs) | set(adata.obsm) | set(adata.uns)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model_class, setup, init = MODELS[name]
        try:
            model_class.setup_anndata(adata, **setup)
        except DeltaviError as error:
            event(type(error).__name__)
            assert set(adata.obs) | set(adata.obsm) | set(adata.uns) == keys
        else:
            event("set up")
            try:
                model_class(adata, **init)
            except DeltaviError as error:
                event(f"not made: {type(error).__name__}")
    assert not foreign_warnings(caught)
    after = cells(adata)
    if story.stored == "view" and not adata.is_view:
        # documented: a view becomes an AnnData of its own
        after["kind"] = before["kind"]
    assert [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)] == []
    added = (set(adata.obs) | set(adata.obsm) | set(adata.uns)) - keys
    assert all(str(key).startswith("_scvi") for key in added)


@EVERY_MODEL
@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(story=stories())
def test_the_outcome_does_not_depend_on_storage(name: str, story: Made) -> None:
    expected = outcome(name, story.adata("C"))
    event(expected)
    for stored in story.formats[1:]:
        assert outcome(name, story.adata(stored)) == expected, stored


@EVERY_MODEL
@settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
@given(story=stories(sane=True))
def test_ordinary_cells_are_taken(name: str, story: Made) -> None:
    """What is refused above is not everything."""
    refused = "InputDataError"
    expected = {refused} if story.dtype == "object" or name in ("normal", "PPCA") else {"made"}
    assert outcome(name, story.adata()) in expected
