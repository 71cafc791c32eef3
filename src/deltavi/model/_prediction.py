"""Predictions of cells under another condition, from a question to an AnnData."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

import deltavi
from deltavi import _keys
from deltavi._random import isolated_randomness
from deltavi.model._asked import condition_key, positions_of
from deltavi.model._decoding import CellDecoder, Predicted, predict_cells, predictive_interval, stack
from deltavi.model._empirical_response import ResponseEvidence, evidence_of, report_evidence, unshifted
from deltavi.model._question import Question
from deltavi.model._shifts import shifted_positions
from deltavi.model._treated import Treated
from deltavi.model.own_response import own_weights, warn_of_own_cells
from deltavi.model.request import Request, assemble, drop_unused_categories

if TYPE_CHECKING:
    from deltavi.model._responds import Responds


def answer(model: Responds, request: Request, question: Question, treated: Treated, *, batch_size: int) -> AnnData:
    """Predicted cells of `request`, with a record of what was done.

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
    batch_size
        Cells decoded at a time.
    """
    before = positions_of(model, request.adata, request.cells)
    result = predicted_from(model, request, before, question, treated, batch_size=batch_size)
    drop_unused_categories(result.obs)
    own = result.uns[_keys.UNS_PREDICTION]["own_weights"]
    warn_of_own_cells(model, request, question.perturbation.name, own)
    return result


def predicted_from(
    model: Responds,
    request: Request,
    before: np.ndarray,
    question: Question,
    treated: Treated,
    *,
    batch_size: int,
) -> AnnData:
    """As :func:`answer`, from the latent positions of the cells ``(n_cells, n_latent)``; it warns of nothing."""
    after, how = shifted_positions(model, request, before, question)
    evidence = evidence_of(model, request, (before, after), question, treated)
    with isolated_randomness(question.seed):  # encoders draw, though no draw reaches the answer
        predicted = _predict(model, request, (before, after), question, evidence, batch_size=batch_size)
    control, perturbation = question.conditions
    result = assemble(
        request,
        predicted,
        genes=model.gene_names,
        condition_key=condition_key(model),
        perturbation=perturbation,
    )
    result.obsm[_keys.OBSM_LATENT_BEFORE], result.obsm[_keys.OBSM_LATENT_AFTER] = before, after
    result.uns[_keys.UNS_PREDICTION] = {
        "model": type(model).__name__,
        "control": control,
        "perturbation": perturbation,
        **how,
        "effect_scale": question.effect_scale,
        "output": question.output,
        "draws": question.draws,
        "n_samples": question.n_samples,
        "seed": question.seed,
        "deltavi_version": deltavi.__version__,
    }
    if evidence is not None:
        report_evidence(result, evidence, request.groups)
    result.uns[_keys.UNS_PREDICTION]["own_weights"] = own_weights(model, request, question, how, evidence)
    return result


@torch.inference_mode()
def _predict(
    model: Responds,
    request: Request,
    positions: tuple[np.ndarray, np.ndarray],
    question: Question,
    evidence: ResponseEvidence | None,
    *,
    batch_size: int,
) -> Predicted:
    """Decoded cells, mini-batch by mini-batch."""
    (before, after), n_samples = positions, question.n_samples
    totals = request.totals
    names = request.adata.obs_names[request.cells]
    control, perturbation = question.codes
    shifted = unshifted if evidence is None else evidence.shifted
    parts: list[Predicted] = []
    rate = np.empty((len(request.cells), len(model.gene_names)), dtype=np.float32)
    start = 0
    for tensors in request.loaded.batches(request.cells, batch_size):
        rows = slice(start, start + tensors[REGISTRY_KEYS.X_KEY].shape[0])
        decode = CellDecoder(model.module, tensors)
        generators = question.generators(names[rows])
        own, groups = decode(after[rows], condition=perturbation), request.groups[rows]
        part = predict_cells(
            decode.observed,
            decode(before[rows], condition=control),
            shifted(own, groups),
            cells=shifted(own, groups, drawn=True) if question.cells_drawn_with is not None else None,
            totals=totals[rows],
            output=question.output,
            draws=question.draws,
            generators=generators,
        )
        if n_samples > 1:
            lower, upper = predictive_interval(
                lambda z, decode=decode, groups=groups: shifted(decode(z, condition=perturbation), groups),  # type: ignore[misc]
                after[rows],
                decode.posterior_scale,
                totals=totals[rows],
                n_samples=n_samples,
                generators=generators,
            )
            part = replace(part, lower=lower, upper=upper)
        # written once where they will stay: of many cells they are the most there is to copy
        rate[rows] = part.rate
        parts.append(replace(part, rate=rate[rows]))
        start = rows.stop
    return stack(parts, rate.shape[1], of_counts=model.module.of_counts, interval=n_samples > 1, rate=rate)
