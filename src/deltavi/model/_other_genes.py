"""Genes that the networks do not model, moved by the changes that a table of responses predicts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from deltavi import _keys
from deltavi._cp10k import cp10k_factors, log1p_cp10k_rows
from deltavi._errors import DeltaviError, GeneMatchError, InputDataError, examples
from deltavi._types import FloatArray, State, StoredMatrix
from deltavi.arrays.matrix import gene_means
from deltavi.model._question import INDEPENDENT, Question
from deltavi.perturbation import ResponseModel, ResponsePrediction
from deltavi.perturbation.all_genes import GroupCounts, drawn, moved
from deltavi.perturbation.inputs import check_unique_genes
from deltavi.registry.checks import differ_by_rounding, row_blocks
from deltavi.registry.matrix import loadable
from deltavi.registry.source import layer_names, matrix_name, matrix_of

if TYPE_CHECKING:
    from deltavi.model._control_cells import ControlCells
    from deltavi.model._responds import Responds

logger = logging.getLogger("deltavi")


@dataclass(frozen=True, eq=False)
class OtherGenes:
    """Genes of a query that a table of responses knows and the networks do not.

    Parameters
    ----------
    responses
        Model of the table.
    matrix
        ``(n_cells, n_genes)`` counts of all genes of the query.
    genes
        Their names.
    columns, places
        Positions of the genes to predict in the query, and in the table.
    own_totals
        True where the totals of cells are sums over all genes.
    """

    responses: ResponseModel
    matrix: StoredMatrix
    genes: pd.Index
    columns: np.ndarray
    places: np.ndarray
    own_totals: bool

    @classmethod
    def of(cls, model: Responds, cells: ControlCells, responses: object) -> OtherGenes:
        """Genes of `cells` beside those of the model.

        Raises
        ------
        DeltaviError
            If `responses` is no such model, or the model has no counts.
        GeneMatchError
            If no gene is left to predict.
        """
        if not isinstance(responses, ResponseModel):
            raise DeltaviError(
                f"responses must be a ResponseModel, as ResponseModel.fit returns it, not a {type(responses).__name__}."
            )
        if not model.module.of_counts:
            raise DeltaviError(
                "responses moves counts of genes, and this model reads none: use a likelihood of counts."
            )
        genes = pd.Index(cells.source.var_names.astype(str))
        check_unique_genes(genes, "adata")
        places = pd.Index(responses.table.genes).get_indexer(genes)
        is_own = genes.isin(model.gene_names.astype(str))
        columns = np.flatnonzero((places >= 0) & ~is_own)
        # in the order of the table, so that the noise of a gene does not depend on that of the query
        columns = columns[np.argsort(places[columns])]
        if not len(columns):
            raise GeneMatchError(
                f"responses knows none of the {int((~is_own).sum())} genes of adata that the model does not have, such "
                f"as {examples(list(genes[~is_own]))}: measure the responses of all genes, or leave it out."
            )
        if left := int((~is_own & (places < 0)).sum()):
            logger.info("%d genes of adata are neither of the model nor of responses, and left out.", left)
        layer = model._setup_argument("layer")
        matrix = loadable(matrix_of(cells.source, layer), where=matrix_name(layer), quiet=True)
        own = model._setup_argument("size_factor_key") is None
        return cls(responses, matrix, genes, columns, places[columns], own)

    def var(self, model: Responds) -> pd.DataFrame:
        """Genes of a prediction: those of the model, then the others."""
        own, known = model.gene_names.astype(str), set(self.responses.table.genes)
        names = [*own, *self.genes[self.columns]]
        columns = {
            _keys.VAR_IN_MODEL: np.arange(len(names)) < len(own),
            _keys.VAR_IN_RESPONSES: [name in known for name in names],
        }
        return pd.DataFrame(columns, index=pd.Index(names))

    def of_context(self, model: Responds, cells: ControlCells, context: str) -> ContextGenes:
        """Counts of the control cells of a context."""
        rows = cells.rows(context)
        counts = self._counts(cells.source, rows)
        totals = cells.request.totals[cells.request.groups == context]
        sums = np.asarray(counts.sum(1), dtype=np.float64).ravel()
        if self.own_totals and not np.allclose(sums, totals):
            raise DeltaviError(
                "The model divides counts by totals over its own genes, and responses are on the scale of totals over "
                "all genes: train it with size_factor_key, which deltavi.pp.highly_variable_genes stores."
            )
        names = tuple(map(str, cells.source.obs_names[rows]))
        group = GroupCounts(sparse.csr_matrix(counts[:, self.columns]), totals, names)
        asked = self._placed(cells.source.obs.iloc[rows], context, counts, totals)
        return ContextGenes(group, self.responses, self.places, asked)

    def _counts(self, source: AnnData, rows: np.ndarray) -> sparse.csr_matrix:
        blocks = [sparse.csr_matrix(block) for _, block in row_blocks(self.matrix, rows)]
        found = sparse.csr_matrix(sparse.vstack(blocks, format="csr"))
        with np.errstate(invalid="ignore"):
            wrong = ~(np.isfinite(found.data) & (found.data >= 0) & differ_by_rounding(found.data))
        if wrong.any():
            cells = np.unique(np.repeat(np.arange(len(rows)), np.diff(found.indptr))[wrong])
            raise InputDataError(
                f"{len(cells)} cells hold values that are no counts among the genes that the model does not have (for "
                f"example {examples(source.obs_names[rows[cells]])}): pass raw counts of all genes, or "
                "invalid_cells='drop'."
            )
        found.data = np.rint(found.data)
        return found

    def _placed(self, obs: pd.DataFrame, context: str, counts: sparse.csr_matrix, totals: np.ndarray) -> State:
        """Arguments by which `responses` finds the context, or is told of a new one."""
        table = self.responses.table
        if len(table.contexts) == 1 and table.keys == ("context",):
            return {"context": table.contexts[0]}
        levels = {key: str(obs[key].iloc[0]) for key in table.keys if key in obs and obs[key].nunique() == 1}
        own = tuple(levels.get(key, "") for key in table.keys)
        if own in table.levels:
            return {"context": table.contexts[table.levels.index(own)]}
        if context in table.contexts:
            return {"context": context}
        means = gene_means(log1p_cp10k_rows(counts.astype(np.float64), totals))
        places = self.genes.get_indexer(pd.Index(table.genes))
        # a gene that the query lacks says nothing of its likeness
        profile = np.where(places >= 0, means[places], table.control_means.mean(0))
        return {"context": context, "profile": profile, "levels": levels or None}


@dataclass(frozen=True, eq=False)
class ContextGenes:
    """Other genes of the control cells of one context.

    Parameters
    ----------
    group
        Their counts.
    responses
        Model of the table.
    places
        Positions of the genes in the table.
    asked
        Arguments by which it finds the context.
    """

    group: GroupCounts
    responses: ResponseModel
    places: np.ndarray
    asked: State

    def predicted(self, question: Question) -> OtherPrediction:
        """Counts under the perturbation of a question."""
        found = self.responses.predict(question.perturbation.name, **self.asked)
        change = question.effect_scale * found.change[0][self.places]
        if question.draws == INDEPENDENT:
            generators = question.generators(f"{name} all genes" for name in self.group.names)
            counts, rates = drawn(self.group, change, generators=generators)
        else:
            counts, rates = moved(self.group, change, seed=question.seed)
        half = abs(question.effect_scale) * (found.interval()[1] - found.change)[0][self.places]
        return OtherPrediction(self.group, counts, rates, change, half, found)

    def observed(self) -> OtherPrediction:
        """Counts as they are."""
        none = np.zeros(self.group.counts.shape[1])
        return OtherPrediction(self.group, self.group.counts, self.group.rates, none, none, None)


@dataclass(frozen=True, eq=False)
class OtherPrediction:
    """Predicted counts of other genes.

    Parameters
    ----------
    group
        The control cells.
    counts
        ``(n_cells, n_genes)`` after the perturbation.
    rates
        ``(n_genes,)`` counts per ten thousand behind them.
    change, half_width
        ``(n_genes,)`` predicted change, log1p CP10k, and half its interval.
    found
        What the table of responses says; None of control cells.
    """

    group: GroupCounts
    counts: sparse.csr_matrix
    rates: np.ndarray
    change: FloatArray
    half_width: FloatArray
    found: ResponsePrediction | None

    def joined(self, block: AnnData, var: pd.DataFrame) -> AnnData:
        """`block`, a prediction by the networks, with these genes beside its own."""
        totals, n_own = self.group.totals, block.n_vars
        logs = log1p_cp10k_rows(self.counts.astype(np.float32), totals)
        depths = 1 / cp10k_factors(totals)
        unknown = np.full(self.counts.shape, np.nan, dtype=np.float32)
        layers = {
            _keys.LAYER_COUNTS: self.counts.astype(np.float32),
            _keys.LAYER_RATE: np.outer(depths, self.rates).astype(np.float32),
        }
        kept = {name: block.layers[name] for name in layer_names(block)}
        found = AnnData(
            X=sparse.csr_matrix(sparse.hstack([block.X, logs], format="csr")),
            obs=block.obs,
            var=var,
            layers={name: _beside(values, layers.get(name, unknown)) for name, values in kept.items()},
            obsm=dict(block.obsm),
        )
        found.uns[_keys.UNS_PREDICTION] = block.uns.get(_keys.UNS_PREDICTION, {})
        if self.found is not None:
            reached = gene_means(logs) - self.group.means
            bounds = {_keys.VARM_CHANGE: reached, _keys.VARM_LOWER: reached - self.half_width}
            bounds[_keys.VARM_UPPER] = reached + self.half_width
            for key, values in bounds.items():
                own = block.varm[key].to_numpy() if key in block.varm else np.full((n_own, 1), np.nan)
                found.varm[key] = pd.DataFrame({"0": np.concatenate([own[:, 0], values])}, index=found.var_names)
        return found

    def record(self) -> State:
        """Reliability of the changes, for the record of the pair."""
        if self.found is None:
            return {}
        return {
            "response_uncertainty": float(self.found.uncertainty[0]),
            "expected_skill": float(self.found.expected_skill),
            "flags": ",".join(self.found.flags[0]),
        }


def _beside(own: object, other: object) -> object:
    if sparse.issparse(own):
        return sparse.csr_matrix(sparse.hstack([own, other], format="csr"))
    return np.hstack([np.asarray(own), np.asarray(other)])
