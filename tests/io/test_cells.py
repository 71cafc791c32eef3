"""AnnData written whole: as anndata writes it, and an error where the disk fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from deltavi.errors import DeltaviError
from deltavi.io import write_cells
from deltavi.io._watched import WatchedFile
from tests.io.test_watched import full_after

N_CELLS, N_GENES = 40, 12
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "packed": {"compression": "gzip", "compression_opts": 4},
    "lzf": {"compression": "lzf"},
    "text stays text": {"convert_strings_to_categoricals": False},
    "dense": {"as_dense": ["X"], "compression": "gzip"},
    "raw dense": {"as_dense": "raw.X"},
    "both dense": {"as_dense": ("raw/X", "X")},
}


def cells() -> ad.AnnData:
    """Something of every kind."""
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(rng.poisson(0.5, (N_CELLS, N_GENES)).astype(np.float32))
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(rng.choice(["a", "b"], N_CELLS), categories=["b", "a", "none"]),
            "text": rng.choice(["c", "d", "e"], N_CELLS).astype(object),
            "number": rng.normal(size=N_CELLS),
            "flag": rng.random(N_CELLS) < 0.5,
        },
        index=[f"cell {i}" for i in range(N_CELLS)],
    )
    found = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene {i}" for i in range(N_GENES)]))
    found.layers["rate"], found.layers["csc"] = rng.random(x.shape), sparse.csc_matrix(x)
    found.obsm["z"], found.obsm["table"] = rng.normal(size=(N_CELLS, 3)), obs[["number"]].copy()
    found.varm["loadings"], found.obsp["near"] = rng.normal(size=(N_GENES, 2)), sparse.eye(N_CELLS, format="csr")
    found.uns["deltavi"] = {"name": "a", "table": obs[["number"]].copy(), "list": np.array(["x", "y"], dtype=object)}
    found.raw = found[:, :5].copy()
    return found


def contents(path: Path) -> dict[str, tuple[Any, ...]]:
    """Values, layout and attributes of all that an HDF5 file holds."""
    found: dict[str, tuple[Any, ...]] = {}

    def look(name: str, item: Any) -> None:
        attributes = {key: str(value) for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            found[name] = attributes, str(item[()]), item.dtype, item.compression, item.compression_opts, item.chunks
        else:
            found[name] = (attributes,)

    with h5py.File(path) as root:
        found["/"] = ({key: str(value) for key, value in root.attrs.items()},)
        root.visititems(look)
    return found


def without_raw() -> ad.AnnData:
    """Cells whose file can be opened without reading it."""
    found = cells()
    del found.raw
    return found


def without_matrix() -> ad.AnnData:
    """Tables alone."""
    return ad.AnnData(obs=cells().obs, obsm={"z": np.ones((N_CELLS, 2))})


@pytest.mark.parametrize("make", [without_raw, without_matrix])
def test_parts_that_are_missing_are_in_no_file(tmp_path: Path, make: Callable[[], ad.AnnData]) -> None:
    make().write_h5ad(tmp_path / "theirs.h5ad")
    write_cells(tmp_path / "ours.h5ad", make())
    assert contents(tmp_path / "ours.h5ad") == contents(tmp_path / "theirs.h5ad")


def test_a_backed_file_without_raw_counts_is_copied(tmp_path: Path) -> None:
    write_cells(tmp_path / "ours.h5ad", without_raw())
    backed = ad.read_h5ad(tmp_path / "ours.h5ad", backed="r")
    write_cells(tmp_path / "again.h5ad", backed)
    backed.file.close()
    assert ad.read_h5ad(tmp_path / "again.h5ad").raw is None


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_file_is_that_of_anndata(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs, ours = cells(), cells()
    theirs.write_h5ad(tmp_path / "theirs.h5ad", **options)
    write_cells(tmp_path / "ours.h5ad", ours, **options)
    found = contents(tmp_path / "ours.h5ad")
    assert len(found) > 40
    assert found == contents(tmp_path / "theirs.h5ad")
    # columns of text become categories in memory too, as anndata does it
    assert ours.obs.dtypes.to_dict() == theirs.obs.dtypes.to_dict()


FORMS: dict[str, Callable[[Any], Any]] = {
    "rows": sparse.csr_matrix,
    "columns": sparse.csc_matrix,
    "dense": lambda x: x.toarray(),
}


@pytest.mark.parametrize("options", [{}, {"as_dense": ["X"]}, {"as_dense": "raw.X", "compression": "gzip"}])
@pytest.mark.parametrize("form", FORMS)
def test_a_backed_file_is_copied_and_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr("deltavi.io._cells.ROWS_AT_ONCE", 7)
    source = cells()
    source.X = FORMS[form](source.X)
    source.write_h5ad(tmp_path / "source.h5ad")
    backed = ad.read_h5ad(tmp_path / "source.h5ad", backed="r")
    write_cells(tmp_path / "copy.h5ad", backed, **options)
    assert backed.filename == tmp_path / "source.h5ad"
    assert backed.file.is_open
    # the matrix can still be read
    np.testing.assert_array_equal(
        np.asarray(backed.X[:3].sum(1)).ravel(),
        source.X[:3].toarray().sum(1) if form != "dense" else source.X[:3].sum(1),
    )
    backed.file.close()
    source.write_h5ad(tmp_path / "theirs.h5ad", **options)
    assert contents(tmp_path / "copy.h5ad") == contents(tmp_path / "theirs.h5ad")


@pytest.mark.parametrize(("names", "message"), [(["layers"], "'X' and 'raw/X' are"), (["raw.X"], "have no raw")])
def test_what_cannot_be_dense_is_refused_before_anything_is_written(
    tmp_path: Path, names: list[str], message: str
) -> None:
    with pytest.raises(DeltaviError, match=message):
        write_cells(tmp_path / "part.h5ad", without_raw(), as_dense=names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.7, 0.95, 0.999])
@pytest.mark.parametrize("kind", ["in memory", "backed", "dense"])
def test_a_disk_that_is_full_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, kind: str) -> None:
    found, options = cells(), {"as_dense": ["X", "raw/X"]} if kind == "dense" else {}
    write_cells(tmp_path / "whole.h5ad", found, **options)
    if kind == "backed":
        found = ad.read_h5ad(tmp_path / "whole.h5ad", backed="r")
    room = int(share * (tmp_path / "whole.h5ad").stat().st_size)
    monkeypatch.setattr(WatchedFile, "_taken", full_after(room))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        write_cells(tmp_path / "part.h5ad", found, **options)
    assert caught.value.errno == errno.ENOSPC
    if kind == "backed":
        found.file.close()


def test_an_object_that_no_file_can_hold_is_an_error(tmp_path: Path) -> None:
    found = cells()
    found.uns["model"] = object()
    with pytest.raises(Exception, match=r"uns|model|object"):
        write_cells(tmp_path / "part.h5ad", found)
    # the file is closed: it can be written again
    write_cells(tmp_path / "part.h5ad", cells())
    assert ad.read_h5ad(tmp_path / "part.h5ad").shape == (N_CELLS, N_GENES)


LIMITED = """
import resource, signal, sys
from pathlib import Path
import anndata
from deltavi.io import write_cells
from tests.io.test_cells import cells
found, path = cells(), Path(sys.argv[1])
write_cells(path, found)
backed = anndata.read_h5ad(path, backed="r")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, resource.RLIM_INFINITY))
for one, options in ((found, {}), (backed, {}), (found, {"as_dense": ["X", "raw/X"]}), (backed, {"as_dense": ["X"]})):
    try:
        write_cells(path.with_name("second.h5ad"), one, **options)
    except OSError as error:
        print("error", error.errno)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files")
def test_a_process_outlives_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """A limit of the system, where HDF5 by itself ends the process."""
    call: Callable[..., Any] = subprocess.run
    done = call([sys.executable, "-c", LIMITED, str(tmp_path / "first.h5ad")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"error {errno.EFBIG}\n" * 4
