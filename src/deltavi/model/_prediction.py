"""Predictions of cells under another condition, from a question to an AnnData in memory or in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

import deltavi
from deltavi import _keys
from deltavi._entries import flag
from deltavi._random import isolated_randomness
from deltavi._types import Rows, State
from deltavi.arrays.matrix import RunningMeans
from deltavi.io import BlockFile, PathLike, require_store
from deltavi.model._asked import condition_key
from deltavi.model._decoding import CellDecoder, Predicted, predict_cells, predictive_interval, stack
from deltavi.model._empirical_response import ResponseEvidence, evidence_of, report_evidence, unshifted
from deltavi.model._gathered import Gathered
from deltavi.model._one_pass import Start, start_of
from deltavi.model._question import Question
from deltavi.model._shifts import shifted_positions
from deltavi.model._together import asked_of, write_shared
from deltavi.model._treated import Treated
from deltavi.model.own_response import own_weights, warn_of_own_cells
from deltavi.model.request import Request, described, drop_unused_categories, with_matrices
from deltavi.registry.stored_rows import places_of
from deltavi.train import present_ranks
from deltavi.train.progress import progress_bar

if TYPE_CHECKING:
    from deltavi.model._responds import Responds

# Takes the profile and the layers of the next cells.
Sink = Callable[[Rows, Mapping[str, Rows]], None]
# Profile and layers of a mini-batch.
Part: TypeAlias = tuple[Rows, Mapping[str, Rows]]


@dataclass(frozen=True)
class Delivery:
    """Form that an answer is handed over in.

    Parameters
    ----------
    path
        File to write, in the form that :func:`deltavi.io.require_store` gives it; None for an AnnData in memory.
    layers
        Layers to keep; None for all.
    progress
        Show a progress bar.
    """

    path: Path | None = None
    layers: tuple[str, ...] | None = None
    progress: bool = False


IN_MEMORY = Delivery()


def delivery_of(
    path: PathLike | None,
    *,
    overwrite: bool,
    layers: tuple[str, ...] | None,
    progress: bool,
    read: Iterable[AnnData | None],
) -> Delivery:
    """Delivery as it is asked for, of an answer that is made from the cells in `read`.

    Raises
    ------
    DeltaviError
        If `path` exists without `overwrite`, is something else than an AnnData file, or that of cells to read.
    FileWriteError
        If its folder cannot be written to.
    """
    replaces, is_shown = flag("overwrite", overwrite), flag("progress", progress)
    sources = {place for cells in read for place in places_of(cells)}
    target = None if path is None else require_store(path, overwrite=replaces, sources=sources)
    return Delivery(target, layers, is_shown)


def answer(
    model: Responds,
    request: Request,
    question: Question,
    treated: Treated,
    delivery: Delivery,
    *,
    batch_size: int,
) -> AnnData | Path:
    """Predicted cells of `request`, with a record of what was done; the path of the file where one is written.

    Parameters
    ----------
    model
        A trained model.
    request
        The cells.
    question
        What is asked of them.
    treated
        A few treated cells of some of the groups.
    delivery
        What is made of them.
    batch_size
        Cells decoded at a time.
    """
    moved = MovedCells.of(model, request, start_of(model, request), question, treated)
    result: AnnData | Path
    if delivery.path is None:
        result = moved.in_memory(delivery, batch_size)
        drop_unused_categories(result.obs)
    else:
        result = moved.in_file(delivery.path, delivery, batch_size)
    if delivery.path is None or present_ranks().is_first:
        warn_of_own_cells(model, request, question.perturbation.name, moved.own_weights)
    return result


def predicted_from(
    model: Responds,
    request: Request,
    start: Start,
    question: Question,
    treated: Treated,
    *,
    batch_size: int,
) -> AnnData:
    """As :func:`answer`, of cells that were encoded before; it warns of nothing."""
    return MovedCells.of(model, request, start, question, treated).in_memory(IN_MEMORY, batch_size)


@dataclass(frozen=True, eq=False)
class MovedCells:
    """Cells at their new latent positions, whose expression there is still to be decoded.

    Parameters
    ----------
    model
        A trained model.
    request
        The cells.
    question
        What is asked of them.
    before, after
        ``(n_cells, n_latent)`` positions.
    how
        Record of the shift.
    evidence
        Measured responses that the prediction rests on, if there are any.
    """

    model: Responds
    request: Request
    question: Question
    before: np.ndarray
    after: np.ndarray
    how: State
    evidence: ResponseEvidence | None

    @classmethod
    def of(cls, model: Responds, request: Request, start: Start, question: Question, treated: Treated) -> MovedCells:
        """Cells of a request moved as the question asks."""
        before = start.positions
        after, how = shifted_positions(model, request, before, question)
        evidence = evidence_of(model, request, (before, after), question, treated, start)
        return cls(model, request, question, before, after, how, evidence)

    @cached_property
    def own_weights(self) -> pd.DataFrame:
        """Weight of each group's own treated cells in its answer."""
        return own_weights(self.model, self.request, self.question, self.how, self.evidence)

    def in_memory(self, delivery: Delivery, batch_size: int) -> AnnData:
        """All cells as one AnnData."""
        gathered = Gathered(len(self.request.cells))
        with self._working(delivery) as count:
            parts = self._parts(delivery, batch_size, range(self._n_parts(batch_size)))
            means = self._handed_out(parts, gathered.add, count)
        return with_matrices(self._described(means), *gathered.all())

    def in_file(self, path: Path, delivery: Delivery, batch_size: int) -> Path:
        """File of all cells, a mini-batch of which is in memory at a time; it takes its place once it is complete.

        Several processes share the mini-batches.
        """

        def write(part: Path, parts: Iterable[Part]) -> None:
            with BlockFile(part, len(self.request.cells)) as file:
                cells = self._described(self._handed_out(parts, file.add_rows, count))
                drop_unused_categories(cells.obs)
                file.finish(obs=cells.obs, var=cells.var, obsm=cells.obsm, varm=cells.varm, uns=cells.uns)

        with self._working(delivery) as count:
            parts = partial(self._parts, delivery, batch_size)
            write_shared(path, parts, write, n_blocks=self._n_parts(batch_size), asked=partial(self._asked, delivery))
        return path

    @contextmanager
    def _working(self, delivery: Delivery) -> Iterator[Callable[[int], object]]:
        """Counter of decoded cells."""
        bar = progress_bar(len(self.request.cells), "predicting", wanted=delivery.progress)
        # encoders draw, though no draw reaches the answer
        with isolated_randomness(self.question.seed), bar:
            yield bar.update

    def _handed_out(self, parts: Iterable[Part], add: Sink, count: Callable[[int], object]) -> RunningMeans:
        """Hand out decoded cells, mini-batch by mini-batch; returns the mean profile of each group."""
        means, start = RunningMeans(), 0
        for profile, layers in parts:
            stop = start + profile.shape[0]
            if self.evidence is not None:
                means.add(profile, self.request.groups[start:stop], "predicted")
            add(profile, layers)
            count(stop - start)
            start = stop
        return means

    def _n_parts(self, batch_size: int) -> int:
        """Number of mini-batches; of no cells there is one without cells."""
        return max(1, -(-len(self.request.cells) // batch_size))

    def _parts(self, delivery: Delivery, batch_size: int, numbers: range) -> Iterator[Part]:
        """Profile and layers of the mini-batches of these numbers."""
        start, stop = (number * batch_size for number in (numbers.start, numbers.stop))
        if not len(self.request.cells) and numbers:
            interval = self.question.n_samples > 1
            none = stack([], len(self.model.gene_names), of_counts=self.model.module.of_counts, interval=interval)
            yield none.profile, none.layers(delivery.layers)
        for tensors in self.request.loaded.batches(self.request.cells[start:stop], batch_size):
            rows = slice(start, start + tensors[REGISTRY_KEYS.X_KEY].shape[0])
            with torch.inference_mode():
                found = self._predicted(CellDecoder(self.model.module, tensors), rows, _has_bounds(delivery))
            yield found.profile, found.layers(delivery.layers)
            start = rows.stop

    def _asked(self, delivery: Delivery) -> dict[str, object]:
        """Description of the question."""
        question = self.question
        settings = *question.conditions, question.output, question.draws, question.n_samples, question.seed
        names = self.request.adata.obs_names[self.request.cells]
        return asked_of(self.model, names, (*settings, delivery.layers))

    def _predicted(self, decode: CellDecoder, rows: slice, with_bounds: bool) -> Predicted:
        """Prediction for the cells of one mini-batch."""
        question, groups, totals = self.question, self.request.groups[rows], self.request.totals[rows]
        control, perturbation = question.codes
        shifted = unshifted if self.evidence is None else self.evidence.shifted
        generators = question.generators(self.request.adata.obs_names[self.request.cells[rows]])
        own = decode(self.after[rows], condition=perturbation)
        part = predict_cells(
            decode.observed,
            decode(self.before[rows], condition=control),
            shifted(own, groups),
            cells=shifted(own, groups, drawn=True) if question.cells_drawn_with is not None else None,
            totals=totals,
            output=question.output,
            draws=question.draws,
            generators=generators,
        )
        # drawn last: what is left out changes nothing else
        if question.n_samples == 1 or not with_bounds:
            return part
        lower, upper = predictive_interval(
            lambda z: shifted(decode(z, condition=perturbation), groups),
            self.after[rows],
            decode.posterior_scale,
            totals=totals,
            n_samples=question.n_samples,
            generators=generators,
        )
        return replace(part, lower=lower, upper=upper)

    def _described(self, means: RunningMeans) -> AnnData:
        """All that is told of the cells beside their expression."""
        control, perturbation = self.question.conditions
        result = described(
            self.request,
            genes=self.model.gene_names,
            condition_key=condition_key(self.model),
            perturbation=perturbation,
        )
        result.obsm[_keys.OBSM_LATENT_BEFORE], result.obsm[_keys.OBSM_LATENT_AFTER] = self.before, self.after
        result.uns[_keys.UNS_PREDICTION] = {
            "model": type(self.model).__name__,
            "control": control,
            "perturbation": perturbation,
            **self.how,
            "effect_scale": self.question.effect_scale,
            "output": self.question.output,
            "draws": self.question.draws,
            "n_samples": self.question.n_samples,
            "seed": self.question.seed,
            "deltavi_version": deltavi.__version__,
        }
        if self.evidence is not None:
            report_evidence(result, self.evidence, means)
        result.uns[_keys.UNS_PREDICTION]["own_weights"] = self.own_weights
        return result


def _has_bounds(delivery: Delivery) -> bool:
    """True where a bound of the predictive interval is among the layers."""
    return delivery.layers is None or bool({_keys.LAYER_LOWER, _keys.LAYER_UPPER} & set(delivery.layers))
