"""Progress bars: on standard error, and only in a terminal or a notebook."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from deltavi.train._ranks import present_ranks


def progress_bar(total: int, text: str, *, initial: int = 0, wanted: bool = True) -> Any:
    """Open a bar of tqdm on standard error, or in a notebook; elsewhere nothing is drawn, nor by other ranks than 0.

    Parameters
    ----------
    total, initial
        Number of steps, and of those done before.
    text
        Description of the work.
    wanted
        False for no bar.
    """
    with warnings.catch_warnings():  # without the widgets of notebooks, tqdm warns
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    in_notebook = any(base.__name__ == "tqdm_notebook" for base in tqdm.__mro__)
    is_seen = wanted and (in_notebook or is_terminal(sys.stderr))
    return tqdm(total=total, initial=initial, desc=text, disable=not (is_seen and present_ranks().is_first))


def is_terminal(stream: TextIO | None) -> bool:
    """True if `stream` is a terminal; a closed or missing one is none."""
    try:
        return stream is not None and bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


class EpochBar(Callback):
    """Bar of the epochs of a training, with its loss."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None

    def __getstate__(self) -> dict[str, object]:
        """Return the settings alone, since an open bar cannot be copied."""
        return {**self.__dict__, "_bar": None}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        self._bar = progress_bar(trainer.max_epochs or 0, "Training")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count an epoch, and show its loss."""
        if self._bar is not None and not self._bar.disable:
            loss = trainer.callback_metrics.get("train_loss")
            if loss is not None:
                self._bar.set_postfix(train_loss=f"{float(loss):.4g}", refresh=False)
            self._bar.update()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar of a training that failed."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def epoch_bars(trainer: dict[str, object], callbacks: Sequence[Callback]) -> list[Callback]:
    """Replace the bar of scvi-tools, which writes to standard output, in the options of a trainer.

    A bar among the user's `callbacks`, or of lightning with ``simple_progress_bar=False``, is left.
    """
    own = any(isinstance(callback, ProgressBar) for callback in callbacks)
    if own or not trainer.get("simple_progress_bar", True) or not trainer.get("enable_progress_bar", True):
        return []
    trainer["enable_progress_bar"] = False
    return [] if trainer.get("progress_bar_refresh_rate") == 0 else [EpochBar()]
