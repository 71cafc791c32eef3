"""Fit of the crossed Gaussian process: kernel by skill, weights by likelihood, evidence, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from deltavi._errors import DeltaviError, unknown_category
from deltavi.perturbation.crossed_kernel import IDENTITY, PRODUCT, SIMILARITY, ContextKernel, Weights, settings_of
from deltavi.perturbation.crossed_kinds import CONTEXTS, PERTURBATIONS, predictable, skill_of_new, skills_of_pairs
from deltavi.perturbation.crossed_loo import leave_one_out
from deltavi.perturbation.crossed_process import Process, strongest
from deltavi.perturbation.crossed_ratios import effective_number
from deltavi.perturbation.crossed_skill import Calibration, Candidate, Skill, calibrated, candidate, chosen
from deltavi.perturbation.crossed_weights import bounded, estimate_weights

if TYPE_CHECKING:
    from deltavi._types import IntArray
    from deltavi.perturbation.crossed_loo import LeftOut
    from deltavi.perturbation.crossed_process import Moments
    from deltavi.perturbation.crossed_table import ResponseTable

AUTO = "auto"
# Below both of these a mean that is shrunk by its noise is all that can be said.
FEWEST_CONTEXTS, FEWEST_PAIRS = 3, 10
# Nats, per programme, below which there is no evidence of a response.
LEAST_EVIDENCE = 5.0
# Pairs, and values, that skill and intervals are computed from.
SKILL_PAIRS, SKILL_VALUES = 1500, 4_000_000
FEWEST_SKILL_GENES = 500
# Degrees of freedom of intervals where nothing can be left out.
LEAST_FREEDOM = 3.0


@dataclass(frozen=True, eq=False)
class Fitted:
    """Everything that is learned from a table.

    Attributes
    ----------
    process
        With its parameters.
    skills
        Skill of predicting what is left out, by kind; see :mod:`deltavi.perturbation.crossed_kinds`.
    tried
        Share explained of contexts left out by each kernel that was tried.
    calibration
        Of intervals.
    evidence
        Log ratio of the evidence of a response to that of none, nats, deflated to the number of programmes.
    is_fallback
        True where there are too few observations for more than a shrunk mean.
    """

    process: Process
    skills: Mapping[str, Skill]
    tried: Mapping[str, float]
    calibration: Calibration
    evidence: float
    is_fallback: bool


def fit_process(table: ResponseTable, kernel: str = AUTO, group_key: str | None = None) -> Fitted:
    """Fit all parameters; see :meth:`deltavi.perturbation.ResponseModel.fit` for the arguments."""
    small = bounded(table, SKILL_PAIRS)
    part = small.of_genes(_spread_genes(small))
    groups = groups_of(part, group_key)
    n_groups = len(np.unique(groups))
    if len(table.used_contexts) < FEWEST_CONTEXTS and table.n_pairs < FEWEST_PAIRS:
        return _fallback(table)
    if n_groups < FEWEST_CONTEXTS:
        found = ContextKernel(IDENTITY)
        weights, tried, skills = estimate_weights(small, found).weights, {}, {}
        process = Process.of(table, found, weights)
    else:
        candidates = {name: candidate(part, settings_of(name, part), groups) for name in _names(table, kernel)}
        best = chosen(list(candidates.values()))
        tried = {name: one.skill.explained for name, one in candidates.items()}
        process = Process.of(table, best.kernel, best.estimate.weights)
        skills = {CONTEXTS: best.skill}
    return _finished(process, part, groups, skills, tried, None if not skills else best)


def groups_of(table: ResponseTable, key: str | None) -> IntArray:
    """Number of the group of each pair: the value of a key of its context, or the context itself."""
    if key is None:
        return table.context_of
    if key not in table.keys:
        raise unknown_category("group_key", key, table.keys, among="the keys of the table")
    values = np.array([level[table.keys.index(key)] for level in table.levels], dtype=object)
    return np.asarray(np.unique(values, return_inverse=True)[1]).ravel()[table.context_of]


def _names(table: ResponseTable, kernel: str) -> list[str]:
    several = len(table.keys) > 1
    if kernel == PRODUCT and not several:
        raise DeltaviError(f"kernel={PRODUCT!r} needs contexts of several keys; the table has {table.keys[0]!r} only.")
    return [IDENTITY, *([PRODUCT] if several else []), SIMILARITY] if kernel == AUTO else [kernel]


def _finished(
    process: Process,
    part: ResponseTable,
    groups: IntArray,
    skills: Mapping[str, Skill],
    tried: Mapping[str, float],
    best: Candidate | None,
) -> Fitted:
    """Skill of pairs, evidence and calibration of a process, from a bounded part of its table."""
    on_part = process.on(part)
    left_out = leave_one_out(on_part)
    skills = {**skills, **_skills_in_contexts(on_part, left_out)}
    found = _by_pairs(part, left_out.moments) if best is None else calibrated(part, best.moments, groups)
    calibration = _of_all_genes(process.table, part, found)
    evidence = evidence_of(process)
    return Fitted(process, skills, tried, calibration, evidence, is_fallback=False)


def _by_pairs(table: ResponseTable, moments: Moments) -> Calibration:
    """Calibration by pairs left out one by one, without those that have a part of their own where others do not."""
    usable = predictable(table)
    rows = np.flatnonzero(usable) if usable.sum() > 1 else np.arange(table.n_pairs)
    return calibrated(table.of_pairs(rows), moments.of_queries(rows), rows)


def _skills_in_contexts(process: Process, left_out: LeftOut) -> dict[str, Skill]:
    """Skill of pairs of known contexts, and of perturbations that are left out of all."""
    of_new = skill_of_new(process, process.table)
    return skills_of_pairs(process.table, left_out) | ({} if of_new is None else {PERTURBATIONS: of_new})


def _of_all_genes(table: ResponseTable, part: ResponseTable, found: Calibration) -> Calibration:
    """Calibration of all genes; those that none was computed of have the typical nugget, in variances of one cell."""
    if part.n_genes == table.n_genes:
        return found
    nugget = table.variance * float(found.nugget.sum() / max(part.variance.sum(), 1e-300))
    nugget[_spread_genes(bounded(table, SKILL_PAIRS))] = found.nugget
    return replace(found, nugget=nugget)


def _spread_genes(table: ResponseTable) -> IntArray:
    """Positions of genes, spread evenly, for so many values in all."""
    n_kept = min(max(SKILL_VALUES // table.n_pairs, FEWEST_SKILL_GENES), table.n_genes)
    return np.unique(np.linspace(0, table.n_genes - 1, n_kept).astype(np.intp))


def evidence_of(process: Process) -> float:
    """Evidence of a response, nats, deflated from that of all genes to that of as many programmes as there are.

    Taken with the largest variance that a gene has in any context: where it is underestimated in one, noise there
    would be evidence.
    """
    table = bounded(process.table, SKILL_PAIRS)
    cautious = replace(table, variances=table.variances.max(0))
    found = Process.of(cautious, process.kernel, process.weights).signal.log_evidence
    positive = np.maximum(found, 0)
    squares = float((positive**2).sum())
    if squares == 0:
        return float(found.sum())
    n_genes = float(positive.sum()) ** 2 / squares
    number = effective_number(table.of_genes(strongest(table)).standardised())
    return float(found.sum()) * min(number / n_genes, 1.0)


def _fallback(table: ResponseTable) -> Fitted:
    """James-Stein: means of what was measured, shrunk by the share of their squared size that is not noise."""
    several = table.n_conditions > 1
    weights = Weights(0.5, 0.25, 0.0, 0.0, 0.25) if several else Weights(0.5, 0.0, 0.0, 0.0, 0.5)
    kernel, seen = ContextKernel(IDENTITY), table.variance > 0
    observed = float((table.standardised()[:, seen] ** 2).mean()) if seen.any() else 0.0
    signal = max(observed - float(table.noise.mean()), 0.0) / float(weights.prior(table.parts).mean())
    ratios = np.array([0.0, signal])
    process = Process.of(table, kernel, weights, ratios=ratios, shares=np.array([0.0, 1.0]))
    left_out = leave_one_out(process)
    calibration = Calibration(np.zeros(table.n_genes), LEAST_FREEDOM)
    skills = _skills_in_contexts(process, left_out)
    return Fitted(process, skills, {}, calibration, evidence_of(process), is_fallback=True)
