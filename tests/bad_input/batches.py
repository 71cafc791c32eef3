"""Rows 39 to 43: batches, and columns that change after setup."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from anndata import AnnData

from deltavi._errors import DeltaviError, InputDataWarning, UnseenCategoryWarning
from tests.bad_input.bench import N_CELLS, Bench, Case, assert_names, assert_same, refused, untouched, warned
from tests.bad_input.registry import NO_BATCHES, row
from tests.model.conftest import QUIET

# what a value of a column is called, and several
VALUES = {
    "batch": ("batch", "batches"),
    "cell_type": ("label", "labels"),
    "condition": ("condition", "conditions"),
}


def with_batch(case: Case, batch: Any, cells: Any = slice(None)) -> AnnData:
    adata = case.cells()
    values = adata.obs["batch"].astype(str).astype(object)
    values.iloc[cells] = batch
    adata.obs["batch"] = values
    return adata


def with_alike_batches(bench: Bench) -> Any:
    """The shared model, read from a file, with the weights of both batches replaced by their average."""
    case = bench.case
    case.trained.save(bench.folder / "model", overwrite=True)
    copy = case.load(bench.folder / "model")
    layer = copy.module.decoder.px_decoder.fc_layers[0][0]
    with torch.no_grad():
        of_batches = layer.weight[:, -2:]
        assert not torch.allclose(of_batches[:, 0], of_batches[:, 1])
        of_batches.copy_(of_batches.mean(1, keepdim=True).expand(-1, 2))
    return copy


def averaged(bench: Bench, batch: Any) -> None:
    """A batch that training never saw is warned of, once, and is the average of the known ones."""
    case, model, some = bench.case, bench.case.trained, [2, 9, 40, 41]
    n_cells, query = len(some), with_batch(case, batch, some)
    words = (
        "obs['batch'] holds 1 categories",
        f"for example {batch!r}",
        f"in {n_cells} cells",
        "average",
        "load_query",
    )
    with untouched(query):
        found = warned(lambda: model.impute(query), UnseenCategoryWarning, *words)
        answer = warned(lambda: case.ask(model, query), UnseenCategoryWarning, *words)
    assert np.isfinite(answer).all(axis=None)
    known = model.impute(case.cells())
    others = np.setdiff1d(np.arange(N_CELLS), some)
    np.testing.assert_array_equal(found[others], known[others])
    assert not np.allclose(found[some], known[some], rtol=1e-3)
    expected = with_alike_batches(bench).impute(case.cells())
    np.testing.assert_allclose(found[some], expected[some], rtol=1e-4)


@row(
    39,
    "a batch that training never saw, in cells to predict",
    "a warning; it is the average of the known ones, or is learned on request",
    without=NO_BATCHES,
)
def unseen_batch(bench: Bench) -> None:
    averaged(bench, "elsewhere")
    case, query = bench.case, with_batch(bench.case, "elsewhere")
    mapped = case.model_class.load_query_data(query, case.trained)
    mapped.train(max_epochs=1, batch_size=32, **QUIET)
    assert list(mapped._categories("batch")) == [*case.trained._categories("batch"), "elsewhere"]
    assert np.isfinite(case.ask(mapped)).all(axis=None)


@row(
    40,
    "the same where the batch is called 0 or nothing at all",
    "the same: names that are false are names",
    without=(NO_BATCHES),
)
def false_batch(bench: Bench) -> None:
    for batch in (0, "", False):
        averaged(bench, batch)


@row(41, "a batch for every cell", "a warning by the number of cells in a batch", without=NO_BATCHES)
def batch_of_every_cell(bench: Bench) -> None:
    case = bench.case
    adata = with_batch(case, [f"barcode {i}" for i in range(N_CELLS)])
    words = ("obs['batch']: 144 of 144 batches", "a single cell", "'barcode 0', ", " and 141 more")
    with untouched(adata, registered=True):
        warned(lambda: case.set_up(adata), InputDataWarning, *words, "batch_key")
    warned(lambda: case.model_class.load_query_data(adata.copy(), case.trained), InputDataWarning, "144 of 144")
    # half of the batches are no reason to worry
    case.set_up(with_batch(case, ["alone", "pair", "pair"], [0, 1, 2]))


def rotated(adata: AnnData, key: str, cells: Any) -> None:
    """Give `cells` another category that exists."""
    values = adata.obs[key].astype(str).to_numpy(dtype=object)
    names = sorted(set(values))
    values[cells] = [names[(names.index(value) + 1) % len(names)] for value in values[cells]]
    adata.obs[key] = values


def keys(case: Case) -> list[str]:
    return [case.setup[key] for key in ("labels_key", "condition_key", "batch_key") if key in case.setup]


@row(42, "labels, conditions or batches that are edited after setup", "an error that counts and names the cells")
def edited_after_setup(bench: Bench) -> None:
    case, wrong = bench.case, [1, 4, 6, 9]
    adata = case.cells()
    model = case.fitted(adata)
    before = case.ask(model)
    for key in keys(case):
        original = adata.obs[key].copy()
        rotated(adata, key, wrong)
        words = (f"obs['{key}'] was edited", "4 of 144 cells changed", "Undo the edit", "run setup_anndata again")
        for call in (lambda: case.ask(model), lambda: case.train(model)):
            message = refused(call, DeltaviError, *words, of=adata)
            assert_names(message, adata.obs_names, adata.obs_names[wrong])
        adata.obs[key] = original
    assert_same(case.ask(model), before)


@row(43, "a model loaded with its cells under swapped labels", "an error that counts and names the cells")
def swapped_on_loading(bench: Bench) -> None:
    case, folder = bench.case, bench.folder / "model"
    case.trained.save(folder)
    expected = case.ask(case.trained)
    for key in keys(case):
        adata = case.cells()
        names = adata.obs[key].astype(str)
        swap = dict(zip(sorted(set(names))[:2], sorted(set(names))[1::-1], strict=True))
        adata.obs[key] = names.replace(swap)
        wrong = adata.obs_names[names.isin(swap.keys())]
        words = (
            f"{len(wrong)} of 144 cells carry another {VALUES[key][0]} in obs['{key}']",
            f"Restore those {VALUES[key][1]}",
            "rename them",
        )
        assert_names(
            refused(lambda a=adata: case.load(folder, a), DeltaviError, *words, of=adata), adata.obs_names, wrong
        )
        # also where cells come in another order, with labels that are right
        mixed = case.cells()[np.random.default_rng(0).permutation(N_CELLS)].copy()
        assert_same(case.ask(case.load(folder, mixed)).loc[expected.index], expected, atol=1e-5)
        # other cells may carry any label
        adata.obs_names = "query-" + adata.obs_names
        case.load(folder, adata)
