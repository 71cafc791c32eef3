"""What ``save`` and ``load`` take, and what they refuse before anything is written."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from deltavi.errors import DeltaviError, ModelFileError, ModelWriteError, UnknownArgumentError
from deltavi.model import VAE
from tests.io.every_fault import tree
from tests.model.conftest import small_adata

MINE = {"raw": None, "raw/counts.h5ad": b"mine", "analysis.ipynb": b"mine", "adata.h5ad": b"mine", "model.json": b"{}"}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


@pytest.fixture(scope="module")
def model() -> Any:
    adata = small_adata()
    VAE.setup_anndata(adata)
    return VAE(adata, n_hidden=8, n_latent=2)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and home folder, with files of the user's."""
    work = tmp_path / "work"
    (work / "raw").mkdir(parents=True)
    for name, content in MINE.items():
        if content is not None:
            (work / name).write_bytes(content)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(work))
    return work


def weights(model: Any) -> list[np.ndarray]:
    return [value.numpy() for value in model.module.state_dict().values()]


# -- where to --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [".", "./", "../work", "raw/..", "~", "~/", Path(), Path("~")])
def test_a_folder_of_the_users_keeps_its_files(model: Any, work: Path, target: Any) -> None:
    with pytest.raises(ModelFileError, match="overwrite=True"):
        model.save(target)
    assert tree(work) == MINE
    for _ in range(3):
        model.save(target, overwrite=True)
        loaded = VAE.load(target)
        # cells of the user's are not those of the model
        assert loaded.adata is None
        assert all(map(np.array_equal, weights(loaded), weights(model)))
        now = tree(work)
        assert {name: now[name] for name in MINE} == MINE
        assert len(now) == len(MINE) + 3
    assert [path.name for path in work.parent.iterdir()] == ["work"]


def test_a_link_stays_a_link_and_a_model_one_stands_in_is_replaced(model: Any, work: Path) -> None:
    model.save("far")
    os.symlink("far", "near")
    os.chdir("near")
    model.save(".", overwrite=True, save_anndata=True)
    os.chdir(work)
    model.save("near", overwrite=True)
    assert (work / "near").is_symlink()
    assert VAE.load("far").adata is None
    assert len(list((work / "far").iterdir())) == 3
    os.symlink("nowhere", "dangling")
    with pytest.raises(ModelFileError, match="is a link to nowhere, which is not there"):
        model.save("dangling", overwrite=True)


@pytest.mark.parametrize("target", ["", "  ", "a\0b", None, 3, b"model"])
def test_what_names_no_folder_is_refused(model: Any, work: Path, target: Any) -> None:
    for verb in (lambda path: model.save(path, overwrite=True), VAE.load):
        with pytest.raises(ModelFileError, match=r"dir_path (is .* names nothing|must be a path)"):
            verb(target)
    assert tree(work) == MINE


@pytest.mark.parametrize("target", ["analysis.ipynb", "analysis.ipynb/", "analysis.ipynb/model"])
def test_a_file_is_not_replaced_by_a_folder(model: Any, work: Path, target: str) -> None:
    with pytest.raises(ModelFileError, match=r"is a file|Not a directory"):
        model.save(target, overwrite=True)
    assert tree(work) == MINE


def test_cells_that_were_saved_go_with_their_model(model: Any, work: Path) -> None:
    model.save("model", save_anndata=True, compression="gzip")
    assert VAE.load("model").adata.n_obs == model.adata.n_obs
    for _ in range(2):
        model.save("model", overwrite=True, save_anndata=True)
        assert VAE.load("model").adata.n_obs == model.adata.n_obs
        assert len(list((work / "model").iterdir())) == 4
    model.save("model", overwrite=True)
    assert VAE.load("model").adata is None
    (work / "model" / "adata.h5ad").write_bytes(b"mine")
    assert VAE.load("model").adata is None


def test_a_backed_anndata_stays_on_its_file(work: Path) -> None:
    small_adata().write_h5ad(work / "cells.h5ad")
    before = (work / "cells.h5ad").read_bytes()
    backed = anndata.read_h5ad(work / "cells.h5ad", backed="r")
    VAE.setup_anndata(backed)
    on_disk = VAE(backed, n_hidden=8, n_latent=2)
    on_disk.save("model", save_anndata=True)
    assert backed.isbacked
    assert Path(backed.filename) == work / "cells.h5ad"
    assert backed.X[:3].shape == (3, backed.n_vars)
    assert VAE.load("model").adata.n_obs == backed.n_obs
    backed.file.close()
    assert (work / "cells.h5ad").read_bytes() == before


def test_cells_that_are_read_from_the_former_model_stay(model: Any, work: Path) -> None:
    model.save("model", save_anndata=True)
    backed = anndata.read_h5ad(work / "model" / "adata.h5ad", backed="r")
    on_disk = VAE.load("model", backed)
    for save_anndata in (True, False):
        on_disk.save("model", overwrite=True, save_anndata=save_anndata)
        assert (work / "model" / "adata.h5ad").exists()
        assert backed.X[:3].shape == (3, backed.n_vars)
    assert VAE.load("model").adata is None
    backed.file.close()


# -- what with -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prefix": "first_"}, "no argument 'prefix'. Each model has a folder of its own"),
        ({"save_adata": True}, "no argument 'save_adata'. Did you mean 'save_anndata'"),
        ({"overwite": True}, "Did you mean 'overwrite'"),
        ({"save_kwargs": {}}, "no argument 'save_kwargs'"),
        ({"compression": "gzip"}, "'compression' says how to write the cells: pass save_anndata=True"),
        ({"save_anndata": True, "compresion": "gzip"}, "Did you mean 'compression'"),
        ({"save_anndata": True, "filename": "x.h5ad"}, "no argument 'filename'"),
    ],
)
def test_keywords_that_save_does_not_have(model: Any, work: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UnknownArgumentError, match=words):
        model.save("model", **given)
    assert tree(work) == MINE


@pytest.mark.parametrize("given", [{"overwrite": "no"}, {"save_anndata": 1}, {"overwrite": None}])
def test_switches_are_true_or_false(model: Any, work: Path, given: dict[str, Any]) -> None:
    with pytest.raises(DeltaviError, match=f"{next(iter(given))} must be True or False"):
        model.save("model", **given)
    assert tree(work) == MINE


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prefix": "first_"}, "no argument 'prefix'. Each model has a folder of its own"),
        ({"use_gpu": True}, "Pass device='cuda' or 'cpu'"),
        ({"backup_url": "https://example.org"}, "Fetch the folder first"),
        ({"devise": "cpu"}, "Did you mean 'device'"),
    ],
)
def test_keywords_that_load_does_not_have(model: Any, work: Path, given: dict[str, Any], words: str) -> None:
    model.save("model")
    with pytest.raises(UnknownArgumentError, match=words):
        VAE.load("model", **given)


def test_cells_that_are_not_there_or_cannot_be_written(model: Any, work: Path) -> None:
    model.save("model")
    with pytest.raises(DeltaviError, match="loaded without data: there are no cells to save"):
        VAE.load("model").save("again", save_anndata=True)
    odd = VAE.load("model", small_adata())
    odd.adata.uns["odd"] = object()
    before = tree(work)
    with pytest.raises(DeltaviError, match=r"The AnnData cannot be written .*, and nothing was saved"):
        odd.save("again", save_anndata=True)
    with pytest.raises(DeltaviError, match="nothing was saved"):
        odd.save("model", overwrite=True, save_anndata=True)
    assert tree(work) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="an administrator may become somebody else")
def test_a_read_only_folder_is_refused_before_anything_is_written(model: Any) -> None:
    # everybody may read the folders above it, unlike those of a test run
    public = Path(tempfile.mkdtemp())
    public.chmod(0o755)
    model.save(public / "model")
    before = tree(public)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deltavi.io._folder._Writing.write", None)
        os.seteuid(65534)
        try:
            for target in ("model", "new"):
                with pytest.raises(ModelWriteError, match=f"{target}: Permission denied"):
                    model.save(public / target, overwrite=True)
        finally:
            os.seteuid(0)
    assert tree(public) == before
    shutil.rmtree(public)
