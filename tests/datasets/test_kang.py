"""Loading the interferon experiment: where it is looked for, what is verified, and what users get."""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi.datasets import _kang, kang
from deltavi.errors import DataFileError, DeltaviError, InputDataError, UnknownCategoryError


def hosted(n_cells: int = 12) -> AnnData:
    """A file in the form of the hosted one."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "label": pd.Categorical(["ctrl", "stim"] * (n_cells // 2)),
            "cell_type": pd.Categorical(["CD4 T cells", "CD14+ Monocytes", "New cells"] * (n_cells // 3)),
            "replicate": pd.Categorical(["patient_101", "patient_1015", None] * (n_cells // 3)),
            "nCount_RNA": np.arange(n_cells, dtype=float),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=["ISG15", "CD74", "LYZ", "GNLY"])
    return AnnData(sparse.csc_matrix(rng.poisson(1.0, (n_cells, 4)).astype(np.float64)), obs=obs, var=var)


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    monkeypatch.delenv("DELTAVI_DATA", raising=False)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The hosted file behind a server on this machine; yields its SHA-256 and the cache folder."""
    (tmp_path / "www").mkdir()
    file = tmp_path / "www" / "kang_2018.h5ad"
    hosted().write_h5ad(file)
    handler = partial(QuietHandler, directory=str(file.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        monkeypatch.setattr(_kang, "KANG_URL", f"http://127.0.0.1:{server.server_port}/kang_2018.h5ad")
        monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
        yield hashlib.sha256(file.read_bytes()).hexdigest(), tmp_path / "cache" / "deltavi"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


class TestFromAPath:
    def test_names_are_made_alike(self, tmp_path):
        hosted().write_h5ad(tmp_path / "file.h5ad")
        adata = kang(tmp_path / "file.h5ad")
        assert list(adata.obs["condition"].cat.categories) == ["control", "stimulated"]
        assert adata.obs["condition"].iloc[:2].to_list() == ["control", "stimulated"]
        assert set(adata.obs["cell_type"]) == {"CD4T", "CD14+Mono", "New cells"}
        assert adata.obs["donor"].iloc[:2].to_list() == ["101", "1015"]
        assert adata.obs["donor"].isna().sum() == 4
        for column in ("condition", "cell_type", "donor"):
            assert isinstance(adata.obs[column].dtype, pd.CategoricalDtype)
        assert "nCount_RNA" in adata.obs
        assert not {"label", "replicate"} & set(adata.obs)

    def test_counts_are_csr_float32_and_unchanged(self, tmp_path):
        hosted().write_h5ad(tmp_path / "file.h5ad")
        adata = kang(str(tmp_path / "file.h5ad"))
        assert isinstance(adata.X, sparse.csr_matrix)
        assert adata.X.dtype == np.float32
        np.testing.assert_array_equal(adata.X.toarray(), hosted().X.toarray())

    def test_standard_file_stays_as_it_is(self, tmp_path):
        hosted().write_h5ad(tmp_path / "file.h5ad")
        once = kang(tmp_path / "file.h5ad")
        once.write_h5ad(tmp_path / "again.h5ad")
        twice = kang(tmp_path / "again.h5ad")
        pd.testing.assert_frame_equal(once.obs, twice.obs)
        np.testing.assert_array_equal(once.X.toarray(), twice.X.toarray())

    def test_donor_may_be_missing(self, tmp_path):
        data = hosted()
        del data.obs["replicate"]
        data.write_h5ad(tmp_path / "file.h5ad")
        assert "donor" not in kang(tmp_path / "file.h5ad").obs

    def test_a_path_that_is_wrong_is_never_replaced(self, tmp_path, monkeypatch):
        hosted().write_h5ad(tmp_path / "kang_9k_genes.h5ad")
        monkeypatch.setenv("DELTAVI_DATA", str(tmp_path))
        with pytest.raises(DataFileError, match=r"'.*absent\.h5ad' is not a file; leave it out"):
            kang(tmp_path / "absent.h5ad", known_hash="0" * 64)

    def test_a_file_that_holds_something_else(self, tmp_path):
        (tmp_path / "file.h5ad").write_text("hello")
        with pytest.raises(DataFileError, match=r"file\.h5ad cannot be read as h5ad"):
            kang(tmp_path / "file.h5ad")

    def test_the_home_folder_is_expanded(self, tmp_path, monkeypatch):
        for variable in ("HOME", "USERPROFILE"):
            monkeypatch.setenv(variable, str(tmp_path))
        hosted().write_h5ad(tmp_path / "kang_9k_genes.h5ad")
        monkeypatch.setenv("DELTAVI_DATA", "~")
        assert kang("~/kang_9k_genes.h5ad").n_obs == kang().n_obs == 12


class TestFromTheFolder:
    @pytest.mark.parametrize(("genes", "name"), [("9k", "kang_9k_genes.h5ad"), ("full", "kang_full_genes.h5ad")])
    def test_name_follows_the_genes(self, tmp_path, monkeypatch, genes, name):
        hosted().write_h5ad(tmp_path / name)
        monkeypatch.setenv("DELTAVI_DATA", str(tmp_path))
        assert kang(genes=genes).shape == (12, 4)
        other = "full" if genes == "9k" else "9k"
        with pytest.raises(DataFileError, match="is not in"):
            kang(genes=other)

    def test_folder_comes_before_a_download(self, tmp_path, monkeypatch):
        hosted(6).write_h5ad(tmp_path / "kang_9k_genes.h5ad")
        monkeypatch.setenv("DELTAVI_DATA", str(tmp_path))
        monkeypatch.setattr(_kang, "_download", lambda known_hash: pytest.fail("downloaded"))
        assert kang(known_hash="0" * 64).n_obs == 6

    def test_unknown_genes(self):
        with pytest.raises(UnknownCategoryError, match="'9k', 'full'"):
            kang(genes="all")


class TestNowhere:
    def test_all_three_places_are_listed(self):
        with pytest.raises(DataFileError) as caught:
            kang()
        message = str(caught.value)
        assert "1. path: not given" in message
        assert "2. DELTAVI_DATA: not set" in message
        assert "3. download: refused" in message
        assert "known_hash=" in message

    def test_is_a_missing_file_and_an_error_of_this_package(self):
        for kind in (FileNotFoundError, DeltaviError):
            with pytest.raises(kind):
                kang()

    def test_download_switched_off(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DELTAVI_DATA", str(tmp_path))
        with pytest.raises(
            DataFileError, match=r"(?s)'kang_9k_genes\.h5ad' is not in .*switched off by download=False"
        ):
            kang(download=False, known_hash="0" * 64)


class TestDownload:
    @pytest.mark.parametrize("form", ["{}", "sha256:{}"])
    def test_verified(self, served, form):
        sha256, cache = served
        adata = kang(known_hash=form.format(sha256))
        assert adata.shape == (12, 4)
        assert set(adata.obs["condition"]) == {"control", "stimulated"}
        assert [file.name for file in cache.iterdir()] == ["kang_2018.h5ad"]

    def test_hash_of_the_package_serves_when_it_is_known(self, served, monkeypatch):
        monkeypatch.setattr(_kang, "KANG_SHA256", served[0])
        assert kang().n_obs == 12

    def test_second_time_from_the_cache(self, served, monkeypatch):
        sha256, _ = served
        kang(known_hash=sha256)
        monkeypatch.setattr(_kang, "KANG_URL", "http://127.0.0.1:9/kang_2018.h5ad")
        assert kang(known_hash=sha256).n_obs == 12

    def test_wrong_hash_leaves_nothing_behind(self, served):
        _, cache = served
        with pytest.raises(DataFileError, match=r"(?s)could not be downloaded and verified.*hash"):
            kang(known_hash="0" * 64)
        assert list(cache.iterdir()) == []

    def test_damaged_cache_is_fetched_again(self, served):
        sha256, cache = served
        kang(known_hash=sha256)
        (cache / "kang_2018.h5ad").write_bytes(b"damaged")
        assert kang(known_hash=sha256).n_obs == 12

    def test_file_that_is_not_there(self, served, monkeypatch):
        monkeypatch.setattr(_kang, "KANG_URL", _kang.KANG_URL.replace("kang_2018", "absent"))
        with pytest.raises(DataFileError, match="404"):
            kang(known_hash=served[0])

    def test_server_that_does_not_answer(self, monkeypatch, tmp_path):
        monkeypatch.setattr(_kang, "KANG_URL", "http://127.0.0.1:9/kang_2018.h5ad")
        monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / project)
        with pytest.raises(DataFileError, match="could not be downloaded"):
            kang(known_hash="0" * 64)

    def test_unverified_download_is_refused(self, served):
        with pytest.raises(DataFileError, match="only verified downloads"):
            kang()
        assert not Path(served[1]).exists()


class TestBadFiles:
    def write(self, data: AnnData, folder: Path) -> Path:
        data.write_h5ad(folder / "file.h5ad")
        return folder / "file.h5ad"

    def test_not_counts(self, tmp_path):
        data = hosted()
        data.X = data.X * 0.5
        with pytest.raises(InputDataError, match="raw counts"):
            kang(self.write(data, tmp_path))

    @pytest.mark.parametrize(("column", "name"), [("label", "condition"), ("cell_type", "cell_type")])
    def test_missing_column(self, tmp_path, column, name):
        data = hosted()
        del data.obs[column]
        with pytest.raises(UnknownCategoryError, match=f"obs column '{name}' is not in the data"):
            kang(self.write(data, tmp_path))

    def test_unknown_condition(self, tmp_path):
        data = hosted()
        data.obs["label"] = ["ctrl", "stimm"] * 6
        with pytest.raises(UnknownCategoryError, match="'stimm' is not in the data"):
            kang(self.write(data, tmp_path))

    def test_not_an_h5ad_file(self, tmp_path):
        (tmp_path / "file.h5ad").write_bytes(b"text")
        with pytest.raises(OSError, match="file"):
            kang(tmp_path / "file.h5ad")


class TestRealFile:
    def test_is_standard(self, kang_path):
        adata = kang(kang_path)
        assert set(adata.obs["condition"]) == {"control", "stimulated"}
        assert {"B", "CD4T", "CD8T", "CD14+Mono", "NK", "Dendritic"} <= set(adata.obs["cell_type"])
        assert adata.obs["donor"].nunique() == 8
        assert isinstance(adata.X, sparse.csr_matrix)
        assert adata.X.dtype == np.float32
        assert np.array_equal(adata.X.data, np.rint(adata.X.data))

    def test_interferon_response_is_there(self, kang_path):
        adata = kang(kang_path)
        counts = pd.Series(np.asarray(adata[:, "ISG15"].X.sum(axis=1)).ravel(), index=adata.obs_names)
        by_condition = counts.groupby(adata.obs["condition"], observed=True).mean()
        assert by_condition["stimulated"] > 5 * by_condition["control"]

    def test_file_is_not_changed(self, kang_path):
        before = anndata.read_h5ad(kang_path)
        kang(kang_path)
        after = anndata.read_h5ad(kang_path)
        pd.testing.assert_frame_equal(before.obs, after.obs)
