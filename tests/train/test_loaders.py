"""Mini-batches without steps in between: torch's own, in torch's order, after torch's draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scvi.dataloaders import AnnDataLoader
from torch.utils.data import DataLoader

from deltavi.model import VAE
from deltavi.train import FoldSplitter, MixedSplitter
from deltavi.train._loaders import CellLoader, PlainLoader
from deltavi.train.on_device import DeviceSplitter
from tests.model.conftest import SETUP, dense, small_adata

Batches = list[dict[str, torch.Tensor]]
N_CELLS = 144


def splitter(kind: str = "VAE", x: Any = None, **options: Any) -> Any:
    adata = small_adata()
    adata.X = adata.X if x is None else x(adata.X)
    VAE.setup_anndata(adata, **SETUP)
    manager = VAE(adata, n_hidden=8, n_latent=2).adata_manager
    parts = np.split(np.random.default_rng(0).permutation(N_CELLS), [115, 140])
    known = {"batch_size": 32, "external_indexing": parts, **options}
    made = {
        "VAE": lambda: DeviceSplitter(manager, **known),
        "MIXVI": lambda: MixedSplitter(manager, thinning=0.5, **known),
        "ACTINN": lambda: FoldSplitter(manager, folds=np.arange(N_CELLS) % 3, **known),
    }[kind]()
    made.setup()
    return made


def epochs(loader: Any, n: int = 2) -> tuple[Batches, torch.Tensor]:
    """All mini-batches of a few epochs, and the state of the generator after them."""
    torch.manual_seed(3)
    found = [batch for _ in range(n) for batch in loader]
    return found, torch.get_rng_state()


def torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainLoader, "__iter__", DataLoader.__iter__)


def assert_same(found: tuple[Batches, torch.Tensor], expected: tuple[Batches, torch.Tensor]) -> None:
    assert found[1].equal(expected[1])
    assert len(found[0]) == len(expected[0]) >= 2
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            assert ours[name].dtype == value.dtype, name
            assert ours[name].equal(value), name


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each epoch that was made here."""
    found: list[str] = []
    mini_batches = PlainLoader._mini_batches

    def noted(loader: Any) -> Iterator[Any]:
        found.append(type(loader).__name__)
        return mini_batches(loader)

    monkeypatch.setattr(PlainLoader, "_mini_batches", noted)
    return found


@pytest.mark.parametrize("x", [None, dense])
@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"batch_size": 64}])
@pytest.mark.parametrize("kind", ["VAE", "MIXVI", "ACTINN"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_mini_batches_are_those_of_torch(
    part: str, kind: str, options: dict[str, Any], x: Callable[[Any], Any] | None, monkeypatch: pytest.MonkeyPatch,
    plainly: list[str],
) -> None:  # fmt: skip
    found = epochs(getattr(splitter(kind, x, **options), f"{part}_dataloader")())
    assert plainly == ["PlainLoader" if part == "train" and kind != "VAE" else "CellLoader"] * 2
    torchs_own(monkeypatch)
    assert_same(found, epochs(getattr(splitter(kind, x, **options), f"{part}_dataloader")()))


def test_loaders_are_those_of_scvi() -> None:
    loader = splitter().train_dataloader()
    assert isinstance(loader, AnnDataLoader)
    assert isinstance(loader, CellLoader)
    assert len(loader) == 4


@pytest.mark.parametrize("options", [{"num_workers": 1}, {"collate_fn": lambda loaded: {"X": loaded["X"][:1]}}])
def test_other_loading_is_left_to_torch(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, plainly: list[str]
) -> None:
    found, _ = epochs(splitter(**options).train_dataloader())
    assert not plainly
    torchs_own(monkeypatch)
    expected, _ = epochs(splitter(**options).train_dataloader())
    assert len(found) == len(expected) == 8
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])) for name in theirs)
