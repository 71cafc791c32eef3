"""Response measured in the training labels, and predictions that combine it with that of the model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from deltavi import _keys
from deltavi._memory import bound_freed
from deltavi._random import isolated_randomness
from deltavi.arrays.matrix import RunningMeans
from deltavi.likelihood import Likelihood
from deltavi.model._decoding import CellDecoder, profile_of, profile_rows
from deltavi.model._measured import measured_responses
from deltavi.model._one_pass import Start
from deltavi.model._question import Question
from deltavi.model._treated import Treated, require_no_cells
from deltavi.model.request import Request
from deltavi.perturbation.coupling import count_coupling, coupling
from deltavi.perturbation.crossed_estimate import ResponseEstimate
from deltavi.perturbation.crossed_prediction import NO_EVIDENCE, WORSE_THAN_NO_CHANGE
from deltavi.perturbation.estimators import GroupMeans, storable
from deltavi.perturbation.few_shot import Update, update
from deltavi.perturbation.matching import match_means
from deltavi.perturbation.noise import cell_generators, uniforms
from deltavi.registry.conditions import SEPARATOR

if TYPE_CHECKING:
    from deltavi.model._responds import Responds

logger = logging.getLogger("deltavi")

# Query cells whose mean expression is matched; for what is expected of them, fewer cells are drawn several times.
MATCHED_CELLS = 256
# Likelihoods that cells are carried to, at least: some more than one.
N_TARGETS = 2
# Of those draws: the offsets of rates must not depend on the seed of a prediction.
MATCHING_SEED = 0


@dataclass(frozen=True, eq=False)
class ResponseEvidence:
    """Measured response of each group of the query, and the change of log rates that follows.

    Attributes
    ----------
    share
        Weight of the measured change in the predicted one.
    control
        Means of the control cells, one row for each group.
    estimates
        Group -> what the training labels say.
    rate_offsets
        Group -> ``(n_genes,)`` change of log rates (a Gaussian: of means) that gives the mean in expectation.
    cell_offsets
        Group -> ``(n_genes,)`` change that gives it with the quantiles that the cells of the prediction are drawn at.
    updates
        Group -> its response after a few treated cells were seen.
    """

    share: float
    control: GroupMeans
    estimates: dict[str, ResponseEstimate]
    rate_offsets: dict[str, np.ndarray]
    cell_offsets: dict[str, np.ndarray]
    updates: dict[str, Update]

    def shifted(self, target: Likelihood, groups: np.ndarray, *, drawn: bool = False) -> Likelihood:
        """`target` of cells of these `groups`, shifted in expectation or for cells as they are `drawn`."""
        offsets = self.cell_offsets if drawn else self.rate_offsets
        if not any(group in offsets for group in groups):
            return target
        zeros = np.zeros(self.control.means.shape[1])
        place = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        table = np.stack([offsets.get(str(group), zeros) for group in place]).astype(np.float32)
        rows = table if len(place) == 1 else table[[place[group] for group in groups]]
        return target.shifted_by(torch.from_numpy(rows).to(target.mean.device))


def unshifted(target: Likelihood, groups: np.ndarray, *, drawn: bool = False) -> Likelihood:
    """`target`, where there is no evidence that would shift it."""
    return target


def evidence_of(
    model: Responds,
    request: Request,
    positions: tuple[np.ndarray, np.ndarray],
    question: Question,
    treated: Treated,
    start: Start,
) -> ResponseEvidence | None:
    """Response of the groups of the query in training labels; None without labels, cells, or parts."""
    share, asked = question.share, SEPARATOR.join(question.perturbation.parts)
    measured = measured_responses(model, question.control.name) if asked and len(request.cells) else None
    if measured is None or not measured.has_measured(asked):
        require_no_cells(treated)
        return None
    control = start.control
    spread = measured.length_spread(asked) if treated.cells else 0.0
    evidence = ResponseEvidence(share, control, {}, {}, {}, {})
    for row, group in enumerate(control.labels):
        evidence.estimates[group] = estimate = measured.at(asked, group, control, question.effect_scale)
        few = treated.cells.get(group)
        if share == 0 and few is None:
            continue
        with isolated_randomness(MATCHING_SEED):
            cells = MatchedCells(model, request, group, positions, question)
            expected, change, weight = cells.expected, estimate.change, share
            if few is not None:
                given = expected.change(change, share), estimate.expected_error, few, control.means[row]
                evidence.updates[group] = updated = update(*given, variance=measured.table.variance, spread=spread)
                change, weight = updated.change, 1.0
            evidence.rate_offsets[group] = expected.offsets(change, weight)
            if question.cells_drawn_with is not None:
                drawn = cells.drawn(question.cells_drawn_with)
                evidence.cell_offsets[group] = drawn.offsets(change, weight, start=evidence.rate_offsets[group])
        bound_freed()
    return evidence


class MatchedCells:
    """Cells of a group by which its mean expression is brought to a wanted one, decoded."""

    @torch.inference_mode()
    def __init__(
        self,
        model: Responds,
        request: Request,
        group: str,
        positions: tuple[np.ndarray, np.ndarray],
        question: Question,
    ) -> None:
        chosen = request.some_of(group, MATCHED_CELLS)
        cells = request.cells[chosen]
        decode = CellDecoder(model.module, request.loaded.take(cells))
        self.observed, self.totals = decode.observed, request.totals[chosen]
        self.source, self.target = (
            decode(z[chosen], condition=code) for z, code in zip(positions, question.codes, strict=True)
        )
        self.names = request.adata.obs_names[cells]

    @cached_property
    def expected(self) -> Matching:
        """Matching of the mean that is to be expected: fewer cells are drawn several times."""
        return Matching(self, MATCHING_SEED, max(1, MATCHED_CELLS // len(self.names)))

    def drawn(self, seed: int) -> Matching:
        """Matching of the mean of these cells as they are drawn with this seed."""
        same = seed == MATCHING_SEED and len(self.expected.draws) == 1
        return self.expected if same else Matching(self, seed, 1)


class Matching:
    """Offsets of log rates at which the mean expression of cells is a wanted one.

    The mean is that of cells drawn at the quantiles of a seed, several times where there are few.
    """

    def __init__(self, cells: MatchedCells, seed: int, n_draws: int) -> None:
        # not the cells themselves, which may hold this: a circle is freed late, and with it large arrays
        self._target, n_genes = cells.target, cells.observed.shape[1]
        generators = cell_generators(cells.names, seed=seed)
        self.draws = [_mean_of(cells, uniforms(generators, n_genes)) for _ in range(n_draws)]
        self._known: list[tuple[np.ndarray, np.ndarray]] = []
        self.own = self.mean_at(np.zeros(n_genes))
        profile = profile_of(cells.observed, cells.totals, of_counts=cells.target.of_counts)
        self.control = profile.mean(0, dtype=np.float64)

    def mean_at(self, offsets: np.ndarray) -> np.ndarray:
        """Mean expression ``(n_genes,)`` of cells whose log rates are offset by so much."""
        # genes do not disturb one another: each may have had its offset at another time
        found, missing = np.zeros(len(offsets)), np.ones(len(offsets), dtype=bool)
        for known, means in self._known:
            found, missing = np.where(offsets == known, means, found), missing & (offsets != known)
        if missing.any():
            found = self._drawn_at(offsets)
            self._known.append((offsets, found))
        return found

    @torch.inference_mode()
    def _drawn_at(self, offsets: np.ndarray) -> np.ndarray:
        there = self._target.shifted_by(torch.from_numpy(offsets.astype(np.float32)))
        return np.asarray(np.mean([draw(there) for draw in self.draws], axis=0))

    def change(self, change: np.ndarray, share: float) -> np.ndarray:
        """Change of the mean ``(n_genes,)`` that is so much of `change`, and the model's own for the rest."""
        own = self.own - self.control
        return np.asarray(own + share * (change - own))

    def offsets(self, change: np.ndarray, share: float, *, start: np.ndarray | None = None) -> np.ndarray:
        """Offsets ``(n_genes,)`` that bring the change of the mean closer to `change`."""
        wanted = self.own + share * (change - (self.own - self.control))
        return match_means(self.mean_at, np.maximum(wanted, 0.0), start=start)


def _mean_of(cells: MatchedCells, uniform: np.ndarray) -> Callable[[Likelihood], np.ndarray]:
    """Mean profile ``(n_genes,)`` of the cells carried to a target at these quantiles."""
    observed, source, totals = cells.observed, cells.source, cells.totals
    if not source.of_counts:
        plain = coupling(observed, source, uniform=uniform)
        return lambda target: plain(target).mean(0, dtype=float)
    carried = count_coupling(observed, source, uniform=uniform, n_targets=N_TARGETS)
    return lambda target: column_means(profile_rows(carried(target), totals))


def column_means(rows: sparse.csr_matrix) -> np.ndarray:
    """Mean of each column, ``(n_columns,)`` in double precision, row by row as of a dense matrix."""
    sums = np.bincount(rows.indices, weights=rows.data, minlength=rows.shape[1])
    return np.asarray(sums / rows.shape[0])


def treated_table(updates: dict[str, Update]) -> pd.DataFrame:
    """Treated cells that were given of each group, and the factor of the predicted length that they showed."""
    rows = [(group, found.n_cells, found.length) for group, found in updates.items()]
    table = pd.DataFrame(rows, columns=pd.Index(["query", "n_treated", "length"]))
    table.index = table.index.astype(str)
    return table


def report_evidence(result: AnnData, evidence: ResponseEvidence, means: RunningMeans) -> None:
    """Write the change of every gene with its interval, and how far the query lies from the training labels.

    Parameters
    ----------
    result
        The predicted cells.
    evidence
        What their groups were predicted by.
    means
        Mean profile of each group as predicted.
    """
    names = list(evidence.estimates)
    changes = pd.DataFrame(index=result.var_names)
    lower, upper = changes.copy(), changes.copy()
    for row, name in enumerate(names):
        predicted = means.of(name)
        before, half = evidence.control.means[row], evidence.estimates[name].half_width
        if name in evidence.updates:
            half = half * evidence.updates[name].narrowing
        column = storable(name)
        changes[column] = predicted - before
        lower[column] = predicted - half - before
        upper[column] = predicted + half - before
    result.varm.update({_keys.VARM_CHANGE: changes, _keys.VARM_LOWER: lower, _keys.VARM_UPPER: upper})
    uncertainty = _reliability(evidence.estimates)
    result.uns[_keys.UNS_PREDICTION] |= {"empirical_weight": evidence.share, "uncertainty": uncertainty}
    if evidence.updates:
        result.uns[_keys.UNS_PREDICTION]["treated"] = treated_table(evidence.updates)
    _log_doubts(uncertainty)


def _reliability(estimates: dict[str, ResponseEstimate]) -> pd.DataFrame:
    """Uncertainty of every group, and the skill that is to be expected of its prediction."""
    columns = ("uncertainty", "max_training_uncertainty", "expected_skill", "n_worse", "n_groups")
    table = pd.DataFrame({"query": list(estimates)})
    for column in columns:
        table[column] = [getattr(estimate, column) for estimate in estimates.values()]
    table["flags"] = [", ".join(estimate.flags) for estimate in estimates.values()]
    table.index = table.index.astype(str)
    return table


def _log_doubts(table: pd.DataFrame) -> None:
    """Say which predictions are extrapolated, and which may be worse than none."""
    # where no response is evident there is none to extrapolate
    evident = np.array([NO_EVIDENCE not in flags for flags in table["flags"]], dtype=bool)
    far = table[(table["uncertainty"] > table["max_training_uncertainty"]) & evident]
    for _, found in far.iterrows():
        logger.warning(
            "The control cells of %r lie farther from the training labels than any of these from the others "
            "(uncertainty %.2f, otherwise at most %.2f): its response is extrapolated.",
            *found[["query", "uncertainty", "max_training_uncertainty"]],
        )
    for _, found in table[[WORSE_THAN_NO_CHANGE in flags for flags in table["flags"]]].iterrows():
        logger.warning(
            "The response of %r may be predicted worse than no change would (uncertainty %.2f; no change was nearer to "
            "%d of %d training labels that were left out).",
            *found[["query", "uncertainty", "n_worse", "n_groups"]],
        )
