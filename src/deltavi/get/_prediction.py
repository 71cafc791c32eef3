"""Tables of a predicted AnnData, in memory or read from an h5ad file of any version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi import _keys
from deltavi._entries import names, require_anndata
from deltavi._errors import InputDataError, examples
from deltavi._former_names import current_record
from deltavi._reading import known_arguments
from deltavi.get._provenance import Provenance
from deltavi.perturbation.estimators import label_of
from deltavi.registry.columns import require_known
from deltavi.registry.genes import gene_positions

WEIGHTS = {
    "query": str,
    "training_label": str,
    "weight": float,
    "n_control": int,
    "n_perturbed": int,
    "shift_scale": float,
}
SKILL = {"expected_skill": float, "n_worse": int, "n_groups": int, "flags": str}
TREATED = {"query": str, "n_treated": int, "length": float}


@known_arguments
def weights(predicted: AnnData) -> pd.DataFrame:
    """Weight of every training label in the shift of every label that was predicted.

    Parameters
    ----------
    predicted
        Predicted cells, as ``predict_perturbation`` returns them.

    Returns
    -------
    A row for each pair, with columns ``query`` (label that was predicted), ``training_label``, ``weight`` (they sum to
    one in each query, once for every condition that a perturbation joins), ``n_control`` and ``n_perturbed`` (training
    cells of the label in each condition), ``shift_scale`` (factor the shift was stretched by), and ``own_weight``, the
    weight of the query's own treated cells in the whole result: above zero, measured cells contribute to the
    prediction. A baseline keeps the first three.

    Raises
    ------
    InputDataError
        If the cells are no prediction, or one that has no weights, as by the components of a mixture.

    Examples
    --------
    >>> deltavi.get.weights(predicted).nlargest(3, "weight")  # doctest: +SKIP
    """
    held = _held(predicted)
    if "weights" not in held:
        raise InputDataError("The prediction has no weights of training labels: its shift is not made of labels.")
    table = held["weights"] if isinstance(held["weights"], pd.DataFrame) else _of_baseline(held["weights"])
    plain = pd.DataFrame({name: table[name].astype(kind).to_numpy() for name, kind in WEIGHTS.items() if name in table})
    own = held.get("own_weights")
    if own is not None:
        by_query = dict(zip(own["query"].astype(str), own["own_weight"].astype(float), strict=True))
        plain["own_weight"] = [by_query.get(query, np.nan) for query in plain["query"]]
    return plain


@known_arguments
def uncertainty(predicted: AnnData) -> pd.DataFrame:
    """Reliability of the response of every label that was predicted.

    Parameters
    ----------
    predicted
        Predicted cells, as ``predict_perturbation`` returns them.

    Returns
    -------
    A row for each label, with columns ``query``, ``uncertainty`` (expected squared error relative to the squared
    response, from 1 on no change is as good an answer), ``max_training_uncertainty`` (the largest that a training label
    has when the others predict it; NaN with fewer than three), ``is_extrapolated``, whether the first is above the
    second, ``expected_skill`` (share of the squared response that was explained of training labels left out; NaN where
    none could be), ``n_worse`` and ``n_groups`` (number of those that no change was nearer to, of so many), and
    ``flags`` (keys of :data:`deltavi.perturbation.RESPONSE_FLAGS`, joined by commas). The last four are missing of a
    prediction by an earlier version, whose ``uncertainty`` is relative to how much responses of labels differ.

    Raises
    ------
    InputDataError
        If the cells are no prediction, or one by a model without labels.
    """
    held = _held(predicted)
    if "uncertainty" not in held:
        raise InputDataError("The prediction has no uncertainty, which needs labels: pass labels_key at setup.")
    table = pd.DataFrame(held["uncertainty"])
    plain = pd.DataFrame(
        {
            "query": table["query"].astype(str).to_numpy(),
            "uncertainty": table["uncertainty"].to_numpy(dtype=float),
            "max_training_uncertainty": table["max_training_uncertainty"].to_numpy(dtype=float),
        }
    )
    plain = plain.assign(is_extrapolated=plain["uncertainty"] > plain["max_training_uncertainty"])
    return plain.assign(**{name: table[name].astype(kind).to_numpy() for name, kind in SKILL.items() if name in table})


@known_arguments
def treated(predicted: AnnData) -> pd.DataFrame:
    """Treated cells that a prediction was given, and what they said of the length of responses.

    Parameters
    ----------
    predicted
        Predicted cells, as ``predict_perturbation(..., treated=...)`` returns them.

    Returns
    -------
    A row for each label that such cells were given of, with columns ``query``, ``n_treated`` and ``length``, the factor
    of the predicted response that they showed.

    Raises
    ------
    InputDataError
        If the cells are no prediction, or one without treated cells.

    Examples
    --------
    >>> deltavi.get.treated(predicted).sort_values("length")  # doctest: +SKIP
    """
    held = _held(predicted)
    if "treated" not in held:
        raise InputDataError("The prediction was given no treated cells: pass treated to predict_perturbation.")
    table = pd.DataFrame(held["treated"])
    return pd.DataFrame({name: table[name].astype(kind).to_numpy() for name, kind in TREATED.items()})


@known_arguments
def changes(
    predicted: AnnData, *, labels: str | Sequence[str] | None = None, genes: str | Sequence[str] | None = None
) -> pd.DataFrame:
    """Change of the mean of every gene in every predicted label, with its 90 % interval.

    Parameters
    ----------
    predicted
        Predicted cells, as ``predict_perturbation`` returns them.
    labels
        Labels to keep, in this order; by default all.
    genes
        Genes to keep, in this order; by default all.

    Returns
    -------
    A row for each label and gene, with columns ``label``, ``gene``, ``change``, ``lower`` and ``upper`` (log1p CP10k;
    bounds are NaN with fewer than three training labels).

    Raises
    ------
    InputDataError
        If the cells are no prediction, or one by a model without labels.
    UnknownCategoryError
        If a label was not predicted.
    GeneMatchError
        If there is no such gene.

    Examples
    --------
    >>> found = deltavi.get.changes(predicted, labels="B")  # doctest: +SKIP
    >>> found[found["lower"] > 0].sort_values("change", ascending=False).head()  # doctest: +SKIP
    """
    _held(predicted)
    keys = {"change": _keys.VARM_CHANGE, "lower": _keys.VARM_LOWER, "upper": _keys.VARM_UPPER}
    missing = [key for key in keys.values() if key not in predicted.varm]
    if missing:
        raise InputDataError(f"The prediction has no varm {examples(missing)}, which need labels: pass labels_key.")
    tables = {name: pd.DataFrame(predicted.varm[key]).rename(columns=label_of) for name, key in keys.items()}
    known = list(tables["change"])
    kept = known if labels is None else [require_known("label", label, known) for label in names("labels", labels)]
    every = pd.Index(predicted.var_names.astype(str))
    places = (
        np.arange(len(every))
        if genes is None
        else gene_positions(genes, every, name="genes", held_by="the prediction", listed="var_names")
    )
    columns = {name: table[kept].to_numpy(dtype=float)[places].ravel(order="F") for name, table in tables.items()}
    chosen = np.asarray(every, dtype=object)[places]
    return pd.DataFrame(
        {"label": np.repeat(np.asarray(kept, dtype=object), len(chosen)), "gene": np.tile(chosen, len(kept)), **columns}
    )


@known_arguments
def provenance(predicted: AnnData) -> Provenance:
    """Record of how a prediction was made: model, conditions, shift, shares and seed.

    Parameters
    ----------
    predicted
        Predicted cells, as ``predict_perturbation`` or a baseline returns them.

    Raises
    ------
    InputDataError
        If the cells are no prediction.
    """
    held = _held(predicted)
    seed = held.get("seed")
    return Provenance(
        model=str(held.get("model", "")),
        control=str(held["control"]),
        perturbation=str(held["perturbation"]),
        shift=str(held.get("shift", "")),
        empirical_weight=float(held.get("empirical_weight", 0.0)),
        effect_scale=float(held.get("effect_scale", 1.0)),
        seed=None if seed is None else int(seed),
        version=str(held.get("deltavi_version", "")),
    )


def _held(predicted: AnnData) -> Mapping[str, Any]:
    """Entries of ``uns`` that a prediction keeps of itself."""
    kept = require_anndata(predicted).uns.get(_keys.UNS_PREDICTION)
    held = current_record(kept) if isinstance(kept, Mapping) else {}
    if "control" not in held or "perturbation" not in held:
        raise InputDataError(
            f"The cells are no prediction: uns[{_keys.UNS_PREDICTION!r}], which predict_perturbation writes and "
            "anndata.concat leaves out, is not there. Read the tables before cells are joined."
        )
    return held


def _of_baseline(weights: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    rows = [
        (label_of(query), label_of(label), weight) for query, row in weights.items() for label, weight in row.items()
    ]
    return pd.DataFrame(rows, columns=["query", "training_label", "weight"])
