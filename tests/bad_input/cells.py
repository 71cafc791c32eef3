"""Rows 51 to 57: how many cells there are, and the order of steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback

from deltavi._errors import DeltaviError, LabelWarning, NotTrainedError
from tests.bad_input.bench import N_GENES, PERTURBATION, Bench, assert_same, refused, untouched
from tests.bad_input.registry import NO_EPOCHS, row
from tests.model.conftest import dense


@row(51, "no cell", "an empty answer with the columns of any other; an error where cells are to be learned from")
def no_cells(bench: Bench) -> None:
    case, model = bench.case, bench.case.trained
    none = case.cells()[:0].copy()
    refused(lambda: case.set_up(none), DeltaviError, "0 cells and 40 genes", of=none)
    with untouched(none):
        found = case.ask(model, none)
    some = case.ask(model)
    assert found.shape == (0, some.shape[1])
    assert list(found.columns) == list(some.columns)
    if not case.annotates:
        empty, full = (model.predict_perturbation(cells, **PERTURBATION) for cells in (none, None))
        assert empty.shape == (0, N_GENES)
        # how genes change on average is of no cells not known
        for table in ("obs", "layers", "obsm", "var", "uns"):
            assert list(getattr(empty, table)) == list(getattr(full, table))
        # text of no cells is of no type yet
        kinds = [[str(kind).replace("object", "str") for kind in answer.obs.dtypes] for answer in (empty, full)]
        assert kinds[0] == kinds[1]
        assert type(empty.X) is type(full.X)
        return
    for empty, full in (
        (model.predict(none), model.predict()),
        (model.get_novelty_scores(none), model.get_novelty_scores()),
    ):
        assert len(empty) == 0
        assert type(empty) is type(full)
        assert (
            np.array_equal(empty.to_frame().dtypes, full.to_frame().dtypes)
            if empty.ndim == 1
            else (empty.dtypes.equals(full.dtypes))
        )


@row(52, "a single cell to learn from", "an error with the number of cells, and the number needed")
def one_training_cell(bench: Bench) -> None:
    case = bench.case
    one = case.cells()[:1].copy()
    words = ("1 of 1 cells", "at least 2") if case.annotates else ("1 cells", "at least 3")
    refused(lambda: case.fitted(one), DeltaviError, *words, of=one, registered=True)
    if case.annotates:
        # of two labels
        two = case.cells()[[0, 2]].copy()
        assert two.obs["cell_type"].nunique() == 2
        with pytest.warns(LabelWarning, match="2 of 2 labels have a single cell"):
            refused(lambda: case.fitted(two), DeltaviError, "too few", "2 cells", of=two, registered=True)


class Sizes(Callback):
    """Cells of every mini-batch, by their number of rows."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(len(batch["X"]))


@row(
    53,
    "one cell more than mini-batches hold",
    "no mini-batch of one cell, which batch normalisation cannot take",
    without=NO_EPOCHS,
)
def one_cell_left_over(bench: Bench) -> None:
    case = bench.case
    adata = case.cells()[:65].copy()
    sizes = Sizes()
    model = case.untrained(adata)
    # 65 = 2 x 32 + 1
    case.train(model, train_size=1.0, batch_size=32, callbacks=[sizes], plan_kwargs={})
    assert sizes.seen
    assert min(sizes.seen) > 1
    parts = [model.train_indices, model.validation_indices, model.test_indices]
    assert sorted(np.concatenate(parts)) == list(range(65))
    assert len(model.train_indices) >= 62
    assert np.isfinite(case.ask(model)).all(axis=None)


@row(54, "a single cell to predict", "what it is among others")
def one_cell(bench: Bench) -> None:
    case, model, cells = bench.case, bench.case.trained, bench.case.cells()
    every = case.ask(model, cells)
    for position in case.answered(cells)[[0, 7, -1]]:
        one = cells[[position]].copy()
        for query in (one, cells[[position]]):
            with untouched(query):
                found = case.ask(model, query)
            assert_same(found, every.loc[one.obs_names], atol=1e-5)
    assert_same(case.ask(model, cells, batch_size=1), every, atol=1e-5)


@row(55, "a prediction before training", "an error that says to train")
def untrained(bench: Bench) -> None:
    case, adata = bench.case, bench.case.cells()
    model = case.untrained(adata)
    verbs: dict[str, dict[str, Any]] = {"get_latent_representation": {}}
    if case.annotates:
        verbs |= {"predict": {}, "get_novelty_scores": {}, "calibrate": {}}
    if case.name != "ACTINN":
        verbs |= {
            "predict_perturbation": PERTURBATION,
            "impute": {},
            "differential_expression": {"groupby": "condition"},
        }
        further = ("get_normalized_expression", "get_elbo", "get_marginal_ll", "get_reconstruction_error")
        verbs |= {verb: {} for verb in (*further, "posterior_predictive_sample", "get_likelihood_parameters")}
    if case.name == "PPCA":
        verbs |= {"log_likelihood": {}, "get_loadings": {}, "get_noise": {}, "sample": {"n": 3}}
    if case.name == "MIXVI":
        verbs["get_responsibilities"] = {}
    for verb, arguments in verbs.items():
        refused(lambda v=verb, a=arguments: getattr(model, v)(**a), NotTrainedError, "train", of=adata)


@row(
    56,
    "a reference that was never trained, to map cells onto",
    "an error that says to train",
    without={
        "ACTINN": "it takes no query: predict is all there is",
        "PPCA": "it takes no query: there is no batch to add",
    },
)
def untrained_reference(bench: Bench) -> None:
    case, query = bench.case, bench.case.cells()
    reference = case.untrained(case.cells())
    reference.save(bench.folder / "model")
    for given in (reference, bench.folder / "model"):
        call = lambda given=given: case.model_class.load_query_data(query, given)  # noqa: E731
        refused(call, NotTrainedError, "trained model", "train()", of=query)


@row(57, "no epochs at all", "an error", without=NO_EPOCHS)
def no_epochs(bench: Bench) -> None:
    case, adata = bench.case, bench.case.cells()
    model = case.untrained(adata)
    for epochs in (0, -1, 0.5):
        words = ("max_epochs must be a whole number of at least 1", f"not {epochs}")
        refused(lambda epochs=epochs: case.train(model, max_epochs=epochs), DeltaviError, *words, of=adata)
    assert not model.is_trained
    assert dense(adata.X).any()
