"""Mini-batches of labelled and unlabelled cells: every cell once, labels spread, rare ones in reach."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.train._labelled import spread
from deltavi.train._mixed import MixedBatches, RepeatingDataset


def batches_of(codes: np.ndarray, *, batch_size: int = 16, n_repeated: int = 4, seed: int = 0) -> MixedBatches:
    # training cells are some of 1000, so that a position and its rank cannot be mistaken for each other
    cells = np.arange(len(codes)) * 3 + 7
    return MixedBatches(
        cells,
        codes,
        n_cells=1000,
        batch_size=batch_size,
        n_repeated=n_repeated,
        generator=np.random.default_rng(seed),
    )


@settings(max_examples=60, deadline=None)
@given(
    codes=st.lists(st.integers(-1, 4), min_size=1, max_size=120),
    batch_size=st.integers(3, 40),
    n_repeated=st.integers(0, 7),
    seed=st.integers(0, 5),
)
def test_every_training_cell_has_one_regular_turn(
    codes: list[int], batch_size: int, n_repeated: int, seed: int
) -> None:
    batches = batches_of(np.array(codes), batch_size=batch_size, n_repeated=n_repeated, seed=seed)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    regular = [position for batch in drawn for position in batch if position < 1000]
    assert sorted(regular) == batches.cells.tolist()
    repeated = [position - 1000 for batch in drawn for position in batch if position >= 1000]
    labelled = set(batches.cells[batches.codes >= 0].tolist())
    assert set(repeated) <= labelled
    assert len(repeated) == (n_repeated * len(drawn) if labelled else 0)


def test_no_mini_batch_is_too_small_for_batch_normalisation() -> None:
    for n_cells in (3, 17, 18, 19, 33, 50):
        sizes = [len(batch) for batch in batches_of(np.full(n_cells, -1), n_repeated=0)]
        assert min(sizes) >= 3
        assert sum(sizes) == n_cells


def test_a_rare_label_is_in_nearly_every_mini_batch() -> None:
    codes = np.full(640, -1)
    codes[:400], codes[400:402] = 0, 1
    rare = {7 + 3 * 400, 7 + 3 * 401}
    cells = np.arange(640) * 3 + 7
    batches = MixedBatches(cells, codes, n_cells=5000, batch_size=64, n_repeated=4, generator=np.random.default_rng(0))
    seen = [sum(position % 5000 in rare for position in batch) for batch in batches]
    assert min(seen) >= 1
    # two labels in turn: half of the repeated draws each
    assert sum(seen) == pytest.approx(2 * len(seen) + 2)


def test_labels_are_spread_over_the_epoch() -> None:
    codes = np.array([0] * 10 + [-1] * 150)
    per_batch = [sum(codes[(p - 7) // 3] == 0 for p in batch) for batch in batches_of(codes, n_repeated=0)]
    assert max(per_batch) <= 2
    assert sum(per_batch) == 10


def test_spread_is_a_permutation_that_keeps_every_code_evenly_apart() -> None:
    codes = np.repeat([0, 1, 2], [50, 25, 5])
    order = spread(codes, np.random.default_rng(0))
    assert sorted(order) == list(range(80))
    for code, n in ((0, 50), (1, 25), (2, 5)):
        in_each_fifth = np.histogram(np.flatnonzero(codes[order] == code), bins=5, range=(0, 80))[0]
        assert (np.abs(in_each_fifth - n / 5) <= 2).all()


def test_same_seed_same_batches_and_epochs_differ() -> None:
    codes = np.random.default_rng(0).integers(-1, 3, 60)
    first, second, other = batches_of(codes), batches_of(codes), batches_of(codes, seed=1)
    epoch = list(first)
    assert epoch == list(second)
    assert epoch != list(other)
    assert epoch != list(first)


class Recorder:
    """Stands for the cells of an AnnData: hands out the positions it was asked for."""

    def __getitem__(self, positions: list[int]) -> dict[str, np.ndarray]:
        return {"X": np.full((len(positions), 4), 50.0, dtype=np.float32), "row": np.asarray(positions)[:, None]}


def test_repeated_draws_are_told_apart() -> None:
    loaded = RepeatingDataset(Recorder(), 100)[[3, 99, 103, 100]]
    assert loaded["row"].ravel().tolist() == [3, 99, 3, 0]
    assert loaded["drawn_again"].ravel().tolist() == [0, 0, 1, 1]


def test_only_repeated_draws_are_thinned_and_each_cell_as_a_whole() -> None:
    held = np.full((100, 400), 50.0, dtype=np.float32)
    factors = np.full((100, 1), 7.0, dtype=np.float32)

    class Held:
        def __getitem__(self, positions: list[int]) -> dict[str, np.ndarray]:
            return {"X": held, "size_factor": factors}

    loaded = RepeatingDataset(Held(), 50, thinning=0.2, generator=np.random.default_rng(0))[list(range(100))]
    x = loaded["X"]
    # the source is not written to
    assert (held == 50).all()
    assert (factors == 7).all()
    assert (x[:50] == 50).all()
    kept = x[50:].mean(1) / 50
    assert 0.19 <= kept.min() < 0.3
    assert 0.9 < kept.max() <= 1
    # one chance per cell: the variance is binomial
    assert abs(np.median(x[50:].var(1) / (50 * kept * (1 - kept))) - 1) < 0.2
    # and the total falls with the counts
    assert (loaded["size_factor"][:50] == 7).all()
    np.testing.assert_allclose(loaded["size_factor"][50:].ravel(), 7 * kept, rtol=0.05)
    assert (RepeatingDataset(Held(), 50)[list(range(100))]["X"] == 50).all()
