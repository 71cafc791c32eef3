"""Files of scvi-tools are pickles: nothing that they name is called, and what is damaged is refused."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scvi.model import SCVI

from deltavi.errors import DeltaviError, ModelFileError
from deltavi.io._inert import read_torch_file
from deltavi.io.scvi import read_scvi
from deltavi.model import VAE
from tests.model.conftest import small_adata


class Call:
    """Calls `function` where it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that scvi-tools saved."""
    adata = small_adata(n_per_group=6)
    SCVI.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    model = SCVI(adata, n_hidden=8, n_latent=3)
    model.is_trained_ = True
    folder = tmp_path_factory.mktemp("saved") / "scvi"
    model.save(str(folder))
    return folder


@pytest.fixture
def crafted(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "scvi"))


def content(folder: Path) -> Any:
    return torch.load(folder / "model.pt", weights_only=False)


def put(folder: Path, value: Any, **options: Any) -> None:
    torch.save(value, folder / "model.pt", **options)


def read(folder: Path) -> Any:
    return VAE.import_scvi(folder, allow_pickle=True)


def test_the_file_is_sound(saved: Path) -> None:
    model = read(saved)
    assert model.module.n_latent == 3
    assert torch.equal(model.module.px_r, content(saved)["model_state_dict"]["px_r"])


# -- what is named is not called ---------------------------------------------------------------------------------


def payloads(mark: Path) -> dict[str, Any]:
    touch = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    return {
        "system": Call(os.system, f"touch {mark}"),
        "path": Call(Path.touch, mark),
        "exec": Call(exec, touch),
        "getattr": Call(getattr, mark, "touch"),
        "fromfile": Call(np.save, str(mark) + ".npy", 1),
        "csv": Call(pd.read_pickle, str(mark)),
        "hub": Call(torch.hub.load, str(mark), "c"),
    }


PLACES: dict[str, Callable[[Any, Any], Any]] = {
    "instead": lambda value, bomb: bomb,
    "beside": lambda value, bomb: {**value, "more": bomb},
    "among weights": lambda value, bomb: {**value, "model_state_dict": {**value["model_state_dict"], "more": bomb}},
    "for the genes": lambda value, bomb: {**value, "var_names": bomb},
    "in the history": lambda value, bomb: {**value, "attr_dict": {**value["attr_dict"], "history_": {"a": bomb}}},
    "among settings": lambda value, bomb: {**value, "attr_dict": {**value["attr_dict"], "init_params_": bomb}},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("payload", list(payloads(Path("mark"))))
@pytest.mark.parametrize("allow_pickle", [True, False])
def test_nothing_is_called(crafted: Path, tmp_path: Path, payload: str, place: str, allow_pickle: bool) -> None:
    mark = tmp_path / "mark"
    put(crafted, PLACES[place](content(crafted), payloads(mark)[payload]))
    try:
        VAE.import_scvi(crafted, allow_pickle=allow_pickle)
        # what names nothing but pandas or NumPy stays a stand-in that nobody looks at
        assert allow_pickle
        assert payload in ("fromfile", "csv")
    except ModelFileError:
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["scvi"]


@pytest.mark.parametrize("payload", ["system", "exec", "fromfile"])
def test_the_payloads_would_do_harm(crafted: Path, tmp_path: Path, payload: str) -> None:
    put(crafted, PLACES["in the history"](content(crafted), payloads(tmp_path / "mark")[payload]))
    content(crafted)
    assert any(path.name.startswith("mark") for path in tmp_path.iterdir())


def test_without_leave_the_file_is_not_opened(crafted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        pytest.fail("the file was read")

    for module, name in [(torch, "load"), (zipfile, "ZipFile"), (pickle, "Unpickler"), (io, "open"), (Path, "open")]:
        monkeypatch.setattr(module, name, forbidden)
    with pytest.raises(ModelFileError, match=r"allow_pickle=True, and save\(\)"):
        VAE.import_scvi(crafted)


def test_what_a_program_lets_torch_call_is_not_called_here(crafted: Path, tmp_path: Path) -> None:
    put(crafted, PLACES["in the history"](content(crafted), Call(os.mkdir, str(tmp_path / "mark"))))
    allowed = (os.mkdir, f"{os.mkdir.__module__}.mkdir")
    alike = (np.save, "numpy.ndarray")
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([allowed, alike])
    try:
        with pytest.raises(ModelFileError, match=r"mkdir"):
            read(crafted)
        assert set(torch.serialization.get_safe_globals()) == {*before, allowed, alike}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert not (tmp_path / "mark").exists()


def test_reading_leaves_nothing_allowed(saved: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_torch_file(saved / "model.pt")
    assert set(torch.serialization.get_safe_globals()) == before


# -- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_was_cut_short(crafted: Path, share: float) -> None:
    data = (crafted / "model.pt").read_bytes()
    (crafted / "model.pt").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelFileError, match=r"model\.pt cannot be read"):
        read(crafted)


def test_flipped_bits_change_no_answer(crafted: Path) -> None:
    data, expected = (crafted / "model.pt").read_bytes(), content(crafted)["model_state_dict"]
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        (crafted / "model.pt").write_bytes(flipped)
        try:
            found = read_scvi(crafted)
        except ModelFileError:
            refused += 1
        else:
            # such as in the date of a part, or the space between two
            assert all(torch.equal(value, expected[name]) for name, value in found.weights.items())
    assert refused > 0


def changed(path: list[str], value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


REGISTRY = ["attr_dict", "registry_"]
FIELDS = [*REGISTRY, "field_registries"]
SETTINGS = ["attr_dict", "init_params_", "non_kwargs"]
WEIGHTS = ["model_state_dict"]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ([*WEIGHTS, "px_r"], torch.full((40,), torch.nan), "'px_r' holds NaN"),
        ([*WEIGHTS, "l_encoder.mean_encoder.bias"], torch.full((1,), torch.inf), "holds NaN or infinite"),
        ([*WEIGHTS, "px_r"], torch.zeros(41), "px_r"),
        ([*WEIGHTS, "px_r"], torch.zeros(1).expand(40), "no plain tensor"),
        ([*WEIGHTS, "px_r"], torch.zeros(40, dtype=torch.complex64), "no plain tensor"),
        ([*WEIGHTS, "px_r"], torch.zeros(40).to_sparse(), "no plain tensor"),
        ([*WEIGHTS, "px_r"], torch.zeros(40, dtype=torch.int64), "px_r"),
        ([*WEIGHTS, "px_r"], [0.0] * 40, "no plain tensor"),
        ([*WEIGHTS, "surplus"], torch.zeros(3), "surplus"),
        ([*WEIGHTS], None, "weights"),
        (["var_names"], np.array(["a"] * 40, dtype=object), "there twice"),
        (["var_names"], {"rna": np.array(["a"], dtype=object)}, "no list of names"),
        (["var_names"], np.arange(40), "no list of names"),
        (["var_names"], np.array([f"g{i}" for i in range(39)], dtype=object), "do not fit"),
        (["attr_dict"], None, "attributes"),
        (["attr_dict", "scvi_setup_dict_"], {}, r"before 0\.15"),
        ([*REGISTRY, "model_name"], "SCANVI", "holds a SCANVI"),
        ([*REGISTRY, "setup_method_name"], "setup_datamodule", "setup_datamodule"),
        ([*REGISTRY, "setup_args", "spatial_key"], "x", "spatial_key"),
        ([*REGISTRY, "setup_args", "batch_key"], 3, "name of a column"),
        ([*REGISTRY, "setup_args", "categorical_covariate_keys"], ["sex"], "covariates by other names"),
        ([*FIELDS, "protein"], {}, "protein"),
        ([*FIELDS, "batch", "state_registry", "categorical_mapping"], np.array([], dtype=object), "Categories"),
        ([*FIELDS, "batch", "state_registry", "categorical_mapping"], np.array(["a", "a"], dtype=object), "unique"),
        (
            [*FIELDS, "batch", "state_registry", "categorical_mapping"],
            np.array(list("abc"), dtype=object),
            "do not fit",
        ),
        ([*FIELDS, "batch", "state_registry"], {}, "damaged"),
        ([*SETTINGS, "n_hidden"], 10**9, "n_hidden is 1000000000"),
        ([*SETTINGS, "n_layers"], 10**5, "must be a whole number of at most 1000"),
        ([*SETTINGS, "n_layers"], 0, "n_layers=0"),
        ([*SETTINGS, "n_latent"], -1, "n_latent=-1"),
        ([*SETTINGS, "n_hidden"], "many", "n_hidden='many'"),
        ([*SETTINGS, "dropout_rate"], 2.0, "cannot be loaded: dropout_rate must be a number from 0 to 1"),
        ([*SETTINGS, "gene_likelihood"], "nbinom", "gene_likelihood='nbinom'"),
        ([*SETTINGS, "dispersion"], "gene-cell-type", "dispersion='gene-cell-type'"),
        ([*SETTINGS, "use_observed_lib_size"], "yes", "use_observed_lib_size='yes'"),
        ([*SETTINGS, "novelty"], 1, "novelty"),
        (["attr_dict", "train_indices_"], np.array([-3]), "no positions of cells"),
        (["attr_dict", "train_indices_"], np.array(["a"], dtype=object), "no positions of cells"),
    ],
)
def test_what_makes_no_model_is_named(crafted: Path, path: list[str], value: Any, named: str) -> None:
    whole = content(crafted)
    changed(path, value)(whole)
    put(crafted, whole)
    with pytest.raises(ModelFileError, match=named):
        read(crafted)


@pytest.mark.parametrize("missing", ["model_state_dict", "var_names", "attr_dict"])
def test_a_part_that_is_missing(crafted: Path, missing: str) -> None:
    whole = content(crafted)
    del whole[missing]
    put(crafted, whole)
    with pytest.raises(ModelFileError):
        read(crafted)


def test_folders_that_are_none(tmp_path: Path, crafted: Path) -> None:
    with pytest.raises(ModelFileError, match=r"model\.pt is missing"):
        read(tmp_path / "nowhere")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "attr.pkl").write_bytes(pickle.dumps(Call(Path.touch, tmp_path / "mark")))
    with pytest.raises(ModelFileError, match="convert_legacy_save"):
        read(tmp_path / "old")
    assert not (tmp_path / "mark").exists()
    for other in (pickle.dumps({}), b"", b"PK\x03\x04"):
        (crafted / "model.pt").write_bytes(other)
        with pytest.raises(ModelFileError, match="cannot be read"):
            read(crafted)
    put(crafted, {}, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelFileError, match="cannot be read"):
        read(crafted)
    put(crafted, {})
    with zipfile.ZipFile(crafted / "model.pt", "a") as archive:
        # what tells a program of torch from weights
        archive.writestr(f"{archive.namelist()[0].split('/')[0]}/constants.pkl", pickle.dumps(()))
    with pytest.raises(ModelFileError, match="cannot be read"):
        read(crafted)


# -- plain values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", "b", None], dtype=object),
        np.array([], dtype=object),
        np.array(["beta", "a"]),
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([[True], [False]]),
        np.arange(3, dtype=">i4"),
        np.array([], dtype=np.int64),
        np.float16([0.5, 2]),
    ],
    ids=str,
)
def test_arrays_come_back_as_they_were(tmp_path: Path, array: np.ndarray) -> None:
    torch.save({"a": array, "again": [array, array]}, tmp_path / "file.pt")
    found = read_torch_file(tmp_path / "file.pt")
    np.testing.assert_array_equal(found["a"], array)
    assert found["a"].dtype == array.dtype
    assert found["again"][0] is found["again"][1] is found["a"]


def test_other_values_come_back_as_they_were(tmp_path: Path) -> None:
    table = pd.DataFrame({"loss": [1.5, np.nan, 3]}, index=pd.Index([0, 5, 10], name="epoch"))
    counted = pd.DataFrame({"loss": [1, 2]}, index=pd.RangeIndex(2, 4, name="epoch"))
    value = {"t": table, "c": counted, "n": np.int64(3), "s": {1, 2}, "x": torch.arange(3), "f": torch.nn.ReLU}
    torch.save(value, tmp_path / "file.pt")
    found = read_torch_file(tmp_path / "file.pt")
    for name in ("t", "c"):
        pd.testing.assert_frame_equal(
            found[name], value[name], check_dtype=False, check_index_type=False, check_column_type=False
        )
    assert (found["n"], found["s"]) == (3, {1, 2})
    assert torch.equal(found["x"], torch.arange(3))
    assert found["f"] == "torch.nn.modules.activation.ReLU"


def test_what_refers_to_itself_or_doubles_is_read_in_time(tmp_path: Path) -> None:
    doubled: Any = [0]
    for _ in range(60):
        doubled = [doubled, doubled]
    torch.save(doubled, tmp_path / "doubled.pt")
    assert len(read_torch_file(tmp_path / "doubled.pt")) == 2
    endless: list[Any] = []
    endless.append(endless)
    torch.save(endless, tmp_path / "endless.pt")
    with pytest.raises(ModelFileError):
        read_torch_file(tmp_path / "endless.pt")


def test_arrays_cannot_ask_for_memory(tmp_path: Path) -> None:
    class Sized(Call):
        """An array of a type that takes a gigabyte per value."""

        def __reduce__(self) -> tuple[Any, ...]:
            make, arguments, state, *_ = np.array(["a"]).__reduce__()
            return make, arguments, (state[0], (1,), Call(np.dtype, "U250000000"), False, b"aaaa")

    torch.save(Sized(None), tmp_path / "file.pt")
    with pytest.raises(ModelFileError, match="holds no arrays"):
        read_torch_file(tmp_path / "file.pt")


def test_errors_are_of_this_package(saved: Path) -> None:
    assert issubclass(ModelFileError, DeltaviError)
    assert read_scvi(saved).n_cells == 72


def test_load_points_to_the_way_in(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"manifest.json is missing\. import_scvi reads models of scvi-tools"):
        VAE.load(tmp_path)
