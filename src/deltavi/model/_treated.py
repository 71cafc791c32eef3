"""A few treated cells of the groups that are asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from deltavi._errors import DeltaviError, InputDataError, UnknownCategoryError, examples
from deltavi.arrays.matrix import dense
from deltavi.model._asked import condition_key, conditions_of, totals_of
from deltavi.model._decoding import profile_of
from deltavi.registry.chunks import rowwise
from deltavi.registry.source import matrix_of
from deltavi.registry.tables import require_cells

if TYPE_CHECKING:
    from deltavi.model._responds import Responds
    from deltavi.model.request import Request


@dataclass(frozen=True, eq=False)
class Treated:
    """Treated cells by group.

    Parameters
    ----------
    cells
        Group -> ``(n_cells, n_genes)`` expression on the scale of a profile.
    """

    cells: dict[str, np.ndarray]


def treated_of(model: Responds, treated: AnnData | None, request: Request, perturbation: str) -> Treated:
    """Expression of treated cells of the groups of a request.

    Parameters
    ----------
    model
        A trained model.
    treated
        Cells under the perturbation, with any gene order; where a column of conditions says otherwise, those of other
        conditions are left out.
    request
        The cells that are asked about.
    perturbation
        Name of the perturbation.
    """
    if treated is None:
        return Treated({})
    treated = require_cells(treated, name="treated")
    aligned = model._validate_anndata(treated)
    groups, chosen = model._groups(treated, aligned), np.ones(treated.n_obs, dtype=bool)
    if condition_key(model) in treated.obs:
        conditions = conditions_of(model, treated)
        chosen = conditions == perturbation
        if not chosen.any():
            raise UnknownCategoryError(
                f"treated holds no cell of {perturbation!r}; its conditions are {examples(sorted(set(conditions)))}."
            )
    asked = [str(group) for group in dict.fromkeys(request.groups)]
    inside = {group: np.flatnonzero(chosen & (groups == group)) for group in asked}
    found = {group: cells for group, cells in inside.items() if len(cells)}
    if not found:
        raise UnknownCategoryError(
            f"treated holds cells of {examples(sorted(set(groups[chosen])))}, and none of what is asked about: "
            f"{examples(asked)}."
        )
    matrix = rowwise(matrix_of(aligned, model._setup_argument("layer")))
    totals, of_counts = totals_of(model, aligned), model.module.of_counts
    rows = {group: dense(matrix[cells]) for group, cells in found.items()}
    _refuse_controls(model, request, aligned, rows, found)
    return Treated(
        {group: profile_of(values, totals[found[group]], of_counts=of_counts) for group, values in rows.items()}
    )


def require_no_cells(treated: Treated) -> None:
    """Raise where treated cells were given that nothing can be combined with."""
    if treated.cells:
        raise DeltaviError(
            "treated corrects a response that training labels predict, and this model has none: pass labels_key to "
            "setup_anndata, with a label that was measured in both conditions."
        )


def _refuse_controls(
    model: Responds, request: Request, aligned: AnnData, rows: dict[str, np.ndarray], found: dict[str, np.ndarray]
) -> None:
    """Raise where cells are both treated and among those to predict."""
    place = dict(zip(request.adata.obs_names[request.cells], request.cells, strict=True))
    matrix = rowwise(matrix_of(request.adata, model._setup_argument("layer")))
    for group, cells in found.items():
        names = aligned.obs_names[cells]
        shared = [row for row, name in enumerate(names) if name in place]
        same = [r for r in shared if np.array_equal(rows[group][r], dense(matrix[np.array([place[names[r]]])])[0])]
        if same:
            raise InputDataError(
                f"{len(same)} cells of treated, such as {names[same[0]]!r}, are among the control cells to predict: "
                "a cell is either treated or a control."
            )
