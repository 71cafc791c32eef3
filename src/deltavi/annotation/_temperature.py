"""Temperature scaling: match the probabilities of a trained classifier to observed frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.special import softmax as scipy_softmax

from deltavi._errors import DeltaviError

# Bounds of the logarithm of the temperature; the prior keeps the optimum far from both.
LOG_RANGE = (-5.0, 5.0)


@dataclass(frozen=True)
class TemperaturePrior:
    """Log-normal prior of a temperature.

    Parameters
    ----------
    median
        Temperature without any cell.
    spread
        Standard deviation of its logarithm. At 1 it weighs as much as a cell or two.
    """

    median: float = 1.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not (self.median > 0 and self.spread > 0):
            raise DeltaviError(f"median and spread must be positive, not {self.median} and {self.spread}.")

    def penalty(self, log_temperature: float) -> float:
        """Negative log density, up to a constant, in nats."""
        return float(((log_temperature - np.log(self.median)) / self.spread) ** 2 / 2)


WEAK_PRIOR = TemperaturePrior()


def fit_temperature(logits: np.ndarray, codes: np.ndarray, prior: TemperaturePrior = WEAK_PRIOR) -> float:
    """Temperature that makes held-out labels most likely (Guo et al. 2017).

    Minimises the negative log likelihood of softmax(logits / T), summed over cells, plus the penalty of `prior`,
    without which a few cells that are all classified rightly would drive T to zero. Without any cell T is the
    prior's median.

    Parameters
    ----------
    logits
        ``(n_cells, n_labels)`` unnormalised log probabilities of cells the classifier was not trained on.
    codes
        ``(n_cells,)`` their labels, 0 to ``n_labels - 1``.
    prior
        Prior of the temperature; the default is weak, around 1.

    Raises
    ------
    DeltaviError
        If shapes or codes do not fit, or a logit is not finite.
    """
    logits, codes = np.asarray(logits, dtype=np.float64), np.asarray(codes, dtype=np.int64)
    _check(logits, codes)
    if len(codes) == 0:
        return prior.median

    def objective(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / np.exp(log_temperature), axis=1)
        fit = np.take_along_axis(log_probabilities, codes[:, None], axis=1).sum()
        return float(prior.penalty(log_temperature) - fit)

    fitted = minimize_scalar(objective, bounds=LOG_RANGE, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(fitted.x))


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities ``(n_cells, n_labels)`` from `logits` of the same shape, flatter the higher the `temperature`."""
    probabilities: np.ndarray = scipy_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    return probabilities


def _check(logits: np.ndarray, codes: np.ndarray) -> None:
    if logits.ndim != 2 or codes.shape != logits.shape[:1]:
        raise DeltaviError(f"logits {logits.shape} must have a row per cell, and codes {codes.shape} an entry.")
    if not np.isfinite(logits).all():
        raise DeltaviError(f"{int((~np.isfinite(logits)).any(1).sum())} of {len(logits)} cells have NaN logits.")
    if len(codes) and not (codes.min() >= 0 and codes.max() < logits.shape[1]):
        raise DeltaviError(f"codes must lie between 0 and {logits.shape[1] - 1}; unlabelled cells cannot calibrate.")
