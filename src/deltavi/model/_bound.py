"""The bound that training ends with: where it is absurd, an error with the likely cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deltavi._errors import TrainingDivergedError, examples

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

# Nats per cell that no model of expression comes to: a cell of 30,000 genes, badly fitted, has a hundred thousand.
LARGEST_BOUND = 1e6
# Values of one gene in one cell, and ratios of size factors, above which they are the likely cause.
LARGEST_COUNT, LARGEST_RATIO = 1e5, 1e4
BOUNDS = ("elbo_train", "elbo_validation")


def require_plausible_bound(model: CountModel, learning_rate: float | None) -> None:
    """Raise where the last epoch of `model` ended at a bound above a million nats per cell.

    Parameters
    ----------
    model
        Trained model.
    learning_rate
        That of its training, for the message.

    Raises
    ------
    TrainingDivergedError
        With the bound and what may be the cause of it.
    """
    last = {name: _last(model.history_, name) for name in BOUNDS}
    absurd = {name: value for name, value in last.items() if value > LARGEST_BOUND}
    if not absurd:
        return
    causes = [*_causes(model), f"a learning rate of {learning_rate:g} that is too large" if learning_rate else ""]
    listed = examples([f"{name} {value:.3g}" for name, value in absurd.items()]).replace("'", "")
    raise TrainingDivergedError(
        f"Training ended at {listed} nats per cell, which no fit comes to: nothing of use was learned. Likely causes: "
        f"{'; '.join(cause for cause in causes if cause)}. The model keeps these weights, so that they can be looked "
        "at; make a new one to train again."
    )


def _last(history: Any, name: str) -> float:
    """Last finite value under `name`, zero where there is none."""
    table = None if history is None else history.get(name)
    values = np.zeros(0) if table is None else np.asarray(table, dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    return float(values[-1]) if len(values) else 0.0


def _causes(model: CountModel) -> list[str]:
    """What of the registered data is on an unusual scale."""
    found = []
    largest = model._scan().max_value
    if largest > LARGEST_COUNT:
        found.append(f"values up to {largest:.3g} in {model._matrix_name()}")
    key = model._setup_argument("size_factor_key")
    if key is not None:
        factors = np.asarray(model.adata.obs[key], dtype=np.float64)
        ratio = float(factors.max() / factors.min())
        if ratio > LARGEST_RATIO:
            found.append(f"size factors in obs[{key!r}] that differ {ratio:.3g}-fold between cells")
    return found
