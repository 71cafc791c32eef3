"""Cells of a prediction, and the AnnData it is returned in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi import _keys
from deltavi._entries import choice, names
from deltavi._errors import DeltaviError, examples
from deltavi._text import names_of
from deltavi._types import Rows
from deltavi.model._question import INDEPENDENT, MATCHED
from deltavi.perturbation.estimators import ALL_CELLS
from deltavi.registry.cells import Cells
from deltavi.registry.columns import require_known
from deltavi.registry.writable import writable_columns

# Of all predictions; some have fewer.
LAYERS = (_keys.LAYER_RATE, _keys.LAYER_COUNTS, _keys.LAYER_LOWER, _keys.LAYER_UPPER)


@dataclass(frozen=True, eq=False)
class Request:
    """Cells to predict.

    Parameters
    ----------
    adata
        AnnData in the model's form.
    cells
        Positions of the cells to predict.
    groups
        ``(n_cells,)`` label of each of them, or one group for all.
    totals
        ``(n_cells,)`` total counts of each of them, for CP10k.
    loaded
        All cells of `adata`, in mini-batches.
    """

    adata: AnnData
    cells: np.ndarray
    groups: np.ndarray
    totals: np.ndarray
    loaded: Cells

    def some_of(self, group: str, n: int) -> np.ndarray:
        """Up to `n` cells of a group, as positions among the cells; the same ones whatever their order."""
        members = np.flatnonzero(self.groups == group)
        names = np.asarray(self.adata.obs_names[self.cells[members]], dtype=str)
        in_order: np.ndarray = members[np.argsort(names, kind="stable")]
        return np.asarray(in_order[np.linspace(0, len(members) - 1, min(len(members), n)).astype(int)])


def described(request: Request, *, genes: np.ndarray, condition_key: str, perturbation: str) -> AnnData:
    """Predicted cells without their expression, as an AnnData that can be joined with the real ones.

    Parameters
    ----------
    request
        The cells that are predicted.
    genes
        Genes of the model.
    condition_key
        obs column that is set to `perturbation`.
    perturbation
        Predicted condition.
    """
    obs = writable_columns(request.adata.obs.iloc[request.cells])
    known = condition_key in obs
    before = names_of(obs[condition_key]) if known else np.full(len(obs), _keys.NO_SOURCE, dtype=object)
    obs[_keys.OBS_SOURCE_CONDITION] = pd.Categorical(before)
    obs[_keys.OBS_SOURCE_CELL] = obs.index.astype(str).to_numpy(dtype=object)
    obs[condition_key] = pd.Categorical([perturbation] * len(obs))
    # named apart from the cells they came from, so that both fit into one AnnData
    obs.index = obs.index.astype(str) + f"-{perturbation}"
    return AnnData(obs=obs, var=pd.DataFrame(index=pd.Index(genes.astype(str))))


def with_matrices(cells: AnnData, profile: Rows, layers: Mapping[str, Rows]) -> AnnData:
    """Put the expression of `cells` into their AnnData, in place; it is returned."""
    cells.X = profile
    for name, rows in layers.items():
        cells.layers[name] = rows
    return cells


def drop_unused_categories(obs: pd.DataFrame) -> None:
    """Leave out categories without cells, in place: plots and tests of scanpy fail on them."""
    for name in obs.columns[[isinstance(dtype, pd.CategoricalDtype) for dtype in obs.dtypes]]:
        obs[name] = obs[name].cat.remove_unused_categories()


def of_labels(groups: np.ndarray, labels: str | Sequence[str] | None) -> np.ndarray:
    """Cells of the chosen `labels`, ``(n_cells,)`` bool."""
    if labels is None:
        return np.ones(len(groups), dtype=bool)
    given = names("labels", labels)
    if not given:
        raise DeltaviError("labels is empty; name at least one label, or pass None for all.")
    present = sorted(set(groups))
    if present == [ALL_CELLS]:
        raise DeltaviError(f"labels={labels!r} was asked for, but the cells have no label column.")
    return np.isin(groups, [require_known("label", label, present) for label in given])


def layers_asked(layers: str | Sequence[str] | None, *, of_counts: bool, n_samples: int) -> tuple[str, ...] | None:
    """Layers to keep; None for all.

    Raises
    ------
    DeltaviError
        If the prediction has no such layer; the message lists those it has.
    """
    if layers is None:
        return None
    counted = (_keys.LAYER_COUNTS,) if of_counts else ()
    bounds = (_keys.LAYER_LOWER, _keys.LAYER_UPPER)
    asked = tuple(choice("layers", name, LAYERS) for name in names("layers", layers))
    known = (_keys.LAYER_RATE, *counted, *(bounds if n_samples > 1 else ()))
    for name in asked:
        if name not in known:
            why = "pass n_samples above 1 for bounds" if name in bounds else "the likelihood is not of counts"
            raise DeltaviError(f"layers names {name!r}, and this prediction has {examples(known)}: {why}.")
    return asked


def check_options(output: str, invalid_cells: str, similarity_space: str, draws: str) -> None:
    """Raise where an option of a prediction makes no sense."""
    choice("output", output, ("cells", "mean"))
    choice("draws", draws, (MATCHED, INDEPENDENT))
    if draws == INDEPENDENT and output != "cells":
        raise DeltaviError(f"draws={draws!r} is of cells, and output={output!r} has none: leave one of them out.")
    choice("similarity_space", similarity_space, ("expression", "latent"))
    choice("invalid_cells", invalid_cells, ("error", "drop"))
