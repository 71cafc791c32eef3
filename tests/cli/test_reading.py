"""Files of cells are known by what they hold; what cannot be read is refused with the way out."""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from deltavi.cli._reading import DataReadError, add_columns, read_cells, require_columns
from deltavi.errors import UnknownCategoryError
from tests.cli.conftest import Run, is_refused, toy


def write_tenx(file: Path, adata: ad.AnnData, *, version: int, genes: list[str] | None = None) -> None:
    """A file as Cell Ranger writes it; genes in rows, that is cells in columns of a CSC matrix."""
    x = adata.X.tocsr()
    names = np.array(genes or list(adata.var_names), dtype="S")
    ids = np.array([f"ENSG{i:011d}" for i in range(adata.n_vars)], dtype="S")
    with h5py.File(file, "w") as h5:
        group = h5.create_group("matrix" if version == 3 else "GRCh38")
        group["data"], group["indices"], group["indptr"] = x.data.astype(np.int32), x.indices, x.indptr
        group["shape"] = np.array([adata.n_vars, adata.n_obs], dtype=np.int32)
        group["barcodes"] = np.array(adata.obs_names, dtype="S")
        if version == 2:
            group["genes"], group["gene_names"] = ids, names
            return
        features = group.create_group("features")
        features["id"], features["name"] = ids, names
        features["feature_type"] = np.array(["Gene Expression"] * adata.n_vars, dtype="S")
        features["genome"] = np.array(["GRCh38"] * adata.n_vars, dtype="S")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", ["tenx.h5", "renamed.h5ad"])
def test_files_of_tenx_are_read_whatever_their_name(tmp_path: Path, version: int, name: str) -> None:
    adata = toy(12, 6)
    write_tenx(tmp_path / name, adata, version=version)
    found = read_cells(tmp_path / name, note=pytest.fail)
    assert list(found.obs_names) == list(adata.obs_names)
    assert list(found.var_names) == list(adata.var_names)
    np.testing.assert_array_equal(found.X.toarray(), adata.X.toarray())


def test_genes_of_one_name_get_a_number(tmp_path: Path) -> None:
    said: list[str] = []
    write_tenx(tmp_path / "tenx.h5", toy(12, 4), version=3, genes=["A", "B", "A", "A"])
    assert list(read_cells(tmp_path / "tenx.h5", note=said.append).var_names) == ["A", "B", "A-1", "A-2"]
    assert "2 genes" in said[0]


def test_the_demonstration_takes_tenx_with_a_table_of_columns(tmp_path: Path, demo: Callable[..., Run]) -> None:
    adata = toy()
    write_tenx(tmp_path / "tenx.h5", adata, version=3)
    assert is_refused(demo(data=tmp_path / "tenx.h5"), "--obs", "no columns")
    # in another order, and with a cell that the file lacks
    table = pd.concat([adata.obs.iloc[::-1], adata.obs.iloc[:1].rename(index={"cell0": "other"})])
    table.to_csv(tmp_path / "table.tsv", sep="\t")
    found = demo("--holdout", "B", "--obs", tmp_path / "table.tsv", data=tmp_path / "tenx.h5")
    assert found.code == 0, found
    predicted = ad.read_h5ad(tmp_path / "out" / "predicted.h5ad")
    of_type = (adata.obs["cell_type"] == "B") & (adata.obs["condition"] == "control")
    assert predicted.n_obs == of_type.sum() / 2  # the real change is measured from the other half


def table_of(adata: ad.AnnData, file: Path, **changes: Any) -> Path:
    """A table of obs, changed."""
    table = adata.obs.assign(**changes)
    table.to_csv(file)
    return file


def test_columns_are_added_by_the_names_of_cells(tmp_path: Path) -> None:
    adata = toy(12)
    file = table_of(adata[::-1], tmp_path / "table.csv")
    bare = adata.copy()
    bare.obs = bare.obs[[]]
    add_columns(bare, file)
    assert list(bare.obs["cell_type"]) == list(adata.obs["cell_type"])
    require_columns(bare, condition_key="condition", labels_key="cell_type")
    with pytest.raises(UnknownCategoryError, match=r"--labels-key 'celltype'.*'cell_type'"):
        require_columns(bare, labels_key="celltype")
    with pytest.raises(DataReadError, match="a column 'condition'"):
        add_columns(bare, file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name,condition\ncell0,control\n", "lacks 11 of 12 cells, such as 'cell1'"),
        ("name,condition\ncell0,control\ncell0,control\n", "1 cells more than once"),
        ("", "is empty"),
        ("\0\0\n\1", "table.csv"),
    ],
)
def test_tables_that_do_not_fit(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(DataReadError, match=words):
        add_columns(toy(12), tmp_path / "table.csv")


def text(file: Path) -> None:
    file.write_text("gene,cell1\nA,3\n")


def compressed(file: Path) -> None:
    file.write_bytes(gzip.compress(b"anything"))


def zipped(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", "b")


def noise(file: Path) -> None:
    file.write_bytes(np.random.default_rng(0).bytes(2000))


def empty(file: Path) -> None:
    file.touch()


def truncated(file: Path) -> None:
    toy().write_h5ad(file)
    file.write_bytes(file.read_bytes()[:-3000])


def beginning(file: Path) -> None:
    toy().write_h5ad(file)
    file.write_bytes(file.read_bytes()[:100])


def broken_inside(file: Path) -> None:
    toy().write_h5ad(file)
    with h5py.File(file, "a") as h5:
        del h5["X/indptr"]


def malformed_tenx(file: Path) -> None:
    with h5py.File(file, "w") as h5:
        h5["matrix/data"], h5["matrix/indices"] = np.zeros(3), np.zeros(3, int)


def loom(file: Path) -> None:
    with h5py.File(file, "w") as h5:
        h5["matrix"] = np.zeros((2, 2))
        h5.create_group("row_attrs"), h5.create_group("col_attrs")


def mudata(file: Path) -> None:
    with h5py.File(file, "w") as h5:
        h5.create_group("mod/rna"), h5.create_group("obs"), h5.create_group("var")


def other_hdf5(file: Path) -> None:
    with h5py.File(file, "w") as h5:
        h5["something"] = np.zeros(3)


def hdf5_of_nothing(file: Path) -> None:
    h5py.File(file, "w").close()


def zarr_store(file: Path) -> None:
    toy().write_zarr(file)


def mtx(file: Path) -> None:
    file.mkdir()
    (file / "matrix.mtx.gz").touch()


def folder(file: Path) -> None:
    file.mkdir()
    (file / "cells.h5ad").touch()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (text, ["text"]),
        (compressed, ["gzip"]),
        (zipped, ["zip"]),
        (noise, ["no HDF5 file"]),
        (empty, ["is empty"]),
        (truncated, ["cannot be read as h5ad"]),
        (beginning, ["cannot be read as h5ad"]),
        (broken_inside, ["cannot be read as h5ad"]),
        (malformed_tenx, ["cannot be read as 10x"]),
        (loom, ["loom", "read_loom"]),
        (mudata, ["MuData", "'rna'"]),
        (other_hdf5, ["neither h5ad nor of 10x", "something"]),
        (hdf5_of_nothing, ["holds nothing"]),
        (zarr_store, ["anndata.read_zarr", "write_h5ad"]),
        (mtx, ["read_10x_mtx"]),
        (folder, ["is a folder", "Did you mean", "cells.h5ad"]),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of writers
def test_other_files_are_refused(
    make: Callable[[Path], None], words: list[str], tmp_path: Path, demo: Callable[..., Run]
) -> None:
    file = tmp_path / "data.h5ad"
    make(file)
    assert is_refused(demo("--holdout", "B", data=file), str(file), *words)
    assert not (tmp_path / "out").exists()


def test_a_misspelt_file(cells: Path, demo: Callable[..., Run]) -> None:
    assert is_refused(demo(data=cells.with_name("cell.h5ad")), "is not a file", f"Did you mean {cells}?")
    assert is_refused(demo(data=cells.parent / "no" / "cells.h5ad"), "is not a file")
    assert is_refused(demo(data=cells / "cells.h5ad"), "is not a file")


@pytest.mark.skipif(os.name != "posix", reason="needs a device")
def test_a_device(demo: Callable[..., Run]) -> None:
    assert is_refused(demo(data="/dev/null"), "device")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is permitted")
def test_a_file_without_permission(tmp_path: Path, demo: Callable[..., Run]) -> None:
    file = tmp_path / "data.h5ad"
    toy().write_h5ad(file)
    file.chmod(0)
    assert is_refused(demo(data=file), "ermission")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--holdout", "Bcell"], ["--holdout 'Bcell'", "'Mono'"]),
        (["--holdout", "mono"], ["Did you mean 'Mono'?", "obs['cell_type']"]),
        (["--holdout", ""], ["--holdout ''"]),
        ([], ["--holdout", "B, CD4, Mono", "--all"]),
        (["--holdout", "B", "--condition-key", "Condition"], ["--condition-key", "Did you mean 'condition'?"]),
        (["--holdout", "B", "--labels-key", "celltype"], ["--labels-key", "Did you mean 'cell_type'?"]),
        (["--holdout", "B", "--control", "ctrl"], ["--control 'ctrl'", "'control'"]),
        (["--holdout", "B", "--perturbation", "Stimulated"], ["--perturbation", "Did you mean 'stimulated'?"]),
        (["--holdout", "B", "--perturbation", "control"], ["both 'control'"]),
        (["--holdout", "B", "--layer", "counts"], ["--layer 'counts'"]),
        (["--all", "--layer", "counts"], ["--layer 'counts'"]),
        (["--all", "--perturbation", "stim"], ["--perturbation 'stim'", "stimulated"]),
    ],
)
def test_unknown_names_come_before_the_work(
    arguments: list[str], words: list[str], tmp_path: Path, demo: Callable[..., Run]
) -> None:
    assert is_refused(demo("--quiet", *arguments), *words)
    assert not (tmp_path / "out").exists()


def test_many_names_are_not_all_listed(tmp_path: Path, demo: Callable[..., Run]) -> None:
    many = toy()
    many.obs["cell_type"] = [f"type {i:03d}" for i in range(many.n_obs)]
    many.write_h5ad(tmp_path / "many.h5ad")
    found = demo("--holdout", "type041", data=tmp_path / "many.h5ad")
    assert is_refused(found, "Did you mean 'type 041'?", "'type 029' and 90 more.")
    assert is_refused(demo(data=tmp_path / "many.h5ad"), "type 000", "and others", "--all")


def test_a_file_without_columns(tmp_path: Path, demo: Callable[..., Run]) -> None:
    bare = toy()
    bare.obs = bare.obs[[]]
    bare.write_h5ad(tmp_path / "bare.h5ad")
    assert is_refused(demo("--all", data=tmp_path / "bare.h5ad"), "no columns", "--obs")


def test_log_normalised_values(tmp_path: Path, demo: Callable[..., Run]) -> None:
    logs = toy()
    logs.X = logs.X.log1p()
    logs.write_h5ad(tmp_path / "logs.h5ad")
    assert is_refused(demo("--holdout", "B", "--quiet", data=tmp_path / "logs.h5ad"), "raw counts")
