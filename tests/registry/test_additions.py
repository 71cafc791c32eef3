"""What is added to a mini-batch or changed in it: the same of arrays and of tensors on a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from deltavi.registry.additions import beside, replaced

N_CELLS, N_GENES = 5, 7
CELL, GENE = np.array([4, 0, 4, 2]), np.array([6, 0, 1, 3], dtype=np.int32)
VALUES = np.array([3, 0, 9, 2**24 - 1])


def expression() -> np.ndarray:
    return np.random.default_rng(0).poisson(3.0, (N_CELLS, N_GENES)).astype(np.float32)


def test_values_are_of_the_kind_of_their_mini_batch() -> None:
    values, x = np.ones((N_CELLS, 1), dtype=np.float32), expression()
    assert beside(x, values) is values
    found = beside(torch.from_numpy(x), values)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), values)
    assert beside(torch.empty(N_CELLS, N_GENES, device="meta"), values).device.type == "meta"


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_named_places_change_in_a_copy(kind: Any) -> None:
    x, expected = expression(), expression()
    for cell, gene, value in zip(CELL, GENE, VALUES, strict=True):
        expected[cell, gene] = value
    given = kind(x)
    found = replaced(given, CELL, GENE, VALUES)
    assert type(found) is type(given)
    assert found.dtype == given.dtype
    np.testing.assert_array_equal(np.asarray(found), expected)
    np.testing.assert_array_equal(x, expression())


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_nothing_to_replace(kind: Any) -> None:
    none = np.zeros(0, dtype=np.int64)
    np.testing.assert_array_equal(np.asarray(replaced(kind(expression()), none, none, none)), expression())


def test_places_beyond_the_range_of_their_type_are_found() -> None:
    """Rows and columns may be 32-bit where their product is not."""
    x = torch.empty(100_000, 50_000, device="meta")
    last = np.array([99_999], dtype=np.int32), np.array([49_999], dtype=np.int32)
    assert replaced(x, *last, np.array([1])).shape == x.shape


def test_python_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(expression())

    def waited(*_: object) -> None:
        raise AssertionError("Python waited for a number")

    with monkeypatch.context() as patch:
        for name in ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "numpy", "cpu", "nonzero"):
            patch.setattr(torch.Tensor, name, waited)
        found = replaced(x, CELL, GENE, VALUES), beside(x, VALUES)
    assert all(isinstance(values, torch.Tensor) for values in found)
