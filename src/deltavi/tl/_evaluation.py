"""Result of an evaluation: a tidy table, with its summaries and comparisons."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import deltavi
from deltavi import _entries as entries
from deltavi._entries import keywords_of, known_keywords
from deltavi._errors import DeltaviError, examples, unknown_category
from deltavi._former_names import current_table
from deltavi._reading import known_arguments
from deltavi.io import filled_folder, require_folder, resolved, write_files
from deltavi.metrics import PredictionScore
from deltavi.perturbation import SPLIT_HALF, conclusion
from deltavi.perturbation.evaluate import HIGHER_IS_BETTER, METRIC_NAMES, judged_by
from deltavi.tl._certainty import CERTAINTY
from deltavi.tl._ranking import (
    CASE,
    SIGNAL,
    case_name,
    listed,
    means_of,
    said_of_harm,
    said_of_signals,
    signals_of,
    statistics_of,
)
from deltavi.tl._resume import WHAT, json_writer, read_json

SCORES = tuple(score.name for score in fields(PredictionScore))
TEXT = [*CASE, "method", "kind"]
ABOUT_FIRST = [*CASE, "seed", "method", "kind"]
ABOUT = [*ABOUT_FIRST, "n_control", "n_reference", "n_real", SIGNAL, "seconds", *CERTAINTY]
COLUMNS = [*ABOUT, *SCORES]
SKIPPED_COLUMNS = [*CASE, "reason"]
PREDICTION_COLUMNS = ["hold_out", "perturbation", "seed", "method", "file"]
TABLE_FILE, SKIPPED_FILE, PREDICTIONS_FILE, REST_FILE = "table.csv", "skipped.csv", "predictions.csv", "settings.json"


def _empty(columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=pd.Index(columns))


@known_arguments
@dataclass(frozen=True, eq=False)
class PerturbationEvaluation:
    """Scores of methods, baselines and the ceiling on every hold-out.

    Parameters
    ----------
    table
        One row per hold-out, label, perturbation, seed and method. ``kind`` is ``"model"``, ``"baseline"`` or
        ``"split_half"``; ``n_control`` counts the cells predicted from, ``n_reference`` the control cells that no
        method saw, 0 where there were too few for halves, and ``n_real`` the perturbed cells; ``signal_z`` says how far
        the response is above its noise; ``seconds`` is processor time to train and predict, of which each baseline has
        an equal share; ``coverage``, ``coverage_top``, ``half_width`` and
        ``uncertainty`` say how sure a prediction was, where it says so: shares of genes whose measured change lies in
        the 90 % interval, of all and of the 100 predicted to change most, half the mean width, and the uncertainty; the
        others are the fields of :class:`deltavi.metrics.PredictionScore`.
    settings
        Arguments of the evaluation.
    skipped
        Hold-outs that were not evaluated (an empty label stands for a whole hold-out), with the reason.
    warnings
        Warnings of models in training, each once.
    predictions
        Paths of predicted cells within the folder of the evaluation, if they were kept.
    """

    table: pd.DataFrame
    settings: Mapping[str, object] = field(default_factory=dict)
    skipped: pd.DataFrame = field(default_factory=lambda: _empty(SKIPPED_COLUMNS))
    warnings: tuple[str, ...] = ()
    predictions: pd.DataFrame = field(default_factory=lambda: _empty(PREDICTION_COLUMNS))

    @property
    def metrics(self) -> list[str]:
        """Names of the scores."""
        return [name for name in self.table.columns if name not in ABOUT]

    @property
    def methods(self) -> list[str]:
        """Names of the methods evaluated, without baselines and ceiling."""
        return list(self.table.loc[self.table["kind"] == "model", "method"].unique())

    def summary(self, metric: str | None = None) -> pd.DataFrame:
        """Mean and standard deviation over hold-outs and seeds by method, best first, the ceiling last.

        The mean of ``explained`` is that of the sums of squared errors and squared sizes, so that a response counts by
        its size, and its standard deviation one over seeds of this number, missing where there is one seed.

        Parameters
        ----------
        metric
            A score; None takes all, and orders the methods by the first.

        Returns
        -------
        Of one score the columns ``kind``, ``mean``, ``sd`` (sample standard deviation) and ``n`` (rows); of all the
        columns are pairs of score and ``mean`` or ``sd``.
        """
        if metric is not None:
            self._require_metric(metric)
        names = self.metrics if metric is None else [metric]
        grouped = self.table.groupby("method", sort=False)
        parts = {name: statistics_of(self.table, name) for name in names}
        order = self._best_first(parts[names[0]]["mean"], names[0])
        if metric is not None:
            return pd.concat([grouped["kind"].first(), parts[metric]], axis=1).loc[order]
        wide = pd.concat({name: part[["mean", "sd"]] for name, part in parts.items()}, axis=1)
        return wide.loc[order].rename_axis(columns=["metric", "statistic"])

    def _best_first(self, means: pd.Series[float], metric: str) -> list[str]:
        """Methods in order of their mean; where no score is better than another, in that of the table."""
        rest = means.drop(index=SPLIT_HALF, errors="ignore")
        if metric in HIGHER_IS_BETTER:
            rest = rest.sort_values(ascending=not HIGHER_IS_BETTER[metric], kind="stable")
        return [*rest.index, *([SPLIT_HALF] if SPLIT_HALF in means.index else [])]

    def long(self) -> pd.DataFrame:
        """The table with one row per score: columns ``metric`` and ``value`` in place of a column for each."""
        kept = [name for name in self.table.columns if name not in self.metrics]
        return self.table.melt(id_vars=kept, value_vars=self.metrics, var_name="metric", value_name="value")

    def signals(self) -> pd.DataFrame:
        """Signal z of every hold-out, mean over seeds, and whether methods are ranked by it: where it is 3 or more.

        Returns
        -------
        One row per hold-out, label and perturbation, with ``signal_z`` and ``ranked``; a table of an earlier version,
        which has no signal, is ranked throughout.
        """
        return signals_of(self.table)

    def ranked(self) -> PerturbationEvaluation:
        """The evaluation without the hold-outs whose response is too small to rank anything; see :meth:`signals`."""
        found = self.signals()
        kept = pd.MultiIndex.from_frame(found.loc[found["ranked"], CASE])
        of_kept = pd.MultiIndex.from_frame(self.table[CASE]).isin(kept)
        return replace(self, table=self.table[of_kept].reset_index(drop=True))

    def wins(self, method: str | None = None, metric: str | None = None) -> pd.DataFrame:
        """Hold-outs on which a method beats the best baseline of that hold-out; scores are means over seeds.

        Parameters
        ----------
        method
            A row of the table; the first method when None.
        metric
            Score to compare by; the share explained when None.

        Returns
        -------
        One row per hold-out, label and perturbation, with the ``score``, the ``best_baseline`` and ``baseline_score``,
        the ``margin`` (positive where the method is better) and ``wins``; ``wins.sum()`` counts them.

        Raises
        ------
        UnknownCategoryError
            If there is no such method or score.
        DeltaviError
            If the score has no better or worse.
        """
        method, metric = self._known_method(method), metric or judged_by(self.table)[0]
        sign = self._sign(metric)
        # pandas mixes values up where it unstacks without sorting: sorted, and put in order again
        cases = pd.MultiIndex.from_frame(self.table[CASE].drop_duplicates())
        means = means_of(self.table, [*CASE, "method"], metric).unstack("method").reindex(cases)
        baselines = means[[name for name in self._of_kind("baseline") if name != method]]
        known = means[method].notna()
        pairs = zip(means.loc[known, method], baselines[known].iterrows(), strict=True)
        rows = [_against_best(float(score), others, sign) for score, (_, others) in pairs]
        return pd.concat([means.index[known].to_frame(index=False), pd.DataFrame(rows)], axis=1)

    def conclusion(self, method: str | None = None, metric: str | Sequence[str] | None = None) -> str:
        """Describe in sentences if a method beat the best baseline, on average and on each hold-out.

        Hold-outs whose response is too small to rank anything are left out, and named, as are those where the method
        was worse than no change.

        Parameters
        ----------
        method
            A row of the table; the first method when None.
        metric
            Score or scores to compare by; the share explained and the E-distance when None.
        """
        method = self._known_method(method)
        names = judged_by(self.table) if metric is None else entries.names("metric", metric)
        for name in names:
            self._sign(name)
        signals, ranked = self.signals(), self.ranked()
        sentences = [] if ranked.table.empty else ranked._sentences(method, names)
        return " ".join([*sentences, *said_of_signals(signals)])

    def _sentences(self, method: str, names: Sequence[str]) -> Iterator[str]:
        """Sentences on the scores of a method, on average and on each hold-out."""
        means = pd.concat([means_of(self.table, ["method"], name) for name in names], axis=1)
        judged = means.loc[[method, *(name for name in self._of_kind("baseline") if name != method)]]
        yield f"On average {conclusion(judged, method, metric=names)}"
        yield from (self._where(method, name) for name in names)
        yield from said_of_harm(self.table, method)

    def _where(self, method: str, metric: str) -> str:
        """One sentence on the hold-outs that a method won and lost."""
        wins = self.wins(method, metric)
        shown, n_wins = METRIC_NAMES.get(metric, metric.replace("_", " ")), int(wins["wins"].sum())
        text = f"On {shown} it beat the best baseline in {n_wins} of {len(wins)} comparisons"
        several = wins["perturbation"].nunique() > 1
        lost = [_loss(row, several) for _, row in wins[~wins["wins"]].iterrows()]
        return f"{text}; it did not for {listed(lost)}." if lost else f"{text}."

    def board(self) -> pd.DataFrame:
        """Scores with methods in the index, as :func:`deltavi.pl.scoreboard` takes them."""
        return self.table.set_index("method")[self.metrics]

    def plot(self, **kwargs: Any) -> Any:
        """Draw the scores with :func:`deltavi.pl.scoreboard`.

        Parameters
        ----------
        **kwargs
            Arguments of that function.
        """
        known_keywords(kwargs, keywords_of(deltavi.pl.scoreboard)[1:], among="Evaluation.plot")
        return deltavi.pl.scoreboard(self.board(), **kwargs)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the tables as CSV and the settings as JSON; those of an evaluation that are there are replaced.

        Parameters
        ----------
        folder
            Folder to write to; it is made. The folder of the evaluation itself may be named.

        Returns
        -------
        The files.

        Raises
        ------
        DeltaviError
            If `folder` is a file, or has a file of one of these names that no evaluation wrote.
        FileWriteError
            If the disk is full or the folder read-only.
        """
        place = require_own_tables(folder)
        rest = {"settings": dict(self.settings), "warnings": list(self.warnings)}
        with filled_folder(place, WHAT):
            writers: dict[Path, Callable[[Path], object]] = {
                place / TABLE_FILE: _csv_writer(self.table),
                place / SKIPPED_FILE: _csv_writer(self.skipped),
                place / PREDICTIONS_FILE: _csv_writer(self.predictions),
                place / REST_FILE: json_writer(rest),
            }
            write_files(writers, what=WHAT)
        return list(writers)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> PerturbationEvaluation:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        folder
            Folder of the files.

        Raises
        ------
        DeltaviError
            If there is no finished evaluation, or a file is damaged.
        """
        place = resolved(folder, "folder")
        missing = [name for name in (TABLE_FILE, REST_FILE) if not (place / name).is_file()]
        if missing:
            raise DeltaviError(f"{place} holds no finished evaluation: {examples(missing)} is missing.")
        rest = read_json(place / REST_FILE)
        tables = [_read(place / name, columns) for name, columns in _FILES.items()]
        return cls(tables[0], rest["settings"], tables[1], tuple(rest["warnings"]), tables[2])

    def _of_kind(self, kind: str) -> list[str]:
        return list(self.table.loc[self.table["kind"] == kind, "method"].unique())

    def _known_method(self, method: str | None) -> str:
        known = list(self.table["method"].unique())
        if method is None:
            return str([*self.methods, *known][0])
        if method not in known:
            raise unknown_category("method", method, known, among="the table")
        return method

    def _require_metric(self, metric: str) -> None:
        if metric not in self.metrics:
            raise unknown_category("metric", metric, self.metrics, among="the table")

    def _sign(self, metric: str) -> int:
        self._require_metric(metric)
        if metric not in HIGHER_IS_BETTER:
            judged = ", ".join(map(repr, HIGHER_IS_BETTER))
            raise DeltaviError(f"{metric!r} has no better or worse. Judge by {judged}.")
        return 1 if HIGHER_IS_BETTER[metric] else -1


_FILES: dict[str, list[str] | None] = {
    TABLE_FILE: None,
    SKIPPED_FILE: SKIPPED_COLUMNS,
    PREDICTIONS_FILE: PREDICTION_COLUMNS,
}


def require_own_tables(folder: str | os.PathLike[str]) -> Path:
    """Folder to write an evaluation to, without files of its names that hold something else.

    Raises
    ------
    DeltaviError
        If it has one, or is a file.
    """
    place = resolved(folder, "folder")
    require_folder(place)
    foreign = [name for name in (*_FILES, REST_FILE) if os.path.lexists(place / name) and not _is_own(place / name)]
    if foreign:
        raise DeltaviError(
            f"{place} has {examples(foreign)}, which no evaluation wrote and which would be replaced: name another "
            "folder, or move that away. Nothing was changed."
        )
    return place


def _is_own(path: Path) -> bool:
    """True if a table has columns that evaluations write, or a JSON file their settings."""
    try:
        if path.name == REST_FILE:
            return {"settings", "warnings"} == read_json(path).keys()
        with path.open(encoding="utf-8") as file:
            columns = file.readline(10_000).strip().split(",")
    except (DeltaviError, OSError, ValueError):
        return False
    # of the large table, those of later versions may differ
    return columns[: len(ABOUT_FIRST)] == ABOUT_FIRST if path.name == TABLE_FILE else columns == _FILES[path.name]


def _csv_writer(table: pd.DataFrame) -> Callable[[Path], object]:
    return lambda part: table.to_csv(part, index=False)


def _against_best(score: float, baselines: pd.Series[float], sign: int) -> dict[str, object]:
    """A score beside that of the best baseline of the same hold-out."""
    values = baselines.to_numpy(dtype=float)
    if not np.isfinite(values).any():
        return {"score": score, "best_baseline": "", "baseline_score": np.nan, "margin": np.nan, "wins": False}
    best = int(np.nanargmax(sign * values))
    margin = sign * (score - values[best])
    name = str(baselines.index[best])
    return {"score": score, "best_baseline": name, "baseline_score": values[best], "margin": margin, "wins": margin > 0}


def _loss(row: pd.Series, several_perturbations: bool) -> str:
    """Text with the shortest unambiguous name of the hold-out, and the two scores."""
    case = case_name([row[name] for name in CASE], several_perturbations)
    return f"{case} ({row['score']:.4g} against {row['baseline_score']:.4g} of {row['best_baseline']})"


def _read(path: Path, columns: Sequence[str] | None) -> pd.DataFrame:
    """A table with all names as text, and numbers exactly as they were written."""
    if not path.is_file():
        return _empty(columns or COLUMNS)
    table = current_table(pd.read_csv(path, dtype=str, keep_default_na=False))
    # numbers by Python, which reads what it wrote; parsers of pandas differ in the last digit
    for name in table.columns:
        if name in {SIGNAL, "seconds", *CERTAINTY, *SCORES}:
            table[name] = [float(value or "nan") for value in table[name]]
        elif name not in {*TEXT, "reason", "file"}:
            table[name] = [int(value) for value in table[name]]
    return table
