"""The stratified split: each label gets its share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.errors import DeltaviError
from deltavi.train import CellSplit, split_labelled


def split(codes: np.ndarray, *, seed: int = 0, **options: object) -> CellSplit:
    defaults = {"train_size": 0.9, "validation_size": None, "batch_size": 128}
    return split_labelled(codes, **{**defaults, **options}, generator=np.random.default_rng(seed))


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    n_unlabelled=st.integers(0, 80),
    train_size=st.floats(0.3, 1.0),
    validation_size=st.one_of(st.none(), st.floats(0.0, 0.3)),
    batch_size=st.integers(3, 64),
    seed=st.integers(0, 100),
)
@settings(max_examples=300, deadline=None)
def test_what_holds_for_every_split(
    sizes: list[int],
    n_unlabelled: int,
    train_size: float,
    validation_size: float | None,
    batch_size: int,
    seed: int,
) -> None:
    if validation_size is not None:
        train_size = min(train_size, 1 - validation_size)
    codes = np.random.default_rng(seed).permutation(np.repeat(np.arange(-1, len(sizes)), [n_unlabelled, *sizes]))
    if sum(int(np.ceil(train_size * n)) for n in (n_unlabelled, *sizes)) < 6:
        return
    ask = {"train_size": train_size, "validation_size": validation_size, "batch_size": batch_size, "seed": seed}
    found = split(codes, **ask)
    together = np.concatenate(found.as_external_indexing())
    assert sorted(together) == list(range(len(codes)))
    if len(found.train) > batch_size:
        assert len(found.train) % batch_size not in (1, 2)
    asks_for_validation = train_size < 1 if validation_size is None else validation_size > 0
    for code, n in enumerate(sizes):
        in_training = int((codes[found.train] == code).sum())
        in_validation = int((codes[found.validation] == code).sum())
        assert in_training >= 1
        if n >= 4 and asks_for_validation:
            assert in_validation >= 1
        if validation_size is None and n >= 4:
            # up to a tail of two cells, and to one cell for validation
            assert np.floor(train_size * n) - 2 <= in_training <= np.ceil(train_size * n)
    again = split(codes, **ask)
    for part, same in zip(found.as_external_indexing(), again.as_external_indexing(), strict=True):
        np.testing.assert_array_equal(part, same)


def test_shares_are_kept_label_by_label() -> None:
    codes = np.repeat([-1, 0, 1, 2], [1000, 500, 100, 20])
    found = split(codes, train_size=0.7, validation_size=0.2, batch_size=100)
    counts = [[int((codes[part] == code).sum()) for code in (-1, 0, 1, 2)] for part in found.as_external_indexing()]
    assert counts == [[700, 350, 70, 14], [200, 100, 20, 4], [100, 50, 10, 2]]


def test_rare_labels() -> None:
    codes = np.repeat([0, 1, 2, 3, 4], [50, 1, 2, 4, 5])
    found = split(codes)
    in_validation = [int((codes[found.validation] == code).sum()) for code in range(5)]
    assert in_validation == [5, 0, 0, 1, 1]
    assert set(codes[split(codes, train_size=0.01).train]) == set(range(5))


def test_no_validation_is_taken_where_none_is_asked_for() -> None:
    codes = np.repeat([0, 1], 32)
    assert len(split(codes, train_size=1.0).validation) == 0
    assert len(split(codes, train_size=0.9, validation_size=0.0).validation) == 0


def test_the_tail_comes_from_the_most_frequent_label() -> None:
    codes = np.repeat([-1, 0, 1], [10, 40, 16])
    found = split(codes, train_size=1.0, batch_size=64)
    assert len(found.train) == 64
    assert codes[found.validation].tolist() == [0, 0]
    out = split(codes, train_size=1.0, validation_size=0.0, batch_size=64)
    assert codes[out.test].tolist() == [0, 0]


def test_cells_are_drawn_and_mixed_at_random() -> None:
    codes = np.repeat([0, 1], 200)
    first, second = (split(codes, seed=seed) for seed in (0, 1))
    assert set(first.validation) != set(second.validation)
    # not one label after the other
    assert 60 < (codes[first.train[:180]] == 0).sum() < 120


@pytest.mark.parametrize(("train_size", "validation_size"), [(0.0, None), (1.2, None), (0.9, 0.3), (0.9, -0.1)])
def test_senseless_shares(train_size: float, validation_size: float | None) -> None:
    with pytest.raises(DeltaviError, match="size"):
        split(np.zeros(100, dtype=int), train_size=train_size, validation_size=validation_size)


@pytest.mark.parametrize("codes", [[], [0, 1], [0, -1]])
def test_too_few_cells(codes: list[int]) -> None:
    with pytest.raises(DeltaviError, match="too few"):
        split(np.array(codes, dtype=int))
