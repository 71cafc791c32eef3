"""Models as declarations: stages of training, parts that are kept, and shifts of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from lightning.pytorch.callbacks import Callback

from deltavi.errors import DeltaviError, UnknownCategoryError
from deltavi.model import MIXVI, SCGEN, VAE
from deltavi.model._base import CountModel
from deltavi.model.recipe import Part, Recipe, Stage
from deltavi.perturbation.estimators import ESTIMATORS, Evidence, Shift
from deltavi.train import CellSplit
from tests.model.conftest import QUIET, SETUP, dense, small_adata, train
from tests.models import MODELS

SMALL = {"n_hidden": 8, "n_latent": 2}


def declared(**kwargs: Any) -> type[VAE]:
    """A VAE with a recipe or parts of its own."""
    return type("Declared", (VAE,), kwargs)


def fitted(cls: type[VAE], adata: AnnData | None = None, *, epochs: int = 4) -> VAE:
    return train(cls, small_adata() if adata is None else adata, epochs=epochs, **SMALL)


# -- stages ------------------------------------------------------------------------------------------------------------


def test_stages_are_entered_in_their_epoch_with_the_cells_of_the_split() -> None:
    entered: list[tuple[str, int, int]] = []
    epochs: list[int] = []

    class Clock(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            epochs.append(trainer.current_epoch)

    def stage(name: str, start: int | None, is_due: bool = True) -> Stage[VAE]:
        def enter(model: VAE, split: CellSplit) -> None:
            assert model.module.training
            entered.append((name, epochs[-1], len(split.train)))

        return Stage(lambda model, n: start, enter, lambda model: is_due)

    stages = (stage("second", 2), stage("first", 1), stage("left out", None), stage("done", 1, is_due=False))
    cls = declared(recipe=Recipe(stages=stages))
    cls.setup_anndata(adata := small_adata(), **SETUP)
    model = cls(adata, **SMALL)
    model.train(max_epochs=4, batch_size=32, callbacks=Clock(), **QUIET)
    n_train = len(model.train_indices)
    assert entered == [("first", 1, n_train), ("second", 2, n_train)]


def test_early_stopping_waits_for_the_last_stage() -> None:
    stages = tuple(Stage(lambda model, n, at=at: at, lambda model, split: None) for at in (3, 5, 1))
    cls = declared(recipe=Recipe(stages=stages))
    cls.setup_anndata(adata := small_adata(), **SETUP)
    model = cls(adata, **SMALL)
    model.train(max_epochs=8, batch_size=32, kl_warmup=0.25, early_stopping=True, **QUIET)
    assert model.trainer.early_stopping_callback.warmup_epochs == 5


def test_a_recipe_says_how_many_epochs_which_plan_and_which_cells() -> None:
    half = Recipe(
        plan=lambda model: {"lr": 0.123, "lr_schedule": "constant"},
        epochs=lambda model, batch_size: 144 // batch_size,
        split=lambda model, **options: CellSplit(np.arange(96), np.arange(96, 112), np.arange(112, 144)),
        begin=lambda model, split: setattr(model, "seen", split.train),
    )
    cls = declared(recipe=half)
    cls.setup_anndata(adata := small_adata(), **SETUP)
    model = cls(adata, **SMALL)
    model.train(batch_size=48, **QUIET)
    assert len(model.history["train_loss"]) == 3
    assert model.trainer.optimizers[0].param_groups[0]["lr"] == 0.123
    np.testing.assert_array_equal(model.train_indices, np.arange(96))
    np.testing.assert_array_equal(model.seen, np.arange(96))


def test_a_mixture_is_placed_before_labels_are_dropped() -> None:
    adata = small_adata()
    MIXVI.setup_anndata(adata, labels_key="cell_type")
    model = MIXVI(adata, **SMALL)
    place, drop = model.recipe.stages
    assert place.starts(model, 10) == 3
    assert drop.starts(model, 10) is None
    for share, expected in ((0.1, 4), (0.6, 6), (1.0, 10)):
        MIXVI.setup_anndata(adata, labels_key="cell_type")
        released = MIXVI(adata, drop_labels_after=share, **SMALL)
        assert drop.starts(released, 10) == expected
        assert released.recipe.settled_from(released, 10) == expected


# -- parts -------------------------------------------------------------------------------------------------------------


def part(name: str, calls: list[str], *, fits: bool = True) -> Part[Any]:
    def fit(model: Any) -> None:
        calls.append(f"fit {name} over {getattr(model, name)}")
        setattr(model, name, model.adata.n_obs)

    return Part(
        name,
        fit=fit if fits else None,
        saved=lambda model: {f"of {name}": getattr(model, name)},
        restore=lambda model, extra: setattr(model, name, extra[f"of {name}"]),
        mapped=lambda model, reference: setattr(model, name, f"of a reference of {reference.adata.n_obs}"),
    )


def test_parts_are_fitted_in_order_saved_restored_and_mapped(tmp_path: Path) -> None:
    calls: list[str] = []
    first, kept = part("first", calls), part("kept", calls, fits=False)
    cls = declared(keeps=(*VAE.keeps, first, kept), first=None, kept="learned before")
    model = fitted(cls)
    assert calls == ["fit first over None"]
    assert (model.first, model.kept) == (144, "learned before")
    # of other weights it would be something old: nothing is there while it is fitted anew
    model.train(max_epochs=1, batch_size=32, **QUIET)
    assert calls == ["fit first over None"] * 2
    model.save(tmp_path / "model")
    again = cls.load(tmp_path / "model")
    assert (again.first, again.kept) == (144, "learned before")
    assert again.training_means is not None
    mapped = cls.load_query_data(small_adata(seed=1), model)
    assert mapped.first == mapped.kept == "of a reference of 144"


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_declared_on_the_one_base(name: str) -> None:
    cls = MODELS[name].model_class
    assert issubclass(cls, CountModel)
    assert isinstance(cls.recipe, Recipe)
    assert all(isinstance(kept, Part) for kept in cls.keeps)
    # each has a place on the class for the time before it is fitted
    assert all(getattr(cls, kept.name) is None for kept in cls.keeps)


# -- shifts ------------------------------------------------------------------------------------------------------------

ASK = {"control": "control", "perturbation": "stimulated"}


def test_a_function_of_the_evidence_is_a_shift(trained: SCGEN) -> None:
    seen: list[Evidence] = []

    def halfway(evidence: Evidence) -> Shift:
        seen.append(evidence)
        full = ESTIMATORS["paired"](evidence)
        return Shift(0.5 * full.vector, "halfway", weights=full.weights, n_control=full.n_control)

    found = trained.predict_perturbation(shift=halfway, shift_scale=1.0, **ASK)
    whole = trained.predict_perturbation(shift="paired", shift_scale=1.0, **ASK)
    start = whole.obsm["X_deltavi_control"]
    np.testing.assert_allclose(found.obsm["X_deltavi"] - start, 0.5 * (whole.obsm["X_deltavi"] - start), atol=1e-5)
    assert found.uns["deltavi"]["shift"] == "halfway"
    assert {len(evidence.control.labels) for evidence in seen} == {3}
    assert len(seen) == len(set(found.obs["cell_type"]))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda evidence: 3, "returned 3: an estimator takes deltavi.perturbation.Evidence"),
        (lambda evidence: evidence.control.means[0], "an estimator takes"),
        (lambda evidence: Shift(np.ones(3), "short"), "3"),
        (lambda evidence: Shift(np.full(4, np.nan), "holes"), "finite"),
    ],
)
def test_what_is_no_shift_is_refused(trained: SCGEN, function: Any, words: str) -> None:
    with pytest.raises(DeltaviError, match=words):
        trained.predict_perturbation(shift=function, **ASK)


def test_an_estimator_by_name_or_as_a_function_is_the_same(trained: SCGEN) -> None:
    options = {"shift_scale": 1.0, "empirical_weight": 0.0, **ASK}
    named = trained.predict_perturbation(shift="similarity", **options)
    given = trained.predict_perturbation(shift=ESTIMATORS["similarity"], **options)
    np.testing.assert_array_equal(dense(named.X), dense(given.X))


def test_a_condition_is_its_name_and_its_code(trained: SCGEN) -> None:
    condition = trained._condition("stimulated")
    assert (condition.name, condition.parts, condition.code) == ("stimulated", ("stimulated",), 1)
    with pytest.raises(UnknownCategoryError, match=r"'stimulatde'.*'stimulated'"):
        trained._condition("stimulatde")
