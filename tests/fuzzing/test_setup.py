"""Whatever AnnData comes: a model can be made of it, or the error is one of ours and nothing was changed."""

from __future__ import annotations

import warnings

import pytest
from anndata import AnnData
from hypothesis import HealthCheck, event, given, settings

from deltavi.errors import DeltaviError, DeltaviWarning
from tests.determinism.snapshot import cells
from tests.fuzzing.strategies import Made, stories
from tests.models import EVERY, MODELS

# other settings that read other columns, or another scale
FURTHER = ("Covariates", "SizeFactorAndCondition", "GaussianSCGEN", "LogisticRegression", "Clustering")
CASES = {
    name: EVERY[name].but(setup={"unlabeled_category": "unknown"} if EVERY[name].annotates else None)
    for name in (*MODELS, *FURTHER)
}
EVERY_MODEL = pytest.mark.parametrize("name", CASES)
# anndata and pandas warn while such an AnnData is made
pytestmark = pytest.mark.filterwarnings("ignore")


def outcome(name: str, adata: AnnData) -> str:
    """ "made", or the class of the error of ours; any other error is a failure of the test."""
    try:
        CASES[name].untrained(adata)
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
        case = CASES[name]
        try:
            case.model_class.setup_anndata(adata, **case.setup)
        except DeltaviError as error:
            event(type(error).__name__)
            assert set(adata.obs) | set(adata.obsm) | set(adata.uns) == keys
        else:
            event("set up")
            try:
                case.model_class(adata, **case.init)
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
    expected = {refused} if story.dtype == "object" or CASES[name].reads == "logs" else {"made"}
    assert outcome(name, story.adata()) in expected
