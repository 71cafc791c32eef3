"""Comparison of predictions with baselines and with the repeatability of the real cells, and its conclusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi._entries import flag, names, seed_number, shown
from deltavi._errors import DeltaviError, InputDataError, unknown_category
from deltavi._reading import known_arguments
from deltavi._types import Rows
from deltavi.arrays.matrix import Matrix, check_count
from deltavi.arrays.tables import align, axes_of
from deltavi.metrics import PredictionScore, score_prediction, signal_z
from deltavi.metrics.signals import LEAST_SIGNAL

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Cells: TypeAlias = AnnData | Matrix

SPLIT_HALF = "split-half ceiling"
"""Row of `compare` with the score that one random half of the real cells gets against the other."""

HIGHER_IS_BETTER = {
    "explained": True,
    "squared_error": False,
    "energy_distance": False,
    "pearson_delta": True,
    "pearson_delta_top": True,
    "r2_of_means": True,
    "r2_of_means_top": True,
    "mse_top": False,
    "direction_accuracy": True,
    "e_distance": False,
    "pearson_delta_top20": True,
    "pearson_delta_top50": True,
    "mse_top20": False,
    "mse_top50": False,
    "mse_delta": False,
    "r2_of_variances": True,
    "mmd": False,
    "differential_f1": True,
    "deg_overlap": True,
}
METRIC_NAMES = {
    "explained": "share explained",
    "squared_error": "noise-corrected squared error",
    "energy_distance": "energy distance",
    "pearson_delta": "Pearson delta",
    "pearson_delta_top": "Pearson delta of top genes",
    "mse_delta": "MSE delta",
    "e_distance": "E-distance",
    "mmd": "MMD",
    "r2_of_means": "R2 of means",
    "r2_of_means_top": "R2 of top means",
    "r2_of_variances": "R2 of variances",
    "differential_f1": "F1 of differential genes",
    "deg_overlap": "share of top genes in common",
}
SIGNAL = "signal_z"
JUDGED_BY = ("explained", "e_distance")
# Of tables that are older than the share explained.
FORMERLY_JUDGED_BY = ("pearson_delta", "e_distance")


@known_arguments
def compare(
    predictions: Mapping[str, Cells],
    real: Cells,
    control: Cells,
    *,
    reference: Cells | None = None,
    components: ArrayLike | None = None,
    n_top: int = 100,
    split_half: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Score several predictions of the same cells in one table.

    Parameters
    ----------
    predictions
        Name -> predicted perturbed cells, AnnData (X is used), DataFrame or matrix, (n_cells, n_genes), log1p CP10k.
    real, control
        Real perturbed cells and the control cells, on the same scale. The genes of AnnData and DataFrames are matched
        by name to those of the first that has names, `real` if it has; further ones are left out. Matrices have the
        same genes in that order.
    reference
        Other control cells, which no prediction has seen, on the same scale. The real change of the share explained,
        and `signal_z`, are measured from them; None takes the control cells, whose noise is then on both sides.
    components
        Projection for the E-distance, (n_genes, n_components); see `deltavi.metrics.principal_axes`. The rows of a
        DataFrame are matched by name.
    n_top
        Number of top differential genes for the scores named "top" and the direction accuracy.
    split_half
        Add the row "split-half ceiling": what one random half predicts of the other, about the best that any
        method can reach with so many cells.
    seed
        Seed of that split, and of the permutations of `deltavi.metrics.signal_z`.

    Returns
    -------
    One row per method, in the order given; the columns are the fields of `deltavi.metrics.PredictionScore` and
    ``signal_z``, the same for all methods.

    Raises
    ------
    DeltaviError
        There are no predictions, or one has the name of the ceiling.
    InputDataError
        A matrix is empty or holds NaN or infinite values, or there are too few real cells to split.
    GeneMatchError
        Genes cannot be matched by name, or their numbers differ.
    """
    if not isinstance(predictions, Mapping):
        raise DeltaviError(
            f"predictions must map names to predicted cells, {{'name': cells}}, not be a {type(predictions).__name__}."
        )
    if not predictions:
        raise DeltaviError("predictions is empty; pass at least one name with its predicted cells.")
    n_top, seed, split_half = check_count(n_top, "n_top"), seed_number("seed", seed), flag("split_half", split_half)
    if split_half and SPLIT_HALF in predictions:
        raise DeltaviError(
            f"{SPLIT_HALF!r} is the name of the added row; rename that prediction or pass split_half=False."
        )
    measured = {"real": real, "control": control} | ({} if reference is None else {"reference": reference})
    named = {name if name not in measured else f"predicted {name}": x for name, x in predictions.items()}
    found = align({**measured, **named}, further=True)
    real_x, control_x, reference_x = found[0], found[1], found[len(measured) - 1]
    predicted = found.matrices[len(measured) :]
    shared: dict[str, Any] = {"control": control_x, "reference": reference_x, "n_top": n_top}
    shared["components"] = None if components is None else axes_of(components, found)
    scores = {
        name: score_prediction(cells, real_x, **shared) for name, cells in zip(predictions, predicted, strict=True)
    }
    if split_half:
        scores[SPLIT_HALF] = score_prediction(*_halves(real_x, seed), **shared)
    return _table(scores).assign(**{SIGNAL: signal_z(real_x, reference_x, seed=seed)})


def _halves(real: Rows, seed: int) -> tuple[Rows, Rows]:
    """Two random halves of the real cells; the second, which plays the real cells, has the odd one."""
    n_cells = real.shape[0]
    if n_cells < 3:
        raise InputDataError(f"real has {n_cells} cells, too few for two halves. Pass split_half=False.")
    order = np.random.default_rng(seed).permutation(n_cells)
    return real[order[: n_cells // 2]], real[order[n_cells // 2 :]]


def _table(scores: Mapping[str, PredictionScore]) -> pd.DataFrame:
    rows = [score.as_dict() for score in scores.values()]
    return pd.DataFrame(rows, index=pd.Index(list(scores), name="method"))


@known_arguments
def conclusion(
    table: pd.DataFrame,
    model: str = "SCGEN",
    *,
    metric: str | Sequence[str] | None = None,
) -> str:
    """Describe in one sentence if a model beat the best baseline, or that the response is too small to tell.

    Parameters
    ----------
    table
        From `compare`, or the mean of several such tables. Baselines are all rows but `model` and the two halves.
    model
        Row to assess.
    metric
        Column or columns to compare by; each is compared with the baseline that does best on it. None takes the share
        explained and the E-distance.

    Returns
    -------
    The sentence, with the numbers and the name of the best baseline; where ``signal_z`` is below 3, the sentence that
    nothing can be ranked.

    Raises
    ------
    UnknownCategoryError
        The model or a metric is not in the table.
    DeltaviError
        A metric has no better or worse, a value is missing, a method occurs twice, or there is no baseline.
    """
    if not isinstance(table, pd.DataFrame):
        raise DeltaviError(f"table must be a DataFrame of scores, as compare returns it, not {shown(table)}.")
    if model not in table.index:
        raise unknown_category("method", model, table.index)
    if not table.index.is_unique:
        raise DeltaviError("The table names a method twice; average several tables by method first.")
    baselines = table.drop(index=[name for name in (model, SPLIT_HALF) if name in table.index])
    if baselines.empty:
        raise DeltaviError("The table holds no baseline to compare with. Add rows, e.g. from baseline_predictions.")
    chosen = judged_by(table) if metric is None else names("metric", metric)
    signal = float(table[SIGNAL].mean()) if SIGNAL in table else np.inf
    if signal < LEAST_SIGNAL:
        return (
            f"No method is ranked: the response is too small, {signal:.1f} standard deviations above its noise, where "
            f"at least {LEAST_SIGNAL:g} are needed."
        )
    outcomes = [_outcome(table, baselines, model, name) for name in chosen]
    return f"{model} {_joined(outcomes)}."


def judged_by(table: pd.DataFrame) -> list[str]:
    """Scores that a conclusion rests on unless told otherwise."""
    return list(JUDGED_BY if JUDGED_BY[0] in table else FORMERLY_JUDGED_BY)


@dataclass(frozen=True)
class _Outcome:
    """Scores of a model and of the best baseline on one metric."""

    verb: str
    clause: str


def _outcome(table: pd.DataFrame, baselines: pd.DataFrame, model: str, metric: str) -> _Outcome:
    if metric not in table.columns:
        raise unknown_category("metric", metric, table.columns)
    if metric not in HIGHER_IS_BETTER:
        raise DeltaviError(f"{metric!r} has no better or worse. Judge by {', '.join(map(repr, HIGHER_IS_BETTER))}.")
    reached = float(table[metric].to_numpy(dtype=float)[table.index == model][0])
    values = baselines[metric].to_numpy(dtype=float)
    if not np.isfinite([reached, *values]).all():
        raise DeltaviError(f"The column {metric!r} holds missing values; drop those rows first.")
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    best = int(np.argmax(sign * values))
    margin = sign * (reached - values[best])
    verb = "beat" if margin > 0 else "equalled" if margin == 0 else "did not beat"
    shown = METRIC_NAMES.get(metric, metric.replace("_", " "))
    return _Outcome(verb, f"on {shown} ({reached:.4g} against {values[best]:.4g} of {baselines.index[best]})")


def _joined(outcomes: Sequence[_Outcome]) -> str:
    """Join the outcomes into one predicate, with a shared verb once."""
    first, *rest = outcomes
    text = f"{first.verb} the best baseline {first.clause}"
    previous = first.verb
    for outcome in rest:
        conjunction = "or" if outcome.verb == "did not beat" else "and"
        same = outcome.verb == previous
        text += f" {conjunction} {outcome.clause}" if same else f", but {outcome.verb} it {outcome.clause}"
        previous = outcome.verb
    return text
