"""Tables of a predicted AnnData, in memory or read from an h5ad file of any version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi import _keys
from deltavi._entries import names
from deltavi._errors import InputDataError, examples
from deltavi._reading import known_arguments
from deltavi.get._provenance import Provenance
from deltavi.get._record import PAIRS, held_by, is_of_many
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
        Predicted cells, as ``predict_perturbation`` or ``predict_perturbations`` returns them.

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
    held = held_by(predicted)
    if "weights" not in held:
        raise InputDataError("The prediction has no weights of training labels: its shift is not made of labels.")
    table = held["weights"] if isinstance(held["weights"], pd.DataFrame) else _of_baseline(held["weights"])
    plain = pd.DataFrame({name: table[name].astype(kind).to_numpy() for name, kind in WEIGHTS.items() if name in table})
    own = held.get("own_weights")
    if own is not None:
        weight_of = dict(zip(_pairs_of(own), own["own_weight"].astype(float), strict=True))
        plain["own_weight"] = [weight_of.get(pair, np.nan) for pair in _pairs_of(table)]
    return _with_perturbations(plain, table)


@known_arguments
def uncertainty(predicted: AnnData) -> pd.DataFrame:
    """Reliability of the response of every label that was predicted.

    Parameters
    ----------
    predicted
        Predicted cells, as ``predict_perturbation`` or ``predict_perturbations`` returns them.

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
    held = held_by(predicted)
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
    found = {name: table[name].astype(kind).to_numpy() for name, kind in SKILL.items() if name in table}
    return _with_perturbations(plain.assign(**found), table)


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
    held = held_by(predicted)
    if "treated" not in held:
        raise InputDataError("The prediction was given no treated cells: pass treated to predict_perturbation.")
    table = pd.DataFrame(held["treated"])
    plain = pd.DataFrame({name: table[name].astype(kind).to_numpy() for name, kind in TREATED.items()})
    return _with_perturbations(plain, table)


def _pairs_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Perturbation, where there are several, and query of each row."""
    perturbations = table["perturbation"].astype(str) if "perturbation" in table else [""] * len(table)
    return list(zip(perturbations, table["query"].astype(str), strict=True))


def _with_perturbations(plain: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """`plain` with the perturbation of each row before it, where there are several."""
    if "perturbation" in table:
        plain.insert(0, "perturbation", table["perturbation"].astype(str).to_numpy())
    return plain


@known_arguments
def changes(
    predicted: AnnData, *, labels: str | Sequence[str] | None = None, genes: str | Sequence[str] | None = None
) -> pd.DataFrame:
    """Change of the mean of every gene in every predicted label, with its 90 % interval.

    Parameters
    ----------
    predicted
        Predicted cells, as ``predict_perturbation`` or ``predict_perturbations`` returns them.
    labels
        Labels to keep, in this order; by default all.
    genes
        Genes to keep, in this order; by default all.

    Returns
    -------
    A row for each label and gene (of many perturbations, for each pair, with its ``perturbation``), with columns
    ``label``, ``gene``, ``change``, ``lower`` and ``upper`` (log1p CP10k; bounds are NaN with fewer than three training
    labels).

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
    held = held_by(predicted)
    keys = {"change": _keys.VARM_CHANGE, "lower": _keys.VARM_LOWER, "upper": _keys.VARM_UPPER}
    missing = [key for key in keys.values() if key not in predicted.varm]
    if missing:
        raise InputDataError(f"The prediction has no varm {examples(missing)}, which need labels: pass labels_key.")
    tables = {name: pd.DataFrame(predicted.varm[key]) for name, key in keys.items()}
    pairs = pd.DataFrame(held[PAIRS]).astype(str) if is_of_many(held) else None
    of_columns = [label_of(name) for name in tables["change"]] if pairs is None else pairs["context"].tolist()
    known = list(dict.fromkeys(of_columns))
    given = known if labels is None else [require_known("label", label, known) for label in names("labels", labels)]
    kept = [place for label in given for place, own in enumerate(of_columns) if own == label]
    every = pd.Index(predicted.var_names.astype(str))
    places = (
        np.arange(len(every))
        if genes is None
        else gene_positions(genes, every, name="genes", held_by="the prediction", listed="var_names")
    )
    values = {name: table.to_numpy(dtype=float)[places][:, kept].ravel(order="F") for name, table in tables.items()}
    chosen = np.asarray(every, dtype=object)[places]
    columns = {"label": of_columns} if pairs is None else {"perturbation": pairs["perturbation"], "label": of_columns}
    repeated = {name: np.repeat(np.asarray(own, dtype=object)[kept], len(chosen)) for name, own in columns.items()}
    return pd.DataFrame({**repeated, "gene": np.tile(chosen, len(kept)), **values})


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
    held = held_by(predicted)
    seed = held.get("seed")
    return Provenance(
        model=str(held.get("model", "")),
        control=str(held["control"]),
        perturbation=", ".join(map(str, held["perturbations"])) if is_of_many(held) else str(held["perturbation"]),
        shift=str(held.get("shift", "")),
        empirical_weight=float(held.get("empirical_weight", 0.0)),
        effect_scale=float(held.get("effect_scale", 1.0)),
        seed=None if seed is None else int(seed),
        version=str(held.get("deltavi_version", "")),
    )


def _of_baseline(weights: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    rows = [
        (label_of(query), label_of(label), weight) for query, row in weights.items() for label, weight in row.items()
    ]
    return pd.DataFrame(rows, columns=["query", "training_label", "weight"])
