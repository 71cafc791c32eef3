"""Mini-batches made on a device, walked on the CPU, against those that NumPy and scipy cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi.model import VAE
from deltavi.registry import _batches, _device_rows, _resident_rows
from deltavi.registry._device_rows import KeptRows, SentRows, only_counts
from deltavi.registry._resident_rows import ResidentRows
from tests.registry.test_batches import (
    FORMS,
    N_CELLS,
    N_GENES,
    Form,
    arrays,
    backed,
    canonical,
    counts,
    doubled,
    registered,
    unsorted,
    with_zeros,
)

# one of the cells here is empty on purpose
pytestmark = pytest.mark.filterwarnings("ignore:.*have no counts at all:UserWarning")

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("kind", [KeptRows, SentRows])


def on_device(kind: type[SentRows], resident: ResidentRows, device: torch.device = CPU) -> SentRows:
    matrix = only_counts(resident.matrix)
    assert matrix is not None
    columns = {"code": np.arange(resident.matrix.shape[0], dtype=np.int64)[:, None]}
    return kind(matrix, resident.log_factorials(), columns, device)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for key, values in expected.items():
        wanted = torch.as_tensor(values)
        assert found[key].dtype == wanted.dtype, key
        assert torch.equal(found[key], wanted), key


# -- one mini-batch ----------------------------------------------------------------------------------------------


@BOTH
@given(
    seed=st.integers(0, 1000),
    rows=st.lists(st.integers(0, N_CELLS - 1), max_size=30),
    density=st.floats(0, 1),
    form=st.sampled_from([canonical, unsorted, with_zeros, doubled]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_gives_exactly_what_is_cut_in_memory(
    kind: type[SentRows], seed: int, rows: list[int], density: float, form: Form
) -> None:
    resident, asked = ResidentRows(form(counts(seed, density=density).astype(np.float32))), np.array(rows, dtype=int)
    found = on_device(kind, resident).with_counts(asked)
    expected = {**resident.with_counts(asked), "code": asked[:, None]}
    assert_same(found, expected)


@BOTH
@pytest.mark.parametrize("shape", [(0, N_GENES), (3, N_GENES), (1, 1)])
def test_cells_without_counts(kind: type[SentRows], shape: tuple[int, int]) -> None:
    resident = ResidentRows(sparse.csr_matrix(shape, dtype=np.float32))
    asked = np.arange(shape[0])
    assert_same(on_device(kind, resident).with_counts(asked), {**resident.with_counts(asked), "code": asked[:, None]})


@BOTH
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_any_kind_of_positions(kind: type[SentRows], index: Any) -> None:
    matrix = canonical(counts().astype(np.float32))
    matrix.indices, matrix.indptr = matrix.indices.astype(index), matrix.indptr.astype(index)
    resident, asked = ResidentRows(matrix), np.array([7, 3, 3], dtype=np.int32)
    expected = {**resident.with_counts(asked), "code": asked.astype(np.int64)[:, None]}
    assert_same(on_device(kind, resident).with_counts(asked), expected)


@BOTH
def test_a_mini_batch_outlives_the_next(kind: type[SentRows]) -> None:
    rows = on_device(kind, ResidentRows(canonical(counts().astype(np.float32))))
    first = rows.with_counts(np.arange(5))
    kept = {key: values.clone() for key, values in first.items()}
    rows.with_counts(np.arange(5, 10))
    for key, values in kept.items():
        assert torch.equal(first[key], values), key


@BOTH
@FORMS
def test_the_matrix_is_not_changed(kind: type[SentRows], form: Form) -> None:
    matrix = form(counts().astype(np.float32))
    copies = [values.copy() for values in arrays(matrix)]
    batch = on_device(kind, ResidentRows(matrix)).with_counts(np.arange(N_CELLS))
    for key in (REGISTRY_KEYS.X_KEY, _keys.NONZERO, _keys.NONZERO_COUNT, _keys.LOG_FACTORIAL):
        batch[key].fill_(-1)
    for now, copied in zip(arrays(matrix), copies, strict=True):
        np.testing.assert_array_equal(now, copied)


@BOTH
def test_memory_that_may_not_be_written_to_is_read(kind: type[SentRows]) -> None:
    matrix = canonical(counts().astype(np.float32))
    for values in arrays(matrix):
        values.flags.writeable = False
    asked = np.arange(4)
    asked.flags.writeable = False
    assert_same(
        on_device(kind, ResidentRows(matrix)).with_counts(asked),
        {**ResidentRows(matrix).with_counts(asked), "code": np.arange(4)[:, None]},
    )


@BOTH
def test_python_waits_for_nothing(kind: type[SentRows], monkeypatch: pytest.MonkeyPatch) -> None:
    resident = ResidentRows(canonical(counts().astype(np.float32)))
    asked = np.array([9, 2, 2, 0])
    expected = resident.with_counts(asked)
    rows = on_device(kind, resident)

    def waited(*_: object) -> None:
        raise AssertionError("Python waited for a number")

    with monkeypatch.context() as patch:
        for name in ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "numpy", "cpu", "nonzero"):
            patch.setattr(torch.Tensor, name, waited)
        found = rows.with_counts(asked)
    assert torch.equal(found[REGISTRY_KEYS.X_KEY], torch.as_tensor(expected[REGISTRY_KEYS.X_KEY]))


@BOTH
def test_sizes_are_known_without_values(kind: type[SentRows]) -> None:
    """Tensors on "meta" have no values: whoever wants to look at one gets an error."""
    resident, asked = ResidentRows(canonical(counts().astype(np.float32))), np.array([9, 2, 2, 0])
    found, expected = on_device(kind, resident, torch.device("meta")).with_counts(asked), resident.with_counts(asked)
    for key, values in expected.items():
        assert (found[key].device.type, found[key].shape) == ("meta", values.shape), key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@BOTH
def test_on_a_gpu_it_is_the_same_and_nothing_waits(kind: type[SentRows]) -> None:
    resident, asked = ResidentRows(canonical(counts().astype(np.float32))), np.array([9, 2, 2, 0])
    rows = on_device(kind, resident, torch.device("cuda"))
    rows.with_counts(asked)  # brings whatever stays there
    try:
        torch.cuda.set_sync_debug_mode("error")
        found = rows.with_counts(asked)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = {**resident.with_counts(asked), "code": asked[:, None]}
    assert_same({key: values.cpu() for key, values in found.items()}, expected)
    assert _device_rows.free_bytes(rows.device) > 0


# -- what may take this way --------------------------------------------------------------------------------------


def test_stored_zeros_go_and_what_is_no_count_is_refused() -> None:
    x = counts().astype(np.float32)
    stored = with_zeros(x)
    before, matrix = stored.nnz, only_counts(stored)
    assert matrix is not None
    assert (stored.nnz, matrix.nnz) == (before, np.count_nonzero(x))
    plain = canonical(x)
    assert only_counts(plain) is plain
    for no_count in (-1.0, 1e-9, np.nan):
        x[0, 0] = no_count
        assert only_counts(canonical(x)) is None


@pytest.mark.parametrize(("free", "kind"), [(10**6, KeptRows), (0, SentRows)])
def test_counts_stay_on_the_device_where_there_is_room(
    free: int, kind: type[SentRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_device_rows, "free_bytes", lambda _: free)
    dataset = registered(canonical(counts().astype(np.float32))).adata_manager.create_torch_dataset()
    assert type(dataset.rows_on(CPU)) is kind


def test_a_quarter_of_the_free_memory_is_room_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = canonical(counts().astype(np.float32))
    for beyond, kind in ((1, KeptRows), (0, SentRows)):
        monkeypatch.setattr(_device_rows, "free_bytes", lambda _, beyond=beyond: 4 * 8 * matrix.nnz + beyond)
        assert _device_rows.rows_for(matrix, CPU) is kind


def test_nobody_asks_a_device_without_memory_of_its_own() -> None:
    assert _device_rows.free_bytes(CPU) == 0


def test_a_data_set_hands_out_what_its_device_makes() -> None:
    dataset = registered(canonical(counts().astype(np.float32))).adata_manager.create_torch_dataset()
    expected = dataset[[4, 1, 1]]
    dataset.device_rows = dataset.rows_on(CPU)
    assert dataset.device_rows is not None
    assert_same(dataset[[4, 1, 1]], expected)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix], ids=["dense", "csr"])
@pytest.mark.parametrize("held", ["in memory", "backed"])
def test_only_sparse_counts_in_memory_move(form: Any, held: str, tmp_path: Path) -> None:
    x = form(counts().astype(np.float32))
    adata = backed(tmp_path, x) if held == "backed" else AnnData(x)
    VAE.setup_anndata(adata)
    dataset = VAE(adata, n_hidden=8, n_latent=2).adata_manager.create_torch_dataset()
    assert (dataset.rows_on(CPU) is not None) == (form is sparse.csr_matrix and held == "in memory")
    if held == "backed":
        adata.file.close()


def test_who_names_keys_stays_where_it_is() -> None:
    manager = registered(canonical(counts().astype(np.float32))).adata_manager
    assert _batches.OrderedDataset(manager, getitem_tensors=[REGISTRY_KEYS.X_KEY]).rows_on(CPU) is None


def test_factorials_of_all_cells_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = canonical(counts().astype(np.float32))
    expected = ResidentRows(matrix).with_counts(np.arange(N_CELLS))[_keys.LOG_FACTORIAL]
    for at_once in (1, 7, N_CELLS, 100):
        monkeypatch.setattr(_resident_rows, "CELLS_AT_ONCE", at_once)
        np.testing.assert_array_equal(ResidentRows(matrix).log_factorials(), expected)
