"""The draws behind a simulated screen: genes, contexts, programmes, perturbations, and the shares that follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from deltavi._types import BoolArray, FloatArray, IntArray
from deltavi.datasets._screen_parameters import ScreenParameters
from deltavi.datasets._simulation_draw import (
    LOG_DISPERSION_SD,
    MARKER_FRACTION,
    base_expression,
    correlated_programmes,
    similarity_of,
)

CONTROL = "control"
# Programmes that one perturbation moves.
PROGRAMMES_EACH = 2
HILL_SLOPES = (1.0, 3.0)
# By how much a perturbation moves its programmes, in either direction, relative to its size.
STRENGTHS = (0.5, 1.5)
# A gene that rose a hundredfold, or one of the few that hold most counts, would take the counts of all others.
LARGEST_LOADING = 2.0
HIGHEST_RANK = 0.9


@dataclass(frozen=True, eq=False)
class Treatments:
    """Conditions of a screen other than the control, and the effects they are made of: those of genes, then of drugs.

    Attributes
    ----------
    table
        A row per condition: ``perturbation``, ``kind`` (``"gene"``, ``"drug"`` or ``"pair"``) and ``dose``, NaN where
        there is none.
    parts
        ``(n_conditions, n_effects)`` by how much each effect enters: 1, or the Hill function of the dose.
    targets
        ``(n_conditions, n_targets)`` True where the target of an effect is knocked down.
    drugs
        A row per drug: ``half_dose`` and ``slope`` of its Hill function.
    """

    table: pd.DataFrame
    parts: FloatArray
    targets: BoolArray
    drugs: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Effects:
    """Draws per effect (of a gene or a drug), natural logarithms.

    Attributes
    ----------
    programmes
        ``(n_programmes, n_genes)`` standard normal up to extremes over the genes of the programme, 0 elsewhere.
    generic
        ``(n_genes,)`` response that all perturbations share.
    scores
        ``(n_effects, n_programmes)`` by how much an effect moves each programme, its size included.
    generic_scores
        ``(n_effects,)`` the same for the generic response.
    size
        ``(n_effects,)`` factor on the whole effect; 0 for an inert one.
    gains
        ``(n_contexts, n_effects, n_programmes)`` factor of a context on a programme moved by an effect.
    generic_gains
        ``(n_contexts,)`` factor of a context on the generic response.
    """

    programmes: FloatArray
    generic: FloatArray
    scores: FloatArray
    generic_scores: FloatArray
    size: FloatArray
    gains: FloatArray
    generic_gains: FloatArray

    def of_context(self, context: int) -> FloatArray:
        """Natural-log fold changes of every effect in a context, ``(n_effects, n_genes)``."""
        own = (self.scores * self.gains[context]) @ self.programmes
        return np.asarray(own + self.generic_gains[context] * np.outer(self.generic_scores, self.generic))


@dataclass(frozen=True, eq=False)
class ScreenTruth:
    """Draws of a screen before those of cells (natural logarithms).

    Attributes
    ----------
    logits
        ``(n_contexts, n_batches, n_genes)`` log expression of the control, up to a constant.
    inverse_dispersion
        ``(n_genes,)`` theta.
    positions, similarity
        Positions of the contexts, and ``(n_contexts, n_contexts)`` correlation of their control profiles.
    target_genes
        ``(n_targets,)`` positions of the genes that are targets.
    pair_interaction
        ``(n_conditions, n_genes)`` log fold change of a pair beyond the sum of its parts; 0 elsewhere.
    log_knockdown
        Log fold change of a target.
    """

    logits: FloatArray
    inverse_dispersion: FloatArray
    positions: FloatArray
    similarity: FloatArray
    target_genes: IntArray
    treatments: Treatments
    effects: Effects
    pair_interaction: FloatArray
    log_knockdown: float

    def log_fold_change(self, context: int) -> FloatArray:
        """Natural-log fold change by programmes, ``(n_conditions, n_genes)``, without knockdown of targets."""
        return np.asarray(self.treatments.parts @ self.effects.of_context(context) + self.pair_interaction)

    def knockdown(self) -> FloatArray:
        """Log fold change of the targets themselves, ``(n_conditions, n_genes)``."""
        change = np.zeros_like(self.pair_interaction)
        change[:, self.target_genes] = np.where(self.treatments.targets, self.log_knockdown, 0.0)
        return change

    def shares(self, context: int) -> FloatArray:
        """Expected counts relative to the library, ``(1 + n_conditions, n_batches, n_genes)``, the control first.

        Genes that respond keep their common share of the counts, so that others do not change; only what a knockdown
        takes away is missing from the sum.
        """
        control = np.exp(self.logits[context] - self.logits[context].max(axis=-1, keepdims=True))
        control /= control.sum(axis=-1, keepdims=True)
        change = self.log_fold_change(context)
        shares = np.empty((1 + len(change), *control.shape))
        shares[0] = control
        for i, (log_fold, knockdown) in enumerate(zip(change, self.knockdown(), strict=True)):
            shares[i + 1] = _balanced(control, log_fold) * np.exp(knockdown)
        return shares


def _balanced(control: FloatArray, log_fold: FloatArray) -> FloatArray:
    """Shares after a response, ``(n_batches, n_genes)``."""
    responding = np.flatnonzero(log_fold)
    shares = control.copy()
    if responding.size:
        raised = control[:, responding] * np.exp(log_fold[responding])
        kept = control[:, responding].sum(axis=1, keepdims=True) / raised.sum(axis=1, keepdims=True)
        shares[:, responding] = raised * kept
    return shares


def draw_screen(parameters: ScreenParameters, genes: list[str], generator: np.random.Generator) -> ScreenTruth:
    """Draw everything that does not depend on cells."""
    p = parameters
    positions = p.given_positions()
    if positions is None:
        positions = generator.standard_normal((p.n_contexts, 2))
    similarity = similarity_of(positions)
    base = base_expression(p.n_genes, generator)
    n_markers = int(np.ceil(MARKER_FRACTION * p.n_genes))
    identity = p.context_effect * correlated_programmes(similarity, p.n_genes, n_markers, generator)
    batch = p.batch_effect * generator.standard_normal((p.n_batches, p.n_genes))
    batch[0] = 0.0
    theta = p.inverse_dispersion * np.exp(LOG_DISPERSION_SD * generator.standard_normal(p.n_genes))
    ranked = np.argsort(base, kind="stable")
    targets = ranked[generator.permutation(p.target_ranks())[: p.n_perturbations]]
    treatments = _draw_treatments(p, [genes[i] for i in targets], generator)
    candidates = np.sort(ranked[: int(HIGHEST_RANK * p.n_genes)])
    between = similarity if p.gains == "similar" else np.eye(p.n_contexts)
    effects = _draw_effects(p, between, candidates, generator)
    return ScreenTruth(
        logits=base + identity[:, None] + batch,
        inverse_dispersion=theta,
        positions=positions,
        similarity=similarity,
        target_genes=targets,
        treatments=treatments,
        effects=effects,
        pair_interaction=_draw_pair_interaction(p, treatments, effects, generator),
        log_knockdown=float(np.log1p(-p.knockdown)),
    )


def _draw_treatments(parameters: ScreenParameters, targets: list[str], generator: np.random.Generator) -> Treatments:
    """Singles in the order of `targets`, then pairs, then drugs with all doses."""
    p, n = parameters, len(targets)
    rows: list[tuple[str, str, str, float]] = [(name, name, "gene", np.nan) for name in targets]
    parts = [np.eye(n, n + p.n_drugs)]
    possible = np.column_stack(np.triu_indices(n, 1))
    for pair in possible[generator.permutation(len(possible))[: p.n_pairs]]:
        name = "+".join(sorted(targets[i] for i in pair))
        rows.append((name, name, "pair", np.nan))
        parts.append(np.isin(np.arange(n + p.n_drugs), pair)[None].astype(np.float64))
    doses = np.sort(p.dose_levels())
    half = np.exp(generator.uniform(np.log(doses[0]), np.log(doses[-1]), size=p.n_drugs))
    slope = generator.uniform(*HILL_SLOPES, size=p.n_drugs)
    names = [f"drug_{i + 1}" for i in range(p.n_drugs)]
    for i, name in enumerate(names):
        rows += [(f"{name}_{dose:g}", name, "drug", float(dose)) for dose in doses]
        parts.append(np.outer(1 / (1 + (half[i] / doses) ** slope[i]), np.eye(n + p.n_drugs)[n + i]))
    table = pd.DataFrame(rows, columns=["condition", "perturbation", "kind", "dose"]).set_index("condition")
    every = np.vstack(parts)
    drugs = pd.DataFrame({"half_dose": half, "slope": slope}, index=pd.Index(names, dtype=object, name="drug"))
    return Treatments(table, every, every[:, :n] > 0, drugs)


def _draw_effects(
    parameters: ScreenParameters, similarity: FloatArray, candidates: IntArray, generator: np.random.Generator
) -> Effects:
    """Draw programmes, and by how much each effect moves them in each context."""
    p, n = parameters, parameters.n_perturbations + parameters.n_drugs
    programmes = np.stack([_programme(p, candidates, generator) for _ in range(p.n_programmes)])
    generic = _programme(p, candidates, generator)
    # of mean 1, so that a larger spread makes no larger screen
    size = np.exp(p.size_sd * generator.standard_normal(n) - 0.5 * p.size_sd**2)
    size[generator.permutation(n)[: int(np.floor(p.inert_fraction * n))]] = 0.0
    moved = np.argsort(generator.random((n, p.n_programmes)), axis=1) < PROGRAMMES_EACH
    strength = generator.uniform(*STRENGTHS, size=moved.shape) * generator.choice([-1.0, 1.0], size=moved.shape)
    scores = size[:, None] * p.specific_effect * moved * strength
    root = np.linalg.cholesky(similarity)
    own = generator.standard_normal((p.n_contexts, n * p.n_programmes))
    shared = generator.standard_normal(p.n_contexts)
    return Effects(
        programmes=programmes,
        generic=generic,
        scores=scores,
        generic_scores=p.generic_effect * size,
        size=size,
        gains=1.0 + p.context_interaction * (root @ own).reshape(p.n_contexts, n, p.n_programmes),
        generic_gains=1.0 + p.context_interaction * (root @ shared),
    )


def _programme(parameters: ScreenParameters, candidates: IntArray, generator: np.random.Generator) -> FloatArray:
    """Normal loadings of genes chosen among the candidates, without extremes, ``(n_genes,)``."""
    loadings = np.zeros(parameters.n_genes)
    members = generator.permutation(candidates)[: parameters.n_responding]
    loadings[members] = np.clip(generator.standard_normal(len(members)), -LARGEST_LOADING, LARGEST_LOADING)
    return loadings


def _draw_pair_interaction(
    parameters: ScreenParameters, treatments: Treatments, effects: Effects, generator: np.random.Generator
) -> FloatArray:
    """Interaction of some pairs, along a programme of its own choice, ``(n_conditions, n_genes)``."""
    found = np.zeros((len(treatments.table), parameters.n_genes))
    pairs = np.flatnonzero(treatments.table["kind"] == "pair")
    n_interacting = int(np.ceil(parameters.interacting_fraction * len(pairs)))
    for row in pairs[np.sort(generator.permutation(len(pairs))[:n_interacting])]:
        programme = effects.programmes[generator.integers(parameters.n_programmes)]
        found[row] = parameters.pair_interaction * generator.standard_normal() * programme
    return found
