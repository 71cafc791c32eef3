"""Novelty score of a cell to a classifier: its distance from all training classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from sklearn.covariance import LedoitWolf

from deltavi._former_names import current_state
from deltavi._types import State
from deltavi.annotation._neighbours import least_reach

# Cells of a class that are kept: enough for its shape, and the model's file stays small.
MOST_PER_CLASS = 2000
# Spreads above the ordinary from which bad reconstruction alone makes a cell strange.
TOLERATED_ERROR = 2.0
SMALLEST = 1e-9


@dataclass(frozen=True)
class Scale:
    """Reference scale: a median, and the distance from it to the ninth decile as unit."""

    centre: float
    unit: float

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Scale of `values` ``(n_cells,)``."""
        centre, upper = np.quantile(values, [0.5, 0.9])
        return cls(float(centre), float(max(upper - centre, SMALLEST)))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """`values` in units above the centre."""
        scaled: np.ndarray = (values - self.centre) / self.unit
        return scaled


@dataclass(frozen=True, eq=False)
class OpenSetScorer:
    """Distance to the nearest class, by its own cells, or bad reconstruction where that is worse.

    The density of a class at a cell is that of the ball that reaches its k-th nearest cell of the class, in
    coordinates in which the covariance within classes is the identity; strange is a cell that lies in the dense part
    of no class. A cell that is reconstructed far worse than training cells of the same depth is strange at
    any position.

    Parameters
    ----------
    whitening
        ``(n_features, n_features)`` map to those coordinates.
    cells
        ``(n_kept, n_features)`` whitened training cells.
    codes
        ``(n_kept,)`` their labels.
    distance
        Reference scale of the log distance.
    depth_trend
        ``(3,)`` reconstruction error as a polynomial of log total counts, highest power first; ``None`` without
        reconstruction error.
    reconstruction_error
        Reference scale of the reconstruction error relative to that trend.
    """

    whitening: np.ndarray
    cells: np.ndarray
    codes: np.ndarray
    distance: Scale
    depth_trend: np.ndarray | None
    reconstruction_error: Scale | None

    @classmethod
    def fit(cls, features: np.ndarray, reconstruction_error: np.ndarray | None, codes: np.ndarray) -> Self:
        """Fit positions of the classes, and the reference scales.

        Parameters
        ----------
        features
            ``(n_cells, n_features)`` of labelled training cells.
        reconstruction_error
            ``(n_cells, 2)`` negative log likelihood of each cell's counts in nats, and log of its total; or ``None``.
        codes
            ``(n_cells,)`` labels.
        """
        features = np.asarray(features, dtype=np.float64)
        whitening = _whitening(features, codes)
        kept = _kept(codes)
        scorer = cls(
            whitening=whitening,
            cells=(features[kept] @ whitening).astype(np.float32),
            codes=codes[kept],
            distance=Scale(0.0, 1.0),
            depth_trend=None,
            reconstruction_error=None,
        )
        own = scorer._log_distance(features[kept], themselves=True)
        # the only cell of a class has no neighbour
        own = own[own > np.log(SMALLEST)] if (own > np.log(SMALLEST)).any() else np.zeros(1)
        errors = reconstruction_error
        trend = None if errors is None else np.polyfit(errors[:, 1], _relative(errors), _degree(errors))
        return cls(
            whitening=whitening,
            cells=scorer.cells,
            codes=scorer.codes,
            distance=Scale.of(own),
            depth_trend=trend,
            reconstruction_error=None if errors is None or trend is None else Scale.of(_excess(errors, trend)),
        )

    def score(self, features: np.ndarray, reconstruction_error: np.ndarray | None) -> np.ndarray:
        """Novelty score of each cell, higher for stranger ones, ``(n_cells,)``; zero is ordinary, one the ninth decile.

        Parameters
        ----------
        features
            ``(n_cells, n_features)``.
        reconstruction_error
            As in :meth:`fit`.
        """
        novelty_score = self.distance(self._log_distance(np.asarray(features, dtype=np.float64)))
        if reconstruction_error is None or self.reconstruction_error is None or self.depth_trend is None:
            return novelty_score
        badly_explained = self.reconstruction_error(_excess(reconstruction_error, self.depth_trend)) - TOLERATED_ERROR
        return np.asarray(np.maximum(novelty_score, badly_explained))

    def _log_distance(self, features: np.ndarray, *, themselves: bool = False) -> np.ndarray:
        """Least log distance to the k-th cell of a class; the kept cells `themselves` do not count as neighbours."""
        whitened = (features @ self.whitening).astype(np.float32)
        distances = least_reach(whitened, self.cells, self.codes, own=self.codes if themselves else None)
        logs: np.ndarray = np.log(np.maximum(distances, SMALLEST))
        return logs

    def as_dict(self) -> State:
        """Plain form, for files."""
        error = self.reconstruction_error
        return {
            "whitening": self.whitening,
            "cells": self.cells,
            "codes": self.codes,
            "distance": [self.distance.centre, self.distance.unit],
            "depth_trend": self.depth_trend,
            "reconstruction_error": None if error is None else [error.centre, error.unit],
        }

    @classmethod
    def from_dict(cls, saved: State) -> Self:
        """Inverse of :meth:`as_dict`."""
        saved = current_state(saved)
        error = saved["reconstruction_error"]
        scales = {
            "distance": Scale(*saved["distance"]),
            "reconstruction_error": None if error is None else Scale(*error),
        }
        return cls(**{**saved, **scales})


def _whitening(features: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Map that makes the covariance within classes the identity, shrunk as Ledoit and Wolf (2004) advise."""
    deviations = features.copy()
    for code in np.unique(codes):
        deviations[codes == code] -= features[codes == code].mean(0)
    covariance = LedoitWolf(assume_centered=True).fit(deviations).covariance_
    # constant features must not lead to infinite distances
    floor = max(float(np.trace(covariance)) / len(covariance), SMALLEST) * 1e-6
    factor: np.ndarray = np.linalg.cholesky(np.linalg.inv(covariance + floor * np.eye(len(covariance))))
    return factor


def _kept(codes: np.ndarray) -> np.ndarray:
    """Positions of at most `MOST_PER_CLASS` cells of each class, evenly spaced."""
    parts = []
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        n = min(len(members), MOST_PER_CLASS)
        parts.append(members[np.linspace(0, len(members) - 1, n).astype(int)])
    return np.concatenate(parts)


def _relative(errors: np.ndarray) -> np.ndarray:
    """Reconstruction error per unit of log total, which keeps deep and shallow cells comparable, ``(n_cells,)``."""
    relative: np.ndarray = errors[:, 0] / np.maximum(errors[:, 1], 1.0)
    return relative


def _degree(errors: np.ndarray) -> int:
    """Degree of the trend: a parabola if there are enough cells of different depth."""
    return int(min(2, len(np.unique(errors[:, 1])) - 1))


def _excess(errors: np.ndarray, trend: np.ndarray) -> np.ndarray:
    """Relative excess of the reconstruction error of each cell over that of cells of its depth."""
    expected = np.polyval(trend, errors[:, 1])
    excess: np.ndarray = _relative(errors) - expected
    return excess
