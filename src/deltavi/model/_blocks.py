"""Blocks of a prediction of many perturbations: one context under one perturbation, or its control cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._errors import DeltaviError, UnknownCategoryError, examples
from deltavi._random import isolated_randomness
from deltavi._types import State
from deltavi.likelihood.base import to_numpy
from deltavi.model._asked import condition_key, conditions_of
from deltavi.model._control_cells import ControlCells
from deltavi.model._decoding import CellDecoder, Predicted, profile_of, stack
from deltavi.model._one_pass import Start, start_of
from deltavi.model._other_genes import ContextGenes, OtherGenes, OtherPrediction
from deltavi.model._prediction import predicted_from
from deltavi.model._question import Condition, Question
from deltavi.model._treated import Treated, treated_of
from deltavi.model.own_response import described_groups
from deltavi.model.request import Request, described, with_matrices

if TYPE_CHECKING:
    from deltavi.model._responds import Responds


@dataclass(frozen=True, eq=False)
class Block:
    """Cells of one context under one condition.

    Parameters
    ----------
    cells
        As ``predict_perturbation`` returns them.
    context
        Their label.
    perturbation
        Its name; None of control cells.
    record
        What is said of the pair beside the record of its prediction.
    describes
        True where the training cells include the same cells under the perturbation.
    """

    cells: AnnData
    context: str
    perturbation: str | None
    record: State
    describes: bool = False


@dataclass(frozen=True, eq=False)
class Screen:
    """Many perturbations of the control cells of several contexts.

    Parameters
    ----------
    model
        A trained model.
    controls
        The control cells.
    question
        What is asked, of the first perturbation.
    perturbations
        All of them.
    treated
        Treated cells of some pairs, by perturbation.
    other
        Genes beside those of the model.
    with_controls
        Also hand out the control cells.
    batch_size
        Cells decoded at a time.
    """

    model: Responds
    controls: ControlCells
    question: Question
    perturbations: tuple[Condition, ...]
    treated: dict[str, Treated]
    other: OtherGenes | None
    with_controls: bool
    batch_size: int

    @property
    def n_pairs(self) -> int:
        """Pairs of a context and a perturbation."""
        return len(self.controls.contexts) * len(self.perturbations)

    @property
    def n_cells(self) -> int:
        """Cells of all blocks."""
        inside = np.isin(self.controls.request.groups, list(self.controls.contexts)).sum()
        return int(inside) * (len(self.perturbations) + self.with_controls)

    @property
    def n_blocks(self) -> int:
        """Pairs, and control cells of each context where they are handed out."""
        return self.n_pairs + self.with_controls * len(self.controls.contexts)

    def blocks(self, numbers: range) -> Iterator[Block]:
        """Blocks of these numbers.

        Context by context, since its cells are encoded once: the control cells first, then each perturbation.
        """
        of_context = (*([None] if self.with_controls else []), *self.perturbations)
        for place, context in enumerate(self.controls.contexts):
            first = place * len(of_context)
            wanted = [one for number, one in enumerate(of_context, first) if number in numbers]
            if not wanted:
                continue
            request = self.controls.of(self.model, context)
            start = start_of(self.model, request)
            other = None if self.other is None else self.other.of_context(self.model, self.controls, context)
            for perturbation in wanted:
                if perturbation is None:
                    yield self._of_controls(context, request, start.positions, other)
                else:
                    yield self._of_pair(context, perturbation, request, start, other)

    def _of_pair(
        self,
        context: str,
        perturbation: Condition,
        request: Request,
        start: Start,
        other: ContextGenes | None,
    ) -> Block:
        question = replace(self.question, perturbation=perturbation)
        few = self.treated.get(perturbation.name, Treated({})).cells
        treated = Treated({context: few[context]} if context in few else {})
        found = predicted_from(self.model, request, start, question, treated, batch_size=self.batch_size)
        own = found.uns[_keys.UNS_PREDICTION]["own_weights"]
        _, described = described_groups(self.model, request, perturbation.name, own)
        found.obs[_keys.OBS_PREDICTED] = True
        added = None if other is None else other.predicted(question)
        return Block(
            self._with_others(found, added),
            context,
            perturbation.name,
            {} if added is None else added.record(),
            describes=bool(described),
        )

    def _of_controls(self, context: str, request: Request, before: np.ndarray, other: ContextGenes | None) -> Block:
        found = control_block(self.model, request, before, self.question, batch_size=self.batch_size)
        found.obs[_keys.OBS_PREDICTED] = False
        return Block(self._with_others(found, None if other is None else other.observed()), context, None, {})

    def _with_others(self, cells: AnnData, added: OtherPrediction | None) -> AnnData:
        return cells if added is None or self.other is None else added.joined(cells, self.other.var(self.model))


@torch.inference_mode()
def control_block(
    model: Responds, request: Request, before: np.ndarray, question: Question, *, batch_size: int
) -> AnnData:
    """Control cells in the form of a prediction: what was observed, and what the networks expect of it."""
    parts, start, of_counts = [], 0, model.module.of_counts
    with isolated_randomness(question.seed):
        for tensors in request.loaded.batches(request.cells, batch_size):
            rows = slice(start, start + tensors[REGISTRY_KEYS.X_KEY].shape[0])
            decode = CellDecoder(model.module, tensors)
            rate = to_numpy(decode(before[rows], condition=question.control.code).mean).astype(np.float32)
            profile = profile_of(decode.observed, request.totals[rows], of_counts=of_counts)
            unknown = np.full(rate.shape, np.nan, dtype=np.float32) if question.n_samples > 1 else None
            counts = sparse.csr_matrix(decode.observed.astype(np.float32)) if of_counts else None
            kept = sparse.csr_matrix(profile) if of_counts else profile
            parts.append(Predicted(kept, rate, counts, unknown, unknown))
            start = rows.stop
    key, name = condition_key(model), question.control.name
    found = described(request, genes=model.gene_names, condition_key=key, perturbation=name)
    joined = stack(parts, len(model.gene_names), of_counts=of_counts, interval=question.n_samples > 1)
    with_matrices(found, joined.profile, joined.layers())
    found.obs_names = found.obs[_keys.OBS_SOURCE_CELL].astype(str)
    found.obs.index.name = None
    found.obsm[_keys.OBSM_LATENT_BEFORE], found.obsm[_keys.OBSM_LATENT_AFTER] = before, before
    return found


def treated_by_perturbation(
    model: Responds, treated: AnnData | None, controls: ControlCells, perturbations: tuple[Condition, ...]
) -> dict[str, Treated]:
    """Treated cells of each perturbation that there are some of.

    Raises
    ------
    DeltaviError
        If no column says what they were treated with, and there are several perturbations.
    UnknownCategoryError
        If they are of none of the perturbations.
    """
    if treated is None:
        return {}
    names = [one.name for one in perturbations]
    if not isinstance(treated, AnnData) or condition_key(model) not in treated.obs:
        if len(names) > 1 and isinstance(treated, AnnData):
            raise DeltaviError(
                f"treated has no obs[{condition_key(model)!r}], which says which of {len(names)} perturbations each "
                "cell was treated with: add the column."
            )
        return {names[0]: treated_of(model, treated, controls.request, names[0])}
    present = set(conditions_of(model, treated))
    found = {name: treated_of(model, treated, controls.request, name) for name in names if name in present}
    if not found:
        raise UnknownCategoryError(
            f"treated holds cells of {examples(sorted(present))}, and none of a perturbation that is asked for: "
            f"{examples(names)}."
        )
    return found
