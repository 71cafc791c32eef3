"""Bars of training: on standard error, and only where somebody watches."""

from __future__ import annotations

import copy
import io
import sys
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback, TQDMProgressBar

from deltavi.datasets import simulate_perturbation
from deltavi.errors import TrainingDivergedError
from deltavi.model import VAE
from deltavi.train.progress import EpochBar, epoch_bars, is_terminal, progress_bar


class Screen(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def model() -> VAE:
    adata = simulate_perturbation(n_genes=20, n_cell_types=2, n_batches=1, n_cells_per_group=20)
    VAE.setup_anndata(adata)
    return VAE(adata, n_hidden=4, n_latent=2)


def train(model: VAE, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **options: Any) -> str:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        model.train(max_epochs=2, accelerator="cpu", **options)
    return stream.getvalue()


def test_a_bar_is_drawn_on_a_terminal(
    model: VAE, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = train(model, monkeypatch, Screen())
    assert "Training: 100%" in drawn
    assert "2/2" in drawn
    assert "train_loss=" in drawn
    assert "v_num" not in drawn
    assert capsys.readouterr().out == ""


def test_a_model_is_described_and_nothing_printed(model: VAE, capsys: pytest.CaptureFixture[str]) -> None:
    assert repr(model).startswith("VAE: zinb likelihood")
    assert repr(model).endswith("trained")
    assert len(f"{model}".splitlines()) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("options", [{}, {"enable_progress_bar": True}])
def test_no_bar_without_a_terminal(
    model: VAE, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    assert train(model, monkeypatch, io.StringIO(), **options) == ""
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("options", [{"enable_progress_bar": False}, {"progress_bar_refresh_rate": 0}])
def test_no_bar_where_none_is_wanted(model: VAE, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    assert train(model, monkeypatch, Screen(), **options) == ""


def test_the_bar_is_closed_where_training_fails(model: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            raise TrainingDivergedError("It failed.")

    stream = Screen()
    with pytest.raises(TrainingDivergedError):
        train(model, monkeypatch, stream, callbacks=[Failing()])
    assert stream.getvalue().endswith("\n")


def test_bars_of_the_caller_stay() -> None:
    for given in ({}, {"simple_progress_bar": False}, {"enable_progress_bar": False}):
        kept = dict(given)
        assert epoch_bars(kept, [] if given else [TQDMProgressBar()]) == []
        assert kept == given
    replaced: dict[str, Any] = {}
    assert [type(bar) for bar in epoch_bars(replaced, [])] == [EpochBar]
    assert replaced == {"enable_progress_bar": False}


def test_an_open_bar_is_not_copied() -> None:
    bar = EpochBar()
    bar._bar = progress_bar(3, "Training")
    assert copy.deepcopy(bar)._bar is None
    bar._close()
    bar._close()


def test_streams_that_are_no_terminals() -> None:
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    assert is_terminal(Screen())
    assert not is_terminal(closed)
    assert not any(map(is_terminal, (None, io.StringIO(), io.TextIOWrapper(io.BytesIO()))))
