"""Names of conditions that are given together, such as "A+B"."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi._compat import make_actual
from deltavi._entries import require_anndata
from deltavi._errors import DeltaviError
from deltavi._reading import known_arguments
from deltavi._text import meant
from deltavi.registry.columns import category_names, column, require_known

logger = logging.getLogger("deltavi")

SEPARATOR = "+"


def parts_in(name: str, separator: str = SEPARATOR) -> list[str]:
    """Split a name at `separator`, without spaces around the parts."""
    return [part.strip() for part in name.split(separator)]


def canonical_name(name: str, *, control: str, separator: str = SEPARATOR) -> str:
    """`name` with its parts sorted and without the control among them."""
    parts = parts_in(name, separator)
    if len(parts) == 1 or "" in parts:
        return name
    return separator.join(sorted(part for part in parts if part != control)) or control


def same_condition(given: object, known: Iterable[object]) -> str | None:
    """Text of the condition of `known` that equals `given`, in any order of the parts of its name."""
    names = list(known)
    found = meant(given, names)
    if found is not None or not isinstance(given, str) or SEPARATOR not in given:
        return found
    alike = [name for name in map(str, names) if sorted(parts_in(name)) == sorted(parts_in(given))]
    return alike[0] if len(alike) == 1 else None


@known_arguments
def canonical_conditions(adata: AnnData, condition_key: str, *, control: str, separator: str = SEPARATOR) -> None:
    """Give every combination of conditions one name: without the control, its parts sorted.

    ``"ctrl+BAK1"`` and ``"BAK1+ctrl"`` become ``"BAK1"``, ``"B+A"`` becomes ``"A+B"``. Predictions of combinations
    look for their parts under these names.

    Parameters
    ----------
    adata
        Cells; ``obs[condition_key]`` is replaced by a categorical column of the new names, nothing else is changed.
    condition_key
        obs column of the condition. Missing values stay missing.
    control
        Condition of untreated cells, as it stands in names of combinations and by itself.
    separator
        Text between the parts of a name.

    Raises
    ------
    UnknownCategoryError
        If the column does not exist, or holds neither `control` nor a combination with it.
    DeltaviError
        If `separator` is empty.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> cells = anndata.AnnData(np.ones((3, 2)))
    >>> cells.obs["condition"] = ["ctrl", "ctrl+BAK1", "KLF1+BAK1"]
    >>> canonical_conditions(cells, "condition", control="ctrl")
    >>> list(cells.obs["condition"])
    ['ctrl', 'BAK1', 'BAK1+KLF1']
    """
    require_anndata(adata)
    if not isinstance(separator, str) or not separator:
        raise DeltaviError(f"separator must be text that joins names, such as '+', not {separator!r}.")
    names = category_names(column(adata, condition_key), np.array([], dtype=object))
    distinct = list(dict.fromkeys(name for name in names if name is not None))
    start = require_known("condition", control, [*distinct, *(p for n in distinct for p in parts_in(n, separator))])
    renamed = {name: canonical_name(name, control=start, separator=separator) for name in distinct}
    if adata.is_view:
        make_actual(adata)
    adata.obs[condition_key] = pd.Categorical([None if name is None else renamed[name] for name in names])
    changed = {name: new for name, new in renamed.items() if name != new}
    if changed:
        logger.info(
            "obs[%r]: %d of %d conditions were renamed: %s.", condition_key, len(changed), len(renamed), changed
        )
