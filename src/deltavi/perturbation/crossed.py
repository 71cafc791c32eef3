"""Model of responses over contexts and perturbations: a Gaussian process in gene space, without any network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deltavi._entries import choice, names
from deltavi._errors import DeltaviError, InputDataError
from deltavi._reading import known_arguments
from deltavi.perturbation.crossed_file import load_fitted, save_fitted
from deltavi.perturbation.crossed_fit import AUTO, LEAST_EVIDENCE, Fitted, fit_process
from deltavi.perturbation.crossed_kernel import KERNELS
from deltavi.perturbation.crossed_kinds import expected_skill, kinds_of
from deltavi.perturbation.crossed_loo import leave_one_out
from deltavi.perturbation.crossed_prediction import (
    NEW_CONTEXT,
    NEW_PERTURBATION,
    NO_EVIDENCE,
    SHRUNKEN_MEAN,
    WORSE_THAN_NO_CHANGE,
    ResponsePrediction,
)
from deltavi.perturbation.crossed_process import Moments, Queries
from deltavi.perturbation.crossed_summary import summary_of

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_file import PathLike
    from deltavi.perturbation.crossed_kernel import ContextKernel, Weights
    from deltavi.perturbation.crossed_skill import Skill
    from deltavi.perturbation.crossed_table import ResponseTable

NEW = "new context"


@known_arguments
@dataclass(frozen=True, eq=False)
class ResponseModel:
    """Crossed Gaussian process of responses: predicts pairs of a context and a perturbation that were not measured.

    Made by :meth:`fit` or :meth:`load`. The response of a pair is the sum of a generic one, one of the perturbation,
    one of the context, one of a perturbation in similar contexts, and one of its own; "A+B" is the sum of A and B.

    Attributes
    ----------
    fitted
        Parameters, and what they were estimated from.

    Examples
    --------
    >>> import deltavi
    >>> cells = deltavi.datasets.simulate_perturbation(n_genes=50, n_cells_per_group=20)
    >>> table = deltavi.tl.responses(
    ...     cells, condition_key="condition", control="control", context_keys="cell_type"
    ... )
    >>> model = deltavi.perturbation.ResponseModel.fit(table)
    >>> prediction = model.predict("stimulated", context=table.contexts[0])
    >>> prediction.change.shape
    (1, 50)
    """

    fitted: Fitted

    @classmethod
    def fit(cls, table: ResponseTable, *, kernel: str = AUTO, group_key: str | None = None) -> ResponseModel:
        """Learn from measured changes; nothing is random.

        Parameters
        ----------
        table
            What was measured, of :func:`deltavi.tl.responses`.
        kernel
            Similarity of contexts: "identity" (they share what they all have in common), "similarity" (of control
            means), "product" (of the keys of contexts); "auto" takes the simplest that none is clearly ahead of where
            contexts are left out and predicted.
        group_key
            Key of the contexts whose values are left out together for that comparison and for the intervals, such as
            "donor"; by default each context is.

        Raises
        ------
        DeltaviError
            If the kernel is unknown, or a product of one key.
        UnknownCategoryError
            If contexts have no such key.
        """
        return cls(fit_process(table, choice("kernel", kernel, (AUTO, *KERNELS)), group_key))

    def __repr__(self) -> str:
        skill = ", ".join(f"{name} {value:.2f}" for name, value in self.expected_skill.items())
        return f"ResponseModel, {self.kernel.name} kernel, explained where left out: {skill or 'unknown'}; {self.table}"

    @property
    def table(self) -> ResponseTable:
        """Measured changes."""
        return self.fitted.process.table

    @property
    def kernel(self) -> ContextKernel:
        """Similarity of contexts that was chosen."""
        return self.fitted.process.kernel

    @property
    def weights(self) -> Weights:
        """Shares of the parts of a response in its variance."""
        return self.fitted.process.weights

    @property
    def has_evidence(self) -> bool:
        """True where the measured changes are evidence of any response."""
        return self.fitted.evidence >= LEAST_EVIDENCE

    @property
    def expected_skill(self) -> Mapping[str, float]:
        """Share explained of what was left out, by kind, where some of it could be.

        "context": all pairs of a context; in a known one "pair": one of which each part was measured in other pairs,
        "combination": one whose parts were measured alone, "perturbation": all pairs with one perturbation.
        """
        return MappingProxyType({name: skill.explained for name, skill in self.fitted.skills.items()})

    @property
    def skill_of_kernels(self) -> Mapping[str, float]:
        """Share explained of contexts that were left out, for each kernel that was tried."""
        return MappingProxyType(dict(self.fitted.tried))

    def predict(
        self,
        perturbations: str | Sequence[str],
        *,
        context: str | None = None,
        profile: Vector | None = None,
        levels: Mapping[str, str] | None = None,
    ) -> ResponsePrediction:
        """Predict the true changes of a context under perturbations.

        Parameters
        ----------
        perturbations
            Names, single or combined as in "A+B", measured or not.
        context
            Name of a context of the table; of a new one a name to show, with `profile` or `levels`. It may be left out
            where the table has one context.
        profile
            ``(n_genes,)`` mean of the control cells of a new context, log1p CP10k, in the order of the genes.
        levels
            Values of the keys of a new context, those that are known.

        Returns
        -------
        Changes, their uncertainty, and what they rest on.

        Raises
        ------
        UnknownCategoryError
            There is no such context, and neither `profile` nor `levels` is given.
        InputDataError
            A perturbation is the control, or `profile` does not fit the genes.
        DeltaviError
            No perturbation is named.
        """
        asked = [str(name) for name in names("perturbations", perturbations)]
        if not asked:
            raise DeltaviError("perturbations is empty: name at least one.")
        name, similarity, place = self._placed(context, profile, levels)
        found = [self.table.parts_of(one) for one in asked]
        queries = self._queries(similarity, place, found)
        moments = self.fitted.process.predict(queries)
        return self._answered(name, tuple(asked), place, found, moments)

    def summary(
        self, perturbations: str | Sequence[str] | None = None, *, contexts: str | Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Size and certainty of the response of each pair, measured or not.

        Parameters
        ----------
        perturbations
            Names, single or combined; by default all that were measured.
        contexts
            Names of contexts of the table; by default all.

        Returns
        -------
        A row for each pair with columns ``context``, ``perturbation``, ``n_cells`` (perturbed cells that were measured,
        0 for a pair that was not), ``size`` (root of the squared change, summed over genes, log1p CP10k), ``error``
        (root of the squared error that is expected of it), ``uncertainty``, ``expected_skill`` and ``flags``, as
        :class:`ResponsePrediction` has them.

        Raises
        ------
        UnknownCategoryError
            There is no such context.
        InputDataError
            A perturbation is the control.
        DeltaviError
            Nothing is asked for.
        """
        asked = list(dict.fromkeys(self.table.names)) if perturbations is None else perturbations
        chosen = self.table.contexts if contexts is None else [str(name) for name in names("contexts", contexts)]
        if not chosen:
            raise DeltaviError("contexts is empty: name at least one.")
        found = [summary_of(self.table, self.predict(asked, context=context)) for context in chosen]
        return pd.concat(found, ignore_index=True)

    def loo(self) -> tuple[Vector, Vector]:
        """Expected true change of each measured pair given all others, and its variance, in closed form.

        Returns
        -------
        ``(n_pairs, n_genes)`` each, in the order of ``table.pairs``, log1p CP10k; without evidence of a response no
        change, as in :meth:`predict`.
        """
        found = self._calibrated(leave_one_out(self.fitted.process).moments)
        return found.change, found.variance

    def with_observation(self, table: ResponseTable) -> ResponseModel:
        """Model that knows further measured changes, however few cells they are of, with the same parameters.

        Parameters
        ----------
        table
            Changes of the same genes, such as those of a few treated cells of the context that is asked for.

        Raises
        ------
        GeneMatchError
            The genes differ.
        """
        process = self.fitted.process.on(self.table.joined(table))
        return ResponseModel(replace(self.fitted, process=process))

    def save(self, dir_path: PathLike, *, overwrite: bool = False) -> None:
        """Write the model to a folder: safetensors, JSON and checksums, in one atomic step.

        Parameters
        ----------
        dir_path
            Folder to create. ``~`` is the home folder.
        overwrite
            Write to the folder though it exists.

        Raises
        ------
        ModelFileError
            If the folder exists and `overwrite` is not set, it is a file, or has a ``manifest.json`` of something else.
        ModelWriteError
            If the disk is full or the folder read-only; a model that was there before stays as it was.
        """
        save_fitted(dir_path, self.fitted, overwrite=overwrite)

    @classmethod
    def load(cls, dir_path: PathLike) -> ResponseModel:
        """Read a model that :meth:`save` wrote.

        Parameters
        ----------
        dir_path
            The folder.

        Raises
        ------
        ModelFileError
            If it holds no such model, or is damaged.
        """
        return cls(load_fitted(dir_path))

    # -- parts of a prediction ---------------------------------------------------------------------------------

    def _placed(
        self, context: str | None, profile: Vector | None, levels: Mapping[str, str] | None
    ) -> tuple[str, Vector, int | None]:
        """Name of a context, its similarity to those of the table, and its place among them if it is one."""
        process, table = self.fitted.process, self.table
        if profile is None and levels is None:
            if context is None and len(table.contexts) > 1:
                raise DeltaviError(f"context must be named: the table has {len(table.contexts)} of them.")
            place = 0 if context is None else table.position_of(str(context))
            return table.contexts[place], process.similarity[place], place
        if context in table.contexts:
            raise DeltaviError(f"context {context!r} is in the table: leave out profile and levels, or rename it.")
        unknown = sorted(set(levels or {}) - set(table.keys))
        if unknown:
            raise DeltaviError(
                f"levels names {unknown[0]!r}, which is no key of the contexts: {', '.join(table.keys)}."
            )
        values = [None if levels is None else levels.get(key) for key in table.keys]
        checked = None if profile is None else _profile(profile, table.n_genes)
        return str(context or NEW), process.kernel.towards(table, checked, values), None

    def _queries(self, similarity: Vector, place: int | None, found: Sequence[tuple[Vector, int]]) -> Queries:
        parts, unknown = np.stack([row for row, _ in found]), np.array([float(n) for _, n in found])
        table = self.table
        same = (parts[:, None, :] == table.parts[None]).all(2) & (unknown == 0)[:, None]
        same &= table.context_of == (-1 if place is None else place)
        return Queries(np.repeat(similarity[None], len(parts), axis=0), parts, unknown, same)

    def _calibrated(self, moments: Moments) -> Moments:
        """Variances with the nugget; no change where there is no evidence of any."""
        variance = self.fitted.calibration.variance(moments)
        if self.has_evidence:
            return Moments(moments.change, variance, moments.weights)
        return Moments(np.zeros_like(moments.change), variance + moments.change**2, np.zeros_like(moments.weights))

    def _answered(
        self,
        name: str,
        asked: tuple[str, ...],
        place: int | None,
        found: Sequence[tuple[Vector, int]],
        moments: Moments,
    ) -> ResponsePrediction:
        final = self._calibrated(moments)
        response = np.maximum((moments.variance + moments.change**2).sum(1), 1e-300)
        uncertainty = final.variance.sum(1) / response
        is_new = place is None or place not in self.table.used_contexts
        skills = self._skills(found, is_new)
        general = [
            *([NO_EVIDENCE] if not self.has_evidence else []),
            *([SHRUNKEN_MEAN] if self.fitted.is_fallback else []),
            *([NEW_CONTEXT] if is_new else []),
        ]
        flags = []
        for (_, unknown), doubt, skill in zip(found, uncertainty, skills, strict=True):
            worse = self.has_evidence and (doubt > 1 or skill.explained < 0)
            own = [*([NEW_PERTURBATION] if unknown else []), *([WORSE_THAN_NO_CHANGE] if worse else [])]
            flags.append((*general, *own))
        variances = self.table.variance if place is None else self.table.variances[place]
        return ResponsePrediction(
            context=name,
            perturbations=asked,
            genes=self.table.genes,
            change=final.change,
            variance=final.variance,
            weights=final.weights,
            pairs=tuple(self.table.pairs),
            uncertainty=uncertainty,
            skills=skills,
            flags=tuple(flags),
            freedom=self.fitted.calibration.freedom,
            cell_variance=variances,
        )

    def _skills(self, found: Sequence[tuple[Vector, int]], is_new: bool) -> tuple[Skill, ...]:
        """Skill that is expected of each query by its kind."""
        parts, unknown = np.stack([row for row, _ in found]), np.array([float(n) for _, n in found])
        kinds = kinds_of(self.table, parts, unknown)
        return tuple(expected_skill(self.fitted.skills, kind, is_new_context=is_new) for kind in kinds)


def _profile(profile: Vector, n_genes: int) -> Vector:
    values = np.asarray(profile, dtype=np.float64)
    if values.shape != (n_genes,):
        raise InputDataError(f"profile must hold a mean of each of the {n_genes} genes, not an array {values.shape}.")
    if not np.isfinite(values).all() or values.min() < 0:
        raise InputDataError("profile must hold means of log1p CP10k: it has negative, NaN or infinite values.")
    return values
