"""Certainty of a prediction, and the coverage of its intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi import _keys
from deltavi._types import Rows
from deltavi.arrays.matrix import gene_means
from deltavi.perturbation.estimators import storable

if TYPE_CHECKING:
    from collections.abc import Mapping

# Genes predicted to change most, for the coverage that is hardest to reach.
N_TOP = 100
CERTAINTY = ("coverage", "coverage_top", "half_width", "uncertainty")
"""Columns of an evaluation: shares of genes whose measured change lies in its interval, of all and of the 100 predicted
to change most; half the mean width of the intervals, log1p CP10k; and the uncertainty of the prediction."""
UNKNOWN: Mapping[str, float] = dict.fromkeys(CERTAINTY, float("nan"))


def evidence_of(predicted: object) -> AnnData | None:
    """Intervals and uncertainties of a prediction, without its cells; None where it has none."""
    if not isinstance(predicted, AnnData) or _keys.VARM_LOWER not in predicted.varm:
        return None
    held = predicted.uns[_keys.UNS_PREDICTION]
    lean = AnnData(var=predicted.var[[]].copy(), uns={"uncertainty": held["uncertainty"]})
    for name in (_keys.VARM_LOWER, _keys.VARM_CHANGE, _keys.VARM_UPPER):
        lean.varm[name] = predicted.varm[name]
    return lean


def certainty(evidence: AnnData | None, label: str, real: Rows, control: Rows, genes: pd.Index) -> dict[str, float]:
    """Coverage and uncertainty of the prediction of one label.

    Parameters
    ----------
    evidence
        From `evidence_of`.
    label
        Label to report on.
    real, control
        ``(n_cells, n_genes)`` its real cells under either condition, log1p CP10k.
    genes
        Their names.
    """
    column = storable(label)
    if evidence is None or column not in evidence.varm[_keys.VARM_LOWER]:
        return dict(UNKNOWN)
    lower, change, upper = (
        evidence.varm[name][column].reindex(genes).to_numpy(dtype=float)
        for name in (_keys.VARM_LOWER, _keys.VARM_CHANGE, _keys.VARM_UPPER)
    )
    measured = gene_means(real) - gene_means(control)
    # means are sums in single precision: a gene without expression is on the edge of an interval without width
    edge = 1e-6
    inside = (measured >= lower - edge) & (measured <= upper + edge)
    top = np.argsort(-np.abs(change), kind="stable")[:N_TOP]
    uncertainty = evidence.uns["uncertainty"].set_index("query")["uncertainty"]
    found = (inside.mean(), inside[top].mean(), np.mean(upper - lower) / 2, uncertainty[label])
    known = np.isfinite(lower).all()  # with fewer than three labels there are no intervals
    return dict(zip(CERTAINTY, map(float, found if known else (*(np.nan,) * 3, uncertainty[label])), strict=True))
