"""Labels of cells: a column in which some cells have a label and others none."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi._errors import DeltaviError, UnknownCategoryError, UnseenCategoryWarning, examples
from deltavi._text import as_text, meant, texts_of
from deltavi._types import State
from deltavi.registry.columns import column
from deltavi.registry.fields import CategoryField
from deltavi.registry.names import folded, warn_mixed_types, warn_near_duplicates, warn_of_names
from deltavi.registry.whole_tables import require_whole_column

logger = logging.getLogger("deltavi")

# Conventional names of cells without a label, without spaces and in lower case.
MISSING_NAMES = frozenset(("", "-", "-1", "?", "<na>", "na", "n/a", "nan", "none", "null"))
PLACEHOLDERS = MISSING_NAMES | {"unknown", "undefined", "unlabeled", "unlabelled", "unassigned", "unannotated"}
# Share of letters in common from which two names may be one and a slip of the keyboard.
ALIKE = 0.8


class LabelField(CategoryField):
    """Labels of cells, of which some may be missing: codes from 0 for labels, -1 for cells without one.

    Labels are read as text from a column of any type, and sorted. Labels of a query are read if there are any; they
    never add to the known ones.

    Parameters
    ----------
    registry_key
        Name of the tensor handed to the module.
    attr_key
        obs column.
    unlabeled_category
        Value of that column for cells without a label. Missing values are unlabelled too; with ``None``, they alone.
    """

    UNLABELED_KEY = "unlabeled_category"

    def __init__(self, registry_key: str, attr_key: str, *, unlabeled_category: str | None) -> None:
        super().__init__(registry_key, attr_key, optional_in_query=True)
        self.unlabeled_category = None if unlabeled_category is None else as_text(unlabeled_category)

    def register_field(self, adata: AnnData) -> State:
        key = self._original_attr_key
        values = column(adata, key)
        require_whole_column(adata, values, key)
        counts = label_counts(values)
        # -1 is "-1.0" where pandas made text of floats
        unlabeled = None if self.unlabeled_category is None else meant(self.unlabeled_category, counts)
        unlabeled = self.unlabeled_category if unlabeled is None else unlabeled
        require_unlabeled_category(unlabeled, counts, key)
        labels = {label: n for label, n in counts.items() if label != unlabeled}
        require_two_labels(labels, values, key)
        warn_mixed_types(values, key)
        warn_near_duplicates(counts, key)
        warn_placeholders(labels, unlabeled, key)
        warn_single_cells(labels, key)
        log_unlabeled(values, counts, unlabeled, key)
        state = self._write(adata, values, np.asarray(list(labels), dtype=object))
        return {**state, self.UNLABELED_KEY: unlabeled, **self._fingerprint(adata)}

    def transfer_field(
        self,
        state_registry: State,
        adata_target: AnnData,
        extend_categories: bool = False,
        attached: bool = False,
        **_: object,
    ) -> State:
        unlabeled = state_registry[self.UNLABELED_KEY]
        state = super().transfer_field(state_registry, adata_target)
        if self._original_attr_key in adata_target.obs:
            report_new_labels(
                column(adata_target, self._original_attr_key),
                [*state[self.CATEGORICAL_MAPPING_KEY], *([] if unlabeled is None else [unlabeled])],
                self._original_attr_key,
                learned=extend_categories,
            )
        if extend_categories:
            # from here on these are the training cells
            return {**state, self.UNLABELED_KEY: unlabeled, **self._fingerprint(adata_target)}
        # of a query too: unlike a column of groups, labels are what the model predicts
        self._require_same(state_registry, adata_target)
        return {**state_registry, **state}


# -- reading -------------------------------------------------------------------------------------------------


def label_counts(values: pd.Series) -> dict[str, int]:
    """Number of cells of each label, sorted by its text; missing values are left out."""
    positions, found = texts_of(values)
    cells = np.bincount(positions[positions >= 0], minlength=len(found))
    return {text: int(n) for text, n in sorted(zip(found, cells, strict=True))}


# -- checks of the labels to learn ---------------------------------------------------------------------------


def require_unlabeled_category(given: str | None, counts: Mapping[str, int], key: str) -> None:
    """Raise if no cell has the label `given`, but a label resembles it, or the usual names of no label."""
    if given is None or given in counts:
        return
    meant = likely_meant(given, counts)
    if meant is not None:
        raise UnknownCategoryError(
            f"unlabeled_category={given!r} is not in obs[{key!r}]. Did you mean {meant!r}, which {counts[meant]} cells "
            f"are called? Pass unlabeled_category={meant!r}, or None if {meant!r} is a cell type. "
            f"Known: {examples(counts, 10)}."
        )


def likely_meant(given: str, names: Iterable[str]) -> str | None:
    """The name that is `given` but for case, spaces or a slip, else one that stands for no label, else ``None``."""
    by_fold = {folded(name): name for name in names}
    close = difflib.get_close_matches(folded(given), by_fold, n=1, cutoff=ALIKE)
    standing_for_none = [name for fold, name in by_fold.items() if fold in PLACEHOLDERS]
    return by_fold[close[0]] if close else next(iter(standing_for_none), None)


def require_two_labels(labels: Mapping[str, int], values: pd.Series, key: str) -> None:
    """Raise if there are fewer than two labels."""
    if not labels:
        raise DeltaviError(
            f"obs[{key!r}]: none of the {len(values)} cells has a label (for example {examples(values.index)}). "
            "Label cells of at least 2 types, or do without: leave labels_key out of MIXVI, or use VAE."
        )
    if len(labels) == 1:
        label, n = next(iter(labels.items()))
        raise DeltaviError(
            f"obs[{key!r}] holds one label only, {label!r}, in {n} of {len(values)} cells; at least 2 are needed to "
            "tell cells apart. Label cells of another type, or name another column."
        )


def warn_placeholders(labels: Mapping[str, int], unlabeled: str | None, key: str) -> None:
    """Warn of labels that resemble the usual names of no label, and are learned as cell types."""
    # a spelling of the unlabelled name itself is a near-duplicate, of which there is a warning already
    found = [n for n in labels if folded(n) in PLACEHOLDERS and (unlabeled is None or folded(n) != folded(unlabeled))]
    if found:
        n_cells = sum(labels[name] for name in found)
        way = f"pass unlabeled_category={found[0]!r}" if unlabeled is None else "set those cells to missing (NaN)"
        warn_of_names(
            f"obs[{key!r}]: {n_cells} cells are called {examples(found)}, which reads like no label and is learned as "
            f"a cell type. If they have none, {way}."
        )


def warn_single_cells(labels: Mapping[str, int], key: str) -> None:
    """Warn of labels of a single cell, which cannot be in both training and calibration."""
    single = [label for label, n in labels.items() if n == 1]
    if single:
        warn_of_names(
            f"obs[{key!r}]: {len(single)} of {len(labels)} labels have a single cell ({examples(single)}), which is "
            "kept out of the calibration split. Merge them with others, or leave those cells unlabelled."
        )


def log_unlabeled(values: pd.Series, counts: Mapping[str, int], unlabeled: str | None, key: str) -> None:
    """Log the number of cells without a label."""
    n_missing = int(values.isna().sum())
    if n_missing:
        logger.info("obs[%r] is missing for %d of %d cells; they are unlabelled.", key, n_missing, len(values))
    elif unlabeled not in counts:
        absent = "" if unlabeled is None else f", none is called {unlabeled!r}"
        logger.info("obs[%r]: every cell is labelled%s.", key, absent)


# -- labels of a query ---------------------------------------------------------------------------------------


def report_new_labels(values: pd.Series, known: Iterable[str], key: str, *, learned: bool) -> None:
    """Report labels that are absent from training: by a warning if the cells are `learned`, else in the log."""
    new = {label: n for label, n in label_counts(values).items() if meant(label, known) is None}
    if not new:
        return
    message = (
        f"obs[{key!r}] holds {len(new)} labels that training did not see (for example {examples(new)}), in "
        f"{sum(new.values())} cells; they are treated as unlabelled."
    )
    if learned:
        warnings.warn(f"{message} Train a new model to learn them.", UnseenCategoryWarning, stacklevel=3)
    else:
        logger.info(message)
