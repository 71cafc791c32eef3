"""Answers with a row for each cell, written to a file as they are computed: the bits of memory, or no file."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

from deltavi.errors import DeltaviError, FileWriteError, InputDataWarning, NotTrainedError
from deltavi.io import BlockFile
from deltavi.model import MIXVI, VAE
from deltavi.registry._batches import OrderedDataset
from deltavi.registry.stored_rows import CsrRows
from tests.io.test_write_faults import POSIX, short_files
from tests.model.conftest import dense, small_adata, train
from tests.model.screens import read
from tests.model.test_written import Screen, assert_bits, assert_same_answer, cells, files, fitted, in_place
from tests.models import MODELS, VARIANTS

SUFFIXES = ("h5ad", "zarr")
N = 150
# out of order
CHOSEN = [140, 3, 77, *range(20, 60)]
Memory = Callable[[Any], dict[str, Any]]


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are smaller than the cells asked for."""
    monkeypatch.setattr("deltavi.model._answers.CELLS_OF_BLOCK", 32)


def X(found: Any) -> dict[str, Any]:
    return {"X": np.asarray(found)}


def positions(key: str) -> Memory:
    """A latent position, and its variance if that was asked for."""
    return lambda found: {
        f"obsm {name}": array
        for name, array in zip((key, f"{key}_variance"), found if isinstance(found, tuple) else (found,), strict=False)
    }


def columns(found: pd.DataFrame | pd.Series) -> dict[str, Any]:
    return {f"obs {name}": values.to_numpy() for name, values in pd.DataFrame(found).items()}


def frame(key: str) -> Memory:
    return lambda found: {f"obsm {key}": found.to_numpy()}


CASES: list[tuple[str, str, dict[str, Any], Memory]] = [
    ("SCGEN", "impute", {}, X),
    ("PPCA", "impute", {"batch_size": 11}, X),
    ("VAE", "get_normalized_expression", {}, X),
    ("SCGEN", "get_normalized_expression", {"n_samples": 3, "batch_size": 7}, X),
    ("LABELVI", "get_normalized_expression", {"library_size": "latent"}, X),
    ("VAE", "get_normalized_expression", {"gene_list": ["g7", "g2", "g30"], "library_size": 1e4}, X),
    ("VAE", "get_normalized_expression", {"transform_batch": ["batch_1", "batch_2"]}, X),
    ("SCGEN", "get_latent_representation", {}, positions("X_scgen")),
    ("VAE", "get_latent_representation", {"give_mean": False}, positions("X_vae")),
    ("LABELVI", "get_latent_representation", {"return_dist": True, "batch_size": 9}, positions("X_labelvi")),
    ("ConditionalMIXVI", "get_latent_representation", {"of": "w"}, positions("X_mixvi_w")),
    ("MIXVI", "get_latent_representation", {"give_mean": False}, positions("X_mixvi")),
    ("ACTINN", "get_latent_representation", {}, positions("X_actinn")),
    ("PPCA", "get_latent_representation", {}, positions("X_ppca")),
    ("PPCA", "get_latent_representation", {"return_dist": True}, positions("X_ppca")),
    ("LABELVI", "predict", {}, columns),
    ("LABELVI", "predict", {"soft": True, "batch_size": 7}, frame("probabilities")),
    ("ACTINN", "predict", {"reject": 0.3}, columns),
    ("ACTINN", "predict", {"soft": True, "keep_observed": True}, frame("probabilities")),
    ("MIXVI", "predict", {"keep_observed": True}, columns),
    ("LABELVI", "get_novelty_scores", {}, columns),
    ("ACTINN", "get_novelty_scores", {}, columns),
    ("MIXVI", "get_responsibilities", {}, frame("responsibilities")),
]


def genes_of(name: str) -> list[str]:
    return [str(gene) for gene in fitted(name).gene_names]


def as_asked(name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """`asked` with the names of genes that the model has."""
    genes = genes_of(name)
    named = {"gene_list": [genes[int(gene[1:])] for gene in asked["gene_list"]]} if "gene_list" in asked else {}
    return {**asked, **named}


def entry_in(found: AnnData, place: str) -> Any:
    """Entry of a file, by its place as the cases name it."""
    part, _, key = place.partition(" ")
    values = getattr(found, part)[key] if key else found.X
    return values.to_numpy() if isinstance(values, pd.Series) else values


def assert_holds(found: AnnData, expected: dict[str, Any]) -> None:
    for place, values in expected.items():
        entry = entry_in(found, place)
        if values.dtype == object:
            assert isinstance(found.obs[place.removeprefix("obs ")].dtype, pd.CategoricalDtype)
            np.testing.assert_array_equal(entry.astype(str), values.astype(str), err_msg=place)
        else:
            assert_bits(entry, values, place)


# -- the same as in memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "verb", "asked", "memory"), CASES)
def test_a_file_holds_the_bits_of_memory(
    tmp_path: Path, name: str, verb: str, asked: dict[str, Any], memory: Memory
) -> None:
    model, options = fitted(name), as_asked(name, asked)
    query = {**MODELS, **VARIANTS}[name].on_its_scale(cells(N))
    for indices, suffix in ((None, "h5ad"), (CHOSEN, "zarr")):
        expected = getattr(model, verb)(query, indices=indices, **options)
        path = tmp_path / f"answer.{suffix}"
        assert getattr(model, verb)(query, indices=indices, path=path, **options) == path
        found = read(path)
        assert_holds(found, memory(expected))
        rows = np.arange(N) if indices is None else np.array(indices)
        assert list(found.obs_names) == list(query.obs_names[rows])
        assert list(found.obs["cell_type"]) == list(query.obs["cell_type"].iloc[rows])
        assert list(found.var_names) == options.get("gene_list", genes_of(name))
        assert found.uns["deltavi"]["verb"] == verb
        assert (found.X is None) == (memory is not X)
    assert {one.name for one in tmp_path.iterdir()} == {"answer.h5ad", "answer.zarr"}


@pytest.mark.parametrize(("name", "verb", "asked", "memory"), CASES)
def test_a_progress_bar_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, name: str, verb: str, asked: dict[str, Any], memory: Memory
) -> None:
    model, options = fitted(name), as_asked(name, asked)
    query = {**MODELS, **VARIANTS}[name].on_its_scale(cells(N))
    expected = getattr(model, verb)(query, **options)
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    found = getattr(model, verb)(query, progress=True, **options)
    assert f"{N}/{N}" in screen.getvalue()
    assert type(found) is type(expected)
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
    elif isinstance(expected, pd.Series):
        pd.testing.assert_series_equal(found, expected, check_exact=True)
    else:
        for place, values in memory(expected).items():
            assert_bits(memory(found)[place], values, place)


def test_no_bar_is_drawn_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    for path in (None, tmp_path / "imputed.h5ad"):
        fitted("SCGEN").impute(cells(N), path=path)
    assert "answering" not in screen.getvalue()


def test_single_draws_under_a_bar_are_those_without() -> None:
    ask = {"n_samples": 3, "return_mean": False}
    one, other = (fitted("VAE").get_normalized_expression(cells(N), progress=bar, **ask) for bar in (False, True))
    assert one.shape == (3, N, 40)
    np.testing.assert_array_equal(one, other)
    overall = [
        fitted("VAE").get_normalized_expression(cells(N), progress=bar, n_samples_overall=9) for bar in (0 > 1, 1 > 0)
    ]
    np.testing.assert_array_equal(*overall)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_corrected_cells_are_those_of_memory(tmp_path: Path, suffix: str) -> None:
    model = fitted("SCGEN")
    expected = model.batch_removal(seed=4)
    path = model.batch_removal(seed=4, path=tmp_path / f"corrected.{suffix}", batch_size=40)
    found = read(path)
    # as files give it back
    found.uns["deltavi"]["reference_batch"].index = expected.uns["deltavi"]["reference_batch"].index
    assert_same_answer(found, expected)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_attributions_are_those_of_memory(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = fitted("LABELVI"), {"indices": CHOSEN, "n_steps": 4, "batch_size": 16}
    expected = model.get_attributions(cells(N), **asked)
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    path = model.get_attributions(cells(N), path=tmp_path / f"why.{suffix}", progress=True, **asked)
    assert f"{len(CHOSEN)}/{len(CHOSEN)}" in screen.getvalue()
    assert_same_answer(read(path), expected)


def test_components_without_labels(tmp_path: Path) -> None:
    model = train(MIXVI, small_adata(), setup={"batch_key": "batch"}, n_components=3, n_hidden=16, n_latent=4)
    expected, shares = model.predict(), model.predict(soft=True)
    assert expected.name == "predicted"
    found = read(model.predict(path=tmp_path / "components.h5ad"))
    np.testing.assert_array_equal(found.obs["component"].astype(str), expected)
    assert_bits(found.obsm["responsibilities"], shares.to_numpy(), "responsibilities")
    assert list(found.uns["deltavi"]["components"]) == list(shares.columns)


def as_dense_file(folder: Path, found: AnnData) -> AnnData:
    found = found.copy()
    found.X = dense(found.X)
    found.write_h5ad(folder / "dense.h5ad")
    return ad.read_h5ad(folder / "dense.h5ad", backed="r")


def as_sparse_file(folder: Path, found: AnnData) -> AnnData:
    found.write_h5ad(folder / "sparse.h5ad")
    return ad.read_h5ad(folder / "sparse.h5ad", backed="r")


GIVEN: dict[str, Callable[[Path, AnnData], AnnData]] = {
    "dense in a file": as_dense_file,
    "sparse in a file": as_sparse_file,
    "view": lambda folder, found: found[:],
    "genes in another order": lambda folder, found: found[:, ::-1].copy(),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize(
    ("name", "verb", "memory"),
    [
        ("SCGEN", "impute", X),
        ("SCGEN", "get_normalized_expression", X),
        ("MIXVI", "get_latent_representation", positions("X_mixvi")),
        ("LABELVI", "predict", columns),
        ("PPCA", "get_latent_representation", positions("X_ppca")),
    ],
)
def test_cells_in_any_form_are_answered_to_a_file(
    tmp_path: Path, given: str, name: str, verb: str, memory: Memory
) -> None:
    model = fitted(name)
    query = GIVEN[given](tmp_path, MODELS[name].on_its_scale(cells(N)))
    expected = getattr(model, verb)(query)
    found = read(getattr(model, verb)(query, path=tmp_path / "answer.h5ad"))
    assert_holds(found, memory(expected))
    assert list(found.obs_names) == list(query.obs_names)
    if query.isbacked:
        assert query.file.is_open
        query.file.close()


@pytest.mark.parametrize("progress", [False, True])
@pytest.mark.parametrize(
    ("name", "verb"),
    [
        ("SCGEN", "get_normalized_expression"),
        ("VAE", "get_latent_representation"),
        ("LABELVI", "predict"),
        ("MIXVI", "get_responsibilities"),
    ],
)
def test_blocks_share_a_data_set_and_what_it_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, verb: str, progress: bool
) -> None:
    """Each block begins in the stretch of rows that the one before ended in."""
    query, read_rows, made = as_sparse_file(tmp_path, cells(N)), [], []
    plain_read, plain = CsrRows.read, OrderedDataset.__init__
    monkeypatch.setattr(CsrRows, "read", lambda self, rows, **how: read_rows.extend(rows) or plain_read(self, rows))
    monkeypatch.setattr(OrderedDataset, "__init__", lambda self, *a, **k: made.append(self) or plain(self, *a, **k))
    path = None if progress else tmp_path / "answer.h5ad"
    getattr(fitted(name), verb)(query, path=path, progress=progress, batch_size=8)
    query.file.close()
    assert len(made) == 1
    assert read_rows == [*range(N)]


def test_another_answer_has_a_data_set_of_its_own(tmp_path: Path) -> None:
    """What is read for one is not kept, so that changes of the cells reach the next."""
    model, query = fitted("SCGEN"), cells(N)
    first = model.get_latent_representation(query, path=tmp_path / "first.h5ad")
    query.X = query.X * 2
    second = model.get_latent_representation(query, path=tmp_path / "second.h5ad")
    assert (read(first).obsm["X_scgen"] != read(second).obsm["X_scgen"]).any(1).all()


@pytest.mark.parametrize("ask", [{"give_mean": False}, {"n_samples": 2}])
def test_draws_are_those_of_the_seed_each_time(tmp_path: Path, ask: dict[str, Any]) -> None:
    """Also where something else was drawn in between; another model draws other positions."""
    verb = "get_latent_representation" if "give_mean" in ask else "get_normalized_expression"
    found = []
    for place in range(2):
        np.random.random(place)
        path = getattr(fitted("VAE"), verb)(cells(N), path=tmp_path / f"{place}.h5ad", **ask)
        read_again = read(path)
        found.append(read_again.obsm["X_vae"] if verb == "get_latent_representation" else read_again.X)
    np.testing.assert_array_equal(*found)
    # draws of blocks differ from each other: the first cells again, as cells of the second block
    rows, query = np.r_[0:32, 0:32], cells(N)
    twice = AnnData(query.X[rows], obs=query.obs.iloc[rows].set_axis([f"cell {i}" for i in range(64)]), var=query.var)
    again = read(getattr(fitted("VAE"), verb)(twice, path=tmp_path / "twice.h5ad", batch_size=32, **ask))
    values = again.obsm["X_vae"] if verb == "get_latent_representation" else again.X
    assert not np.array_equal(values[:32], values[32:])


def test_names_of_probabilities_are_in_the_file(tmp_path: Path) -> None:
    model = fitted("LABELVI")
    found = read(model.predict(cells(N), path=tmp_path / "labels.h5ad"))
    soft = model.predict(cells(N), soft=True)
    assert list(found.uns["deltavi"]["labels"]) == list(soft.columns)
    frame_of = pd.DataFrame(found.obsm["probabilities"], found.obs_names, found.uns["deltavi"]["labels"])
    pd.testing.assert_frame_equal(frame_of, soft, check_exact=True, check_column_type=False, check_index_type=False)


def test_cells_without_counts_are_warned_of_once(tmp_path: Path) -> None:
    adata = small_adata()
    counts = dense(adata.X)
    counts[[2, 90]] = 0
    with pytest.warns(InputDataWarning, match="2 cells have no counts"):
        model = MODELS["ACTINN"].trained(AnnData(counts, obs=adata.obs, var=adata.var))
    with pytest.warns(InputDataWarning, match="2 cells have no counts") as caught:
        path = model.predict(path=tmp_path / "labels.h5ad")
    # others are of libraries, about what they will do
    own = [warning for warning in caught if issubclass(warning.category, InputDataWarning)]
    assert len(own) == 1
    assert own[0].filename == __file__
    assert set(read(path).obs["predicted"].iloc[[2, 90]]) == {"unassigned"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("verb", ["impute", "get_latent_representation", "predict"])
def test_no_cells_are_a_file_too(tmp_path: Path, verb: str, suffix: str) -> None:
    model, none = fitted("LABELVI"), cells()[:0].copy()
    found = read(getattr(model, verb)(none, path=tmp_path / f"none.{suffix}"))
    assert found.shape == (0, 40)
    assert "cell_type" in found.obs


def test_scanpy_reads_the_file(tmp_path: Path) -> None:
    model = fitted("SCGEN")
    path = model.get_latent_representation(cells(N), path=tmp_path / "latent.h5ad")
    found = sc.read_h5ad(path)
    table = sc.get.obs_df(found, keys=["cell_type"], obsm_keys=[("X_scgen", 1)])
    np.testing.assert_array_equal(table["X_scgen-1"], model.get_latent_representation(cells(N))[:, 1])
    imputed = model.impute(cells(N), path=tmp_path / "imputed.h5ad")
    backed = ad.read_h5ad(imputed, backed="r")
    np.testing.assert_array_equal(backed.X[10:20], model.impute(cells(N))[10:20])
    backed.file.close()


def test_cells_of_the_model_keep_what_is_told_of_their_genes(tmp_path: Path) -> None:
    adata = small_adata()
    adata.var["symbol"] = [f"symbol {i}" for i in range(adata.n_vars)]
    model = train(VAE, adata, n_hidden=16, n_latent=4)
    genes = [str(adata.var_names[i]) for i in (5, 1)]
    found = read(model.get_normalized_expression(gene_list=genes, path=tmp_path / "expression.h5ad"))
    assert list(found.var["symbol"]) == ["symbol 5", "symbol 1"]
    assert not [name for name in found.obs if name.startswith("_scvi")]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.filterwarnings("ignore:.*genes of the model are missing")
def test_a_query_keeps_what_is_told_of_its_genes(tmp_path: Path, suffix: str) -> None:
    """In the order of the model, and missing for genes that the query does not have."""
    query = cells(N)[:, ::-1][:, :35].copy()
    query.var["symbol"] = [f"symbol of {name}" for name in query.var_names]
    query.var["chosen"] = query.var_names == query.var_names[3]
    found = read(fitted("SCGEN").impute(query, path=tmp_path / f"imputed.{suffix}"))
    assert list(found.var_names) == genes_of("SCGEN")
    told = found.var["symbol"].astype(object).where(found.var["symbol"].notna(), None)
    assert list(told) == [f"symbol of {name}" if name in query.var_names else None for name in found.var_names]
    assert found.var["chosen"].astype(str).isin(["True", "1.0"]).sum() == 1


# -- what makes no sense -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "asked", "message"),
    [
        ("impute", {"path": "answer.csv"}, r"path must end in \.h5ad or \.zarr"),
        ("impute", {"path": ""}, "path is '', which names nothing"),
        ("impute", {"path": 3}, "path must be a path"),
        ("predict", {"path": "answer.h5ad", "overwrite": "yes"}, "overwrite must be True or False"),
        ("predict", {"progress": "yes"}, "progress must be True or False"),
        ("predict", {"path": "answer.h5ad", "soft": True, "reject": 0.1}, "ask for soft=True alone"),
        ("predict", {"path": "no such folder/answer.h5ad"}, "no folder"),
        ("get_latent_representation", {"path": "answer.h5ad", "dataloader": []}, "leave out .*path"),
        ("get_normalized_expression", {"path": "answer.h5ad", "dataloader": []}, "leave out .*path"),
        (
            "get_normalized_expression",
            {"path": "answer.h5ad", "n_samples_overall": 5},
            "n_samples_overall draws over all",
        ),
        (
            "get_normalized_expression",
            {"path": "a.h5ad", "n_samples": 5, "return_mean": False},
            "gives 5: leave it out",
        ),
        ("get_novelty_scores", {"path": "answer.h5ad", "indices": [10_000]}, "indices"),
        ("get_normalized_expression", {"path": "answer.h5ad", "gene_list": ["no gene"]}, "no gene"),
    ],
)
def test_questions_that_make_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, asked: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    query = {} if "dataloader" in asked else {"adata": cells(N)}
    with pytest.raises(DeltaviError, match=message):
        getattr(fitted("LABELVI"), verb)(**query, **asked)
    assert not list(tmp_path.iterdir())


def test_an_untrained_model_writes_nothing(tmp_path: Path) -> None:
    model = MODELS["SCGEN"].untrained(small_adata())
    for verb in ("impute", "get_latent_representation", "get_normalized_expression", "batch_removal"):
        with pytest.raises(NotTrainedError):
            getattr(model, verb)(path=tmp_path / "answer.h5ad")
    assert not list(tmp_path.iterdir())


VERBS = {
    "impute": "SCGEN",
    "batch_removal": "SCGEN",
    "get_normalized_expression": "SCGEN",
    "get_latent_representation": "SCGEN",
    "predict": "LABELVI",
    "get_attributions": "LABELVI",
    "get_novelty_scores": "LABELVI",
    "get_responsibilities": "MIXVI",
}


# -- files that cannot be written ----------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "suffix"), [*((verb, "h5ad") for verb in VERBS), ("impute", "zarr")])
def test_a_file_that_exists_is_kept_unless_it_may_be_replaced(tmp_path: Path, verb: str, suffix: str) -> None:
    model, asked = fitted(VERBS[verb]), {"path": tmp_path / f"answer.{suffix}"}
    getattr(model, verb)(cells(30), **asked)
    before = files(tmp_path)
    with pytest.raises(DeltaviError, match="exists; pass overwrite=True to replace it"):
        getattr(model, verb)(cells(40), **asked)
    assert files(tmp_path) == before
    getattr(model, verb)(cells(40), overwrite=True, **asked)
    assert read(asked["path"]).n_obs == 40
    assert [one.name for one in tmp_path.iterdir()] == [f"answer.{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("verb", VERBS)
def test_cells_that_are_read_are_not_replaced(tmp_path: Path, verb: str, suffix: str) -> None:
    source = tmp_path / f"cells.{suffix}"
    query = in_place(source)
    before = files(tmp_path)
    # of some genes, which are a copy in memory once they are matched
    for asked in (query, query[:40, :30]):
        with pytest.raises(DeltaviError, match="holds the cells that are read, and would be replaced"):
            getattr(fitted(VERBS[verb]), verb)(asked, path=source, overwrite=True)
    assert files(tmp_path) == before
    if query.isbacked:
        query.file.close()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("suffix", "fault"), [("h5ad", "interrupted"), ("zarr", "full")])
def test_a_failure_half_way_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, suffix: str, fault: str
) -> None:
    model, path = fitted(VERBS[verb]), tmp_path / f"answer.{suffix}"
    asked: dict[str, Any] = {"path": path, "overwrite": True, "batch_size": 20}
    if suffix == "zarr":
        getattr(model, verb)(cells(10), **asked)
    before, plain, blocks = files(tmp_path), BlockFile.add_rows, []

    def add_rows(self: BlockFile, *rows: Any) -> None:
        blocks.append(rows)
        if len(blocks) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if fault == "full" else KeyboardInterrupt
        plain(self, *rows)

    state = np.random.get_state()[1].copy()  # type: ignore[union-attr, index]
    monkeypatch.setattr(BlockFile, "add_rows", add_rows)
    with pytest.raises(FileWriteError if fault == "full" else KeyboardInterrupt):
        getattr(model, verb)(cells(N), **asked)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]
    assert files(tmp_path) == before
    assert set(tmp_path.iterdir()) == ({path} if before else set())
    monkeypatch.setattr(BlockFile, "add_rows", plain)
    getattr(model, verb)(cells(N), **asked)
    assert read(path).n_obs == N


@POSIX
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_limit_of_the_system_is_said_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(FileWriteError, match="File too large"), short_files(5000):
        fitted("SCGEN").impute(cells(N), path=tmp_path / f"imputed.{suffix}")
    assert not list(tmp_path.iterdir())


@POSIX
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_is_really_full(tmp_path: Path, suffix: str) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)]
    call: Callable[..., Any] = subprocess.run
    if shutil.which("mount") is None or call(mount, capture_output=True).returncode:
        pytest.skip("only an administrator may mount a small disk")
    try:
        model, path = fitted("SCGEN"), mounted / f"imputed.{suffix}"
        model.impute(cells(20), path=path)
        before = files(mounted)
        with pytest.raises(FileWriteError, match="No space left"):
            model.impute(cells(9000), path=path, overwrite=True)
        assert files(mounted) == before
        model.impute(cells(21), path=path, overwrite=True)
        assert read(path).n_obs == 21
    finally:
        call(["umount", str(mounted)], check=True)


# -- memory --------------------------------------------------------------------------------------------------

# The peak of the process after few cells, and after many.
GROWTH = """
import json, resource, sys
import anndata as ad, numpy as np, pandas as pd
from scipy import sparse
from tests.models import MODELS
folder, verbs, sizes, n_genes = sys.argv[1], sys.argv[2].split(), (4000, 16000), 1000
rng = np.random.default_rng(0)
row = sparse.random_array((1000, n_genes), density=0.05, rng=rng, dtype=np.float32, format="csr")
row.data = np.ceil(row.data * 5)
obs = pd.DataFrame({"cell_type": np.resize(["a", "b"], 1000), "batch": np.resize(["x", "y"], 1000)})
obs["condition"], obs["total_counts"] = np.resize(["control"] * 3 + ["stimulated"] * 3, 1000), row.sum(1)
obs.index = obs.index.astype(str)
model = MODELS["LABELVI"].trained(ad.AnnData(sparse.csr_matrix(row), obs=obs))
files = []
for n in (1000, *sizes):
    many = obs.iloc[np.resize(np.arange(1000), n)].set_axis([str(i) for i in range(n)])
    cells = ad.AnnData(sparse.csr_matrix(sparse.vstack([row] * (n // 1000))), obs=many)
    cells.write_h5ad(f"{folder}/{n}.h5ad")
    files.append(f"{folder}/{n}.h5ad")
    del cells
found = {}
for verb in verbs:
    peaks = []
    for file in files:
        query = ad.read_h5ad(file, backed="r")
        getattr(model, verb)(query, path=f"{folder}/answer.h5ad", overwrite=True)
        query.file.close()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    found[verb] = peaks
print(json.dumps(found))
"""


@POSIX
@pytest.mark.slow
def test_memory_of_a_process_does_not_grow_by_the_answers(tmp_path: Path) -> None:
    verbs = ["get_latent_representation", "predict", "get_novelty_scores", "get_normalized_expression", "impute"]
    call: Callable[..., Any] = subprocess.run
    done = call(
        [sys.executable, "-W", "ignore", "-c", GROWTH, str(tmp_path), " ".join(verbs)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    peaks = json.loads(done.stdout.splitlines()[-1])
    for verb in verbs:
        few, many = peaks[verb][1:]
        # in memory 12,000 cells more are 46 MB of expression; obs, its text and what the system keeps are some 10
        assert many - few < 20, peaks
