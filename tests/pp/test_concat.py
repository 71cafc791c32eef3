"""Several files as one AnnData: the cells that anndata joins in memory, read from the files."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, InputDataWarning, UnknownArgumentError
from deltavi.model import VAE
from deltavi.pp import concat_lazy
from deltavi.registry import joined
from deltavi.registry.chunks import DaskMatrix, rowwise
from deltavi.registry.joined import JoinedMatrix
from deltavi.registry.stored_rows import places_of
from deltavi.train._streamed import StreamedLoader
from tests.train.test_streamed import assert_same_model, cells, fitted


def halves(*, drop: int = 3) -> tuple[AnnData, AnnData]:
    """Two parts of cells with names of their own; the second lacks some genes, and has others and another order."""
    whole = cells()
    whole.obs_names = [f"cell{i}" for i in range(whole.n_obs)]
    del whole.obs["total"]
    whole.layers["counts"] = whole.X.copy()
    one, two = whole[:120].copy(), whole[120:].copy()
    two.obs["only_here"] = "x"
    two = two[:, np.random.default_rng(0).permutation(two.n_vars)[drop:]].copy()
    return one, two


def files(folder: Path, *parts: AnnData) -> list[Path]:
    """The parts in files, an h5ad file and Zarr stores in turn."""
    found = []
    for number, part in enumerate(parts):
        path = folder / f"part{number}.{('h5ad', 'zarr')[number % 2]}"
        with warnings.catch_warnings():
            # of anndata, about the format of its next release
            warnings.simplefilter("ignore")
            (part.write_zarr if path.suffix == ".zarr" else part.write_h5ad)(path)
        found.append(path)
    return found


def in_full(x: Any) -> np.ndarray:
    x = x.compute() if hasattr(x, "compute") else x
    return np.asarray(x.toarray() if sparse.issparse(x) else x)


# -- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_files_are_joined_as_anndata_joins_cells_in_memory(join: Any, tmp_path: Path) -> None:
    parts = halves()
    paths = files(tmp_path, *parts)
    options: dict[str, Any] = {"join": join, "label": "file", "index_unique": "-"}
    expected = ad.concat(dict(zip("ab", parts, strict=True)), fill_value=0, **options)
    found = concat_lazy(dict(zip("ab", paths, strict=True)), **options)
    np.testing.assert_array_equal(found.obs_names, expected.obs_names)
    np.testing.assert_array_equal(found.var_names, expected.var_names)
    assert set(found.obs) == set(expected.obs)
    for key in expected.obs:
        assert list(map(str, found.obs[key])) == list(map(str, expected.obs[key])), key
    # anndata may list X among them, under no name
    assert set(found.layers) - {None} == {"counts"}
    for x, wanted in ((found.X, expected.X), (found.layers["counts"], expected.layers["counts"])):
        assert isinstance(rowwise(x), JoinedMatrix)
        assert x.dtype == wanted.dtype
        np.testing.assert_array_equal(in_full(x), in_full(wanted))
        np.testing.assert_array_equal(in_full(rowwise(x)[:]), in_full(wanted))
        np.testing.assert_array_equal(in_full(x[115:125].compute()), in_full(wanted)[115:125])
    assert places_of(found) == set(paths)


def test_dense_files_and_whole_numbers(tmp_path: Path) -> None:
    one, two = halves()
    one.X, two.X = one.X.toarray().astype(np.int64), two.X.toarray()
    found = concat_lazy(files(tmp_path, one, two))
    expected = ad.concat([one, two])
    np.testing.assert_array_equal(in_full(found.X), expected.X)
    np.testing.assert_array_equal(rowwise(found.X)[np.array([3, 200])], expected.X[[3, 200]])
    two.X = sparse.csr_matrix(two.X)
    found = concat_lazy(files(tmp_path, one, two))
    np.testing.assert_array_equal(in_full(found.X), expected.X)
    np.testing.assert_array_equal(in_full(rowwise(found.X)[:]), expected.X)


def test_a_chunk_opens_its_own_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = files(tmp_path, *halves())
    found = concat_lazy(paths)
    asked: list[Path] = []
    opened = joined.opened
    monkeypatch.setattr(joined, "opened", lambda path, element: asked.append(path) or opened(path, element))
    found.X[130:140].compute()
    assert asked == [paths[1]]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[AnnData, np.ndarray]:
    """Files of several chunks each, the last of them short, and their values."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("long")
    parts = [AnnData(sparse.csr_matrix(rng.poisson(1.0, (n, 6)).astype(np.float32))) for n in (2500, 1300)]
    for number, part in enumerate(parts):
        part.obs_names = [f"{number}-{i}" for i in range(part.n_obs)]
    return concat_lazy(files(folder, *parts)), np.concatenate([part.X.toarray() for part in parts])


def test_files_have_several_chunks_each(long: tuple[AnnData, np.ndarray]) -> None:
    found, values = long
    assert found.X.chunks == ((1000, 1000, 500, 1000, 300), (6,))
    np.testing.assert_array_equal(in_full(found.X), values)


CHUNKS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "the first": (lambda x: x.blocks[0], lambda x: x[:1000]),
    "in another order": (
        lambda x: x.blocks[[2, 1, 0]],
        lambda x: np.concatenate([x[2000:2500], x[1000:2000], x[:1000]]),
    ),
    "all in another order": (
        lambda x: x.blocks[[1, 0, 2, 3, 4]],
        lambda x: np.concatenate([x[1000:2000], x[:1000], x[2000:]]),
    ),
    "of one file": (lambda x: x.blocks[[0, 1, 2]], lambda x: x[:2500]),
    "without some": (lambda x: x.blocks[[0, 2, 3]], lambda x: np.concatenate([x[:1000], x[2000:3500]])),
    "rows of the first": (lambda x: x[:1000], lambda x: x[:1000]),
    "rows within": (lambda x: x[900:2600], lambda x: x[900:2600]),
}


@pytest.mark.parametrize("chosen", CHUNKS)
def test_some_chunks_of_files_are_those_rows(chosen: str, long: tuple[AnnData, np.ndarray]) -> None:
    found, values = long
    choose, expected = CHUNKS[chosen]
    x = choose(found.X)
    np.testing.assert_array_equal(in_full(rowwise(x)[:]), expected(values))
    np.testing.assert_array_equal(in_full(x), expected(values))


# -- models ------------------------------------------------------------------------------------------------------


def test_a_model_of_files_is_that_of_the_cells_in_memory(tmp_path: Path) -> None:
    parts = halves()
    paths = files(tmp_path, *parts)
    setup = {"batch_key": "file"}
    memory = ad.concat(dict(zip("ab", parts, strict=True)), label="file")
    named = dict(zip("ab", paths, strict=True))
    found = fitted(concat_lazy(named, label="file"), streamed=False, setup=setup)
    assert_same_model(found, fitted(memory, streamed=False, setup=setup))
    np.testing.assert_array_equal(found.get_latent_representation(memory), found.get_latent_representation())
    streamed = fitted(concat_lazy(named, label="file"), setup=setup)
    assert isinstance(streamed.trainer.train_dataloader, StreamedLoader)
    assert torch.isfinite(torch.as_tensor(streamed.get_latent_representation())).all()


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_files_read_lazily_and_joined_by_anndata(join: Any, tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    parts = halves()
    lazy = [ad.experimental.read_lazy(path) for path in files(tmp_path, *parts)]
    found = ad.concat(lazy, join=join)
    assert isinstance(rowwise(found.X), DaskMatrix)
    expected = ad.concat(parts, join=join, fill_value=0)
    setup = {"labels_key": "label"}
    model = fitted(found, streamed=False, setup=setup)
    assert_same_model(model, fitted(expected, streamed=False, setup=setup))
    assert isinstance(fitted(found, setup=setup).trainer.train_dataloader, StreamedLoader)


# -- files that change -------------------------------------------------------------------------------------------


def written_again(path: Path, part: AnnData) -> None:
    """`part` in place of a file or store that is there."""
    with warnings.catch_warnings():
        # of anndata, about the format of its next release
        warnings.simplefilter("ignore")
        (part.write_zarr if path.suffix == ".zarr" else part.write_h5ad)(path)


@pytest.mark.parametrize("number", [0, 1])
def test_a_file_written_again_behind_chosen_genes_is_an_error(number: int, tmp_path: Path) -> None:
    parts = halves()
    paths = files(tmp_path, *parts)
    chosen = concat_lazy(paths)[:, :20].copy()
    assert isinstance(rowwise(chosen.X), DaskMatrix)
    model = fitted(chosen, streamed=False, setup={})
    before = model.get_latent_representation()
    # of the same content
    written_again(paths[number], parts[number])
    np.testing.assert_array_equal(model.get_latent_representation(), before)
    parts[number].X = parts[number].X * 3
    written_again(paths[number], parts[number])
    with pytest.raises(DeltaviError, match=r"adata\.X changed after setup_anndata: values of \d+ of 256 of 300 cells"):
        model.get_latent_representation()


@pytest.mark.parametrize("number", [0, 1])
def test_a_file_written_again_is_another_dask_array(number: int, tmp_path: Path) -> None:
    parts = halves()
    paths = files(tmp_path, *parts)
    before = concat_lazy(paths).X.name
    assert concat_lazy(paths).X.name == before
    written_again(paths[number], parts[number])
    assert concat_lazy(paths).X.name != before


# -- refusals ----------------------------------------------------------------------------------------------------


def refused(found: Any, error: type[Exception], words: str, **options: Any) -> None:
    with pytest.raises(error, match=words):
        concat_lazy(found, **options)


def test_genes_that_files_do_not_share(tmp_path: Path) -> None:
    one, two = halves()
    two.var_names = [f"ENSG{i:011d}" for i in range(two.n_vars)]
    paths = files(tmp_path, one, two)
    refused(paths, GeneMatchError, r"2 files have 0 genes in common, 0% of the 37 in part1\.zarr.*Ensembl")
    refused(paths, GeneMatchError, "0 genes in common", min_overlap=0.0)
    some = halves(drop=0)[1]
    some.var_names = [*some.var_names[:10], *(f"other{i}" for i in range(30))]
    paths = files(tmp_path, one, some)
    refused(paths, GeneMatchError, "10 genes in common, 25% of the 40")
    assert concat_lazy(paths, min_overlap=0.2).n_vars == 10


def test_genes_of_the_same_name(tmp_path: Path) -> None:
    one, two = halves()
    two.var_names = ["g", "g", *two.var_names[2:]]
    refused(files(tmp_path, one, two), GeneMatchError, r"part1\.zarr has 1 gene names that occur more than once")


def test_cells_of_the_same_name(tmp_path: Path) -> None:
    one, two = halves()
    two.obs_names = [f"cell{i}" for i in range(two.n_obs)]
    paths = files(tmp_path, one, two)
    refused(paths, DeltaviError, r"120 cells of part0\.h5ad have names that cells of part1\.zarr.*index_unique='-'")
    assert concat_lazy(paths, index_unique="-").obs_names[0] == "cell0-0"


def test_a_layer_or_column_that_a_file_lacks_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = halves()
    one.layers["spliced"] = one.X.copy()
    paths = files(tmp_path, one, two, two)
    options: dict[str, Any] = {"index_unique": "-"}
    said = r"layers\['spliced'\] \(in part0.h5ad\): not in all 3 files, and left out"
    with caplog.at_level("INFO", "deltavi"), pytest.warns(InputDataWarning, match=said) as warned:
        found = concat_lazy(paths, **options)
    # beside it anndata warns of its own
    assert [w.filename for w in warned if issubclass(w.category, InputDataWarning)] == [__file__]
    assert "obs['only_here'] (in part1.zarr, part2.h5ad): not in all files" in caplog.text
    assert "counts" in found.layers
    assert "spliced" not in found.layers
    caplog.clear()
    with caplog.at_level("INFO", "deltavi"):
        assert "only_here" in concat_lazy(paths[1:], join="outer", **options).obs
    assert caplog.text == ""


def test_counts_and_other_values(tmp_path: Path) -> None:
    one, two = halves()
    two.X = two.X * 0.3
    words = r"X holds counts in 'part0\.h5ad', and fractional.* in 'part1\.zarr'"
    refused(files(tmp_path, one, two), InputDataError, words)
    # a value beyond the sample is found when a model is set up
    two.X = halves()[1].X
    two.X.data[-1] = 0.5
    with pytest.raises(InputDataError, match="fractional"):
        VAE.setup_anndata(found := concat_lazy(files(tmp_path, one, two)))
        VAE(found)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("n_cells", [160, 60])
def test_matrices_stored_by_genes_are_refused(n_cells: int, kind: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).poisson(1.0, (n_cells, 160)).astype(np.float32)
    rows = AnnData(sparse.csr_matrix(x[:50, :150]), layers={"a": sparse.csr_matrix(x[:50, :150])})
    columns = AnnData(sparse.csc_matrix(x), layers={"a": sparse.csc_matrix(x)})
    columns.obs_names = [f"other{i}" for i in range(n_cells)]
    paths = files(tmp_path, *((rows, columns) if kind == "zarr" else (columns, rows)))
    place = next(path for path in paths if path.suffix == f".{kind}")
    words = rf"X of {place} is stored by genes \(CSC\).*read_{kind}\(.*adata\.X = adata\.X\.tocsr\(\)"
    refused(paths, InputDataError, words)
    columns.X = columns.X.tocsr()
    paths = files(tmp_path, *((rows, columns) if kind == "zarr" else (columns, rows)))
    refused(paths, InputDataError, r"layers\['a'\] of .*adata\.layers\['a'\] = adata\.layers\['a'\]\.tocsr\(\)")


@pytest.mark.parametrize("n_cells", [160, 60])
def test_anndata_joins_lazy_files_by_rows_and_by_genes(n_cells: int, tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    x = np.random.default_rng(0).poisson(1.0, (n_cells, 160)).astype(np.float32)
    rows, columns = AnnData(sparse.csr_matrix(x[:50, :150])), AnnData(sparse.csc_matrix(x))
    columns.obs_names = [f"other{i}" for i in range(n_cells)]
    found = ad.concat([ad.experimental.read_lazy(path) for path in files(tmp_path, columns, rows)])
    expected = ad.concat([columns, rows])
    np.testing.assert_array_equal(in_full(rowwise(found.X)[:]), in_full(expected.X))
    assert_same_model(fitted(found, streamed=False, setup={}), fitted(expected, streamed=False, setup={}))


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one, two = halves()
    two.X = two.X * 0.3
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    paths = [tmp_path / name / "cells.h5ad" for name in ("first", "second")]
    for path, part in zip(paths, (one, two), strict=True):
        part.write_h5ad(path)
    words = r"X holds counts in 'first/cells\.h5ad', and fractional.* in 'second/cells\.h5ad'"
    refused(paths, InputDataError, words)
    two.X, two.obs_names = halves()[1].X, [f"cell{i}" for i in range(two.n_obs)]
    two.write_h5ad(paths[1])
    refused(paths, DeltaviError, r"cells of first/cells\.h5ad have names that cells of second/cells\.h5ad")
    # one file twice has one name, and its own values
    assert concat_lazy([paths[0]] * 2, index_unique="-").shape == (2 * one.n_obs, one.n_vars)


def test_keys_that_are_one_text(tmp_path: Path) -> None:
    one, two = files(tmp_path, *halves())
    refused({1: one, "1": two}, DeltaviError, r"Keys of two files are both '1' as text: \[1, '1'\]")
    assert list(concat_lazy({1: one, 2: two}, label="file").obs["file"].cat.categories) == ["1", "2"]


def test_zeros_have_the_scale_of_any_file(tmp_path: Path) -> None:
    one, two = halves()
    one.X, two.X = one.X * 0, two.X.log1p()
    one.X.eliminate_zeros()
    found = concat_lazy(files(tmp_path, one, two))
    np.testing.assert_array_equal(in_full(found.X), in_full(ad.concat([one, two]).X))


def test_a_category_that_comes_late_in_the_last_file(tmp_path: Path) -> None:
    one, two = halves()
    two.obs["label"] = pd.Categorical([*["t"] * (two.n_obs - 1), "late"])
    found = concat_lazy(files(tmp_path, one, two))
    VAE.setup_anndata(found, labels_key="label")
    assert "late" in VAE(found).adata_manager.get_state_registry("labels").categorical_mapping


@pytest.mark.parametrize("given", ["a.h5ad", [], {}, None, 3])
def test_what_names_no_files(given: Any) -> None:
    refused(given, DeltaviError, "paths of one file or more")


def test_what_is_no_file(tmp_path: Path) -> None:
    one, two = halves()
    refused([one, two], DeltaviError, "files must be paths, not AnnData: anndata.concat")
    paths = files(tmp_path, one, two)
    refused([*paths, tmp_path / "c.h5ad"], InputDataError, r"c\.h5ad is not there")
    refused(paths, DeltaviError, "join must be one of", join="left")
    refused(paths, UnknownArgumentError, "key", keys=["a"])
    (tmp_path / "text.h5ad").write_text("cells")
    refused([*paths, tmp_path / "text.h5ad"], InputDataError, r"text\.h5ad cannot be read")
    (tmp_path / "empty.zarr").mkdir()
    refused([*paths, tmp_path / "empty.zarr"], InputDataError, r"empty\.zarr cannot be read")
    AnnData(obs=one.obs, var=one.var).write_h5ad(tmp_path / "bare.h5ad")
    refused([tmp_path / "bare.h5ad"], InputDataError, r"bare\.h5ad holds no X and no layer")


def test_a_matrix_that_does_not_fit_its_tables(tmp_path: Path) -> None:
    import h5py

    (path,) = files(tmp_path, halves()[0])
    with h5py.File(path, "r+") as file:
        del file["obs"]
        ad.io.write_elem(file, "obs", halves()[0].obs.iloc[:7])
    refused([path], InputDataError, "is 120 x 40, and its tables have 7 cells and 40 genes")


def test_without_dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = files(tmp_path, *halves())
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    refused(paths, DeltaviError, r"needs Dask.*pip install 'deltavi\[scale\]'")
