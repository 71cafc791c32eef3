"""Table of the genes that are predicted to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from anndata import AnnData

from deltavi import _keys
from deltavi._entries import names, number, one_name, require_anndata
from deltavi._errors import InputDataError
from deltavi._reading import known_arguments
from deltavi.registry.columns import require_known


@known_arguments
def response_df(
    adata: AnnData,
    group: str | Sequence[str] | None = None,
    *,
    key: str = _keys.UNS_DIFFERENTIAL,
    fdr: float | None = None,
) -> pd.DataFrame:
    """Genes that are predicted to change, as :func:`deltavi.tl.differential_response` keeps them.

    Parameters
    ----------
    adata
        AnnData with the table in ``uns[key]``.
    group
        One group or several, named ``"context | perturbation"``; by default all.
    key
        Key of ``uns``.
    fdr
        Keep the genes of at most this false discovery rate.

    Returns
    -------
    A row for each group and gene, those first that are most probably called, with columns ``group``, ``gene``,
    ``change``, ``lower``, ``upper`` (log1p CP10k), ``log2_fold_change``, ``log2_lower``, ``log2_upper``,
    ``local_false_sign_rate``, ``probability_called``, ``false_discovery_rate`` and ``score`` (change in standard
    errors).

    Raises
    ------
    InputDataError
        If there is no such table.
    UnknownCategoryError
        If it has no such group.
    """
    table = _kept(adata, key, "table")
    known = list(dict.fromkeys(table["group"]))
    if group is not None:
        kept = [require_known("group", name, known) for name in names("group", group)]
        table = pd.concat([table[table["group"] == name] for name in kept])
    if fdr is not None:
        table = table[table["false_discovery_rate"] <= number("fdr", fdr, least=0, most=1)]
    return table.reset_index(drop=True)


@known_arguments
def response_notes(adata: AnnData, *, key: str = _keys.UNS_DIFFERENTIAL) -> pd.DataFrame:
    """Reliability of each group of the table of genes.

    Parameters
    ----------
    adata
        AnnData with the table in ``uns[key]``.
    key
        Key of ``uns``.

    Returns
    -------
    A row for each group, with columns ``group``, ``uncertainty`` (expected squared error relative to the squared
    response), ``expected_skill`` (share explained of measured groups that were left out), ``is_calibrated``, ``flags``
    (see :data:`deltavi.perturbation.RESPONSE_FLAGS`), and ``n_perturbed`` and ``n_control``, the cells of the
    experiment that is meant.

    Raises
    ------
    InputDataError
        If there is no such table.
    """
    return _kept(adata, key, "notes").reset_index(drop=True)


def _kept(adata: AnnData, key: str, part: str) -> pd.DataFrame:
    held = require_anndata(adata).uns.get(one_name("key", key))
    if not isinstance(held, Mapping) or part not in held:
        raise InputDataError(
            f"uns[{key!r}] holds no table of predicted genes: deltavi.tl.differential_response writes it."
        )
    table = pd.DataFrame(held[part])
    return table.assign(**{name: table[name].astype(str) for name in ("group", "gene", "flags") if name in table})
