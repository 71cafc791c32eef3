"""Mean latent position of every label in every condition: all that a shift needs of the training cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deltavi._errors import DeltaviError
from deltavi.perturbation._estimators import ALL_CELLS, ESTIMATORS, Evidence, GroupMeans, Shift
from deltavi.perturbation.shift import _check_options, _given_vector

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class LatentMeans:
    """Group means of the training cells.

    Kept in the model and in its file, so that a loaded model predicts without its training data.

    Parameters
    ----------
    by_label
        Condition -> means of the labels seen in it; empty where no labels were registered.
    overall
        Condition -> mean of all its cells.
    """

    by_label: dict[str, GroupMeans]
    overall: dict[str, GroupMeans]

    @property
    def has_labels(self) -> bool:
        """Whether labels were registered."""
        return bool(self.by_label)

    @classmethod
    def from_cells(
        cls, positions: NDArray[Any], *, conditions: NDArray[Any], labels: NDArray[Any] | None
    ) -> LatentMeans:
        """Means of `positions` ``(n_cells, n_latent)`` by condition, and by condition and label."""
        overall, by_label = {}, {}
        for condition in dict.fromkeys(conditions):
            inside = conditions == condition
            overall[condition] = group_means(positions[inside], np.full(int(inside.sum()), ALL_CELLS, dtype=object))
            if labels is not None:
                by_label[condition] = group_means(positions[inside], labels[inside])
        return cls(by_label=by_label, overall=overall)

    def shift(
        self,
        control: str,
        target: str,
        *,
        query: NDArray[Any],
        estimator: str | NDArray[Any],
        temperature: float,
    ) -> Shift:
        """Shift from `control` to `target` for cells whose mean latent position is `query` ``(n_latent,)``."""
        if not isinstance(estimator, str):
            return Shift(_given_vector(estimator, len(query)), "vector")
        _check_options(estimator, "euclidean", temperature)
        use_labels = self.has_labels and estimator != "global"
        groups = self.by_label if use_labels else self.overall
        missing = [condition for condition in (control, target) if condition not in groups]
        if missing:
            raise DeltaviError(f"No training cell has condition {missing[0]!r}: a shift cannot be estimated.")
        evidence = Evidence(
            control=groups[control],
            target=groups[target],
            has_labels=use_labels,
            query=np.asarray(query, dtype=np.float64),
            temperature=temperature,
            metric="euclidean",
        )
        return ESTIMATORS[estimator](evidence)

    def as_dict(self) -> dict[str, Any]:
        """Plain form for a model file."""
        return {
            kind: {
                condition: {"labels": group.labels, "means": np.asarray(group.means), "n_cells": group.n_cells}
                for condition, group in getattr(self, kind).items()
            }
            for kind in ("by_label", "overall")
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> LatentMeans:
        """Inverse of :meth:`as_dict`."""
        kinds = {
            kind: {condition: GroupMeans(**group) for condition, group in saved[kind].items()}
            for kind in ("by_label", "overall")
        }
        return cls(**kinds)


def group_means(positions: NDArray[Any], groups: NDArray[Any]) -> GroupMeans:
    """Means of `positions` ``(n_cells, n_dims)`` by group, in sorted order of the groups."""
    codes, names = pd.factorize(groups, sort=True)
    means = [positions[codes == code].mean(0, dtype=np.float64) for code in range(len(names))]
    sizes = np.bincount(codes, minlength=len(names))
    return GroupMeans(tuple(str(n) for n in names), np.stack(means), tuple(int(n) for n in sizes))


def weights_table(shifts: dict[str, Shift]) -> pd.DataFrame:
    """Weight and cells of every training label in the shift of every query group, one row each."""
    rows = [
        (group, label, weight, shift.n_control.get(label, 0), shift.n_target.get(label, 0))
        for group, shift in shifts.items()
        for label, weight in shift.weights.items()
    ]
    columns = ["query", "training_label", "weight", "n_control", "n_target"]
    table = pd.DataFrame(rows, columns=columns)
    table.index = table.index.astype(str)
    return table.astype({"query": str, "training_label": str, "weight": float, "n_control": int, "n_target": int})
