"""Attribution of labels to genes: integrated gradients of the classifier, cell by cell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, overload

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor

import deltavi
from deltavi import _keys
from deltavi._entries import Indices, positions
from deltavi._errors import DeltaviError, unknown_category
from deltavi._random import isolated_randomness
from deltavi._types import State
from deltavi.arrays.matrix import check_count
from deltavi.io import BlockFile, PathLike
from deltavi.model._together import asked_of, write_shared
from deltavi.module.classified import ClassifyingModule
from deltavi.registry.writable import writable_columns
from deltavi.train.progress import progress_bar

if TYPE_CHECKING:
    from deltavi.model._annotates import Annotates

Logits: TypeAlias = Callable[..., Tensor]
Integrate: TypeAlias = Callable[..., Tensor]

logger = logging.getLogger("deltavi")

# Steps between baseline and cell that are taken at once: as many as fill so many rows of expression.
ROWS_AT_ONCE = 1024
# Median gap, relative to the median difference of logits, above which the integral is too coarse.
MAX_RELATIVE_GAP = 0.05


@overload
def get_attributions(
    self: Annotates,
    adata: AnnData | None = ...,
    *,
    label: str | None = ...,
    indices: Indices | None = ...,
    n_steps: int = ...,
    path: None = ...,
    overwrite: bool = ...,
    progress: bool = ...,
    batch_size: int = ...,
) -> AnnData: ...


@overload
def get_attributions(
    self: Annotates,
    adata: AnnData | None = ...,
    *,
    label: str | None = ...,
    indices: Indices | None = ...,
    n_steps: int = ...,
    path: PathLike,
    overwrite: bool = ...,
    progress: bool = ...,
    batch_size: int = ...,
) -> Path: ...


def get_attributions(
    self: Annotates,
    adata: AnnData | None = None,
    *,
    label: str | None = None,
    indices: Indices | None = None,
    n_steps: int = 50,
    path: PathLike | None = None,
    overwrite: bool = False,
    progress: bool = False,
    batch_size: int = 128,
) -> AnnData | Path:
    """Split the logit of a label over the genes of each cell, by integrated gradients.

    ``a_ig = x_ig * integral_0^1 d logit(t x_i) / d x_ig dt``, with x the log expression that the classifier takes
    and a baseline without expression; batch and covariates are those of the cell. The attributions of a cell sum
    to ``logit(x_i) - logit(0)``, up to the error of the integral. A gene that is not expressed gets exactly zero.

    Parameters
    ----------
    adata
        Cells to explain, with any gene order; by default those of the model.
    label
        Label whose logit is explained, in all cells; None explains each cell's own, that of its highest logit.
    indices
        Cells to explain, as positions or as a mask over all cells, in the order of the result; None takes all.
    n_steps
        Points at which the gradient is taken, by Gauss-Legendre quadrature.
    path
        File to write, .h5ad or .zarr, instead of an AnnData in memory: cells are written as they are explained. It
        takes its place once it is complete.
    overwrite
        Write to `path` though it exists.
    progress
        Show a progress bar, if standard error is a terminal or in a notebook.
    batch_size
        Cells explained at a time; the answer does not depend on it.

    Returns
    -------
    AnnData of the chosen cells, or `path`. X: attributions, CSR, (n_cells, n_genes), in logits: positive where the
    expression of the gene speaks for the label. obs: that of the input, with the explained label in
    ``"deltavi_label"`` and ``logit(x) - logit(0) - sum of attributions`` in ``"deltavi_completeness_gap"``, which
    replace columns of these names. var: genes of the model. uns ``"deltavi"``: what was done.

    Raises
    ------
    DeltaviError
        captum is not installed, `indices`, `n_steps` or `batch_size` make no sense, or `path` exists or names no such
        file.
    NotTrainedError
        Before training.
    UnknownCategoryError
        `label` is not a label of the model.
    InputDataError, GeneMatchError
        `adata` holds values or genes the model cannot read.
    FileWriteError
        The disk is full or the folder read-only; what was there before is unchanged.

    Notes
    -----
    Attributions explain the classifier, not the cell: genes that carry the same information share the credit as
    the network happens to weigh them, and a gene whose absence speaks for a label gets nothing for it. A logit is
    also relative to those of other labels only. A warning is logged where the median gap exceeds 5 % of the
    median difference of logits: raise `n_steps`.

    References
    ----------
    Sundararajan, Taly and Yan (2017), Axiomatic attribution for deep networks, ICML.
    """
    self._require_trained("get_attributions")
    n_steps, batch_size = check_count(n_steps, "n_steps"), check_count(batch_size, "batch_size")
    integrate = _integrated_gradients(n_steps)
    names = [str(name) for name in self.label_names]
    code = None if label is None else _code_of(label, names)
    cells = self._validate_anndata(adata)
    chosen = positions(indices, cells.n_obs)
    if not len(chosen):
        raise DeltaviError("indices chooses no cell: there is nothing to explain.")
    self.module.eval()  # without dropout, and with the running means of normalisation layers
    n_parts, settings = -(-len(chosen) // batch_size), _settings(self, label, n_steps)

    def parts(numbers: range) -> Iterator[_Explained]:
        own = chosen[numbers.start * batch_size : numbers.stop * batch_size]
        for tensors in self._make_data_loader(adata=cells, indices=own, batch_size=batch_size):
            yield _explain(self.module, tensors, code, integrate)

    def explain(found: Iterable[_Explained], add: Callable[[sp.csr_matrix], object]) -> AnnData:
        told = []
        for part in found:
            add(part.attributions)
            told.append(part.told())
            bar.update(len(part.codes))
        columns = _Columns(*map(np.concatenate, zip(*told, strict=True)))
        _warn_if_coarse(columns, n_steps)
        return _described(cells, chosen, columns, names, settings)

    def write(part: Path, found: Iterable[_Explained]) -> None:
        with BlockFile(part, len(chosen)) as file:
            described = explain(found, lambda rows: file.add_rows(rows, {}))
            file.finish(obs=described.obs, var=described.var, uns=described.uns)

    def asked() -> dict[str, object]:
        return asked_of(self, cells.obs_names[chosen], settings)

    # loaders draw, though no draw reaches the answer
    with isolated_randomness(0), progress_bar(len(chosen), "explaining", wanted=progress) as bar:
        if path is not None:
            write_shared(Path(path), parts, write, n_blocks=n_parts, asked=asked)
            return Path(path)
        rows: list[sp.csr_matrix] = []
        explained = explain(parts(range(n_parts)), rows.append)
    explained.X = sp.vstack(rows, format="csr")
    return explained


def _described(cells: AnnData, chosen: np.ndarray, columns: _Columns, names: list[str], settings: State) -> AnnData:
    """All that is told of the cells beside their attributions."""
    obs = writable_columns(cells.obs.iloc[chosen])
    for column in obs.select_dtypes("category"):
        obs[column] = obs[column].cat.remove_unused_categories()
    obs[_keys.OBS_EXPLAINED_LABEL] = pd.Categorical.from_codes(columns.codes, categories=pd.Index(names))
    obs[_keys.OBS_COMPLETENESS_GAP] = columns.gaps
    var = pd.DataFrame(index=cells.var_names.astype(str))
    return AnnData(obs=obs, var=var, uns={_keys.UNS_ATTRIBUTION: settings})


class _Columns(NamedTuple):
    """Columns of all cells: codes of the labels explained, their differences of logits, and what is unexplained."""

    codes: np.ndarray
    differences: np.ndarray
    gaps: np.ndarray


@dataclass(frozen=True, eq=False)
class _Explained:
    """Attributions of some cells.

    Parameters
    ----------
    attributions
        ``(n_cells, n_genes)``, CSR, in logits.
    codes
        ``(n_cells,)`` code of the label explained.
    differences
        ``(n_cells,)`` its logit at the cell less that at the baseline.
    """

    attributions: sp.csr_matrix
    codes: NDArray[np.int64]
    differences: np.ndarray

    def told(self) -> _Columns:
        """Columns of obs, with the part of the difference that the attributions leave unexplained, in logits."""
        totals = self.attributions.sum(axis=1, dtype=np.float64)
        return _Columns(self.codes, self.differences, np.asarray(self.differences - np.asarray(totals).ravel()))


def _integrated_gradients(n_steps: int) -> Integrate:
    """Function of logits, cells, labels to explain and the rest of the mini-batch, by captum."""
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise DeltaviError('get_attributions needs captum: pip install "deltavi[explain]".') from error

    def integrate(logits: Logits, expression: Tensor, target: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        attributions: Tensor = IntegratedGradients(logits).attribute(
            expression,
            baselines=0.0,
            target=target,
            additional_forward_args=rest,
            n_steps=n_steps,
            method="gausslegendre",
            internal_batch_size=max(ROWS_AT_ONCE, len(expression)),
        )
        return attributions.detach()

    return integrate


def _explain(
    module: ClassifyingModule, tensors: dict[str, Tensor], code: int | None, integrate: Integrate
) -> _Explained:
    """Attributions of the cells of a mini-batch; without `code`, of each cell's own label."""
    device = next(module.parameters()).device
    tensors = {key: value.to(device) for key, value in tensors.items()}
    # captum repeats tensors for every step, but not those in a dictionary
    keys, rest = list(tensors), tuple(tensors.values())

    def logits(expression: Tensor, *values: Tensor) -> Tensor:
        return module.class_logits(expression, dict(zip(keys, values, strict=True)))

    with torch.no_grad():
        expression = module.classifier_input(tensors)
        at_cell, at_baseline = logits(expression, *rest), logits(torch.zeros_like(expression), *rest)
    target = at_cell.argmax(dim=1) if code is None else torch.full((len(expression),), code, device=device)
    difference = (at_cell.double() - at_baseline.double()).gather(1, target[:, None]).squeeze(1)
    attributions = integrate(logits, expression, target, rest)
    matrix = sp.csr_matrix(attributions.cpu().numpy())
    return _Explained(matrix, target.cpu().numpy(), difference.cpu().numpy())


def _code_of(label: str, names: list[str]) -> int:
    if str(label) not in names:
        raise unknown_category("label", label, names, among="the model")
    return names.index(str(label))


def _warn_if_coarse(explained: _Columns, n_steps: int) -> None:
    gap, difference = np.median(np.abs(explained.gaps)), np.median(np.abs(explained.differences))
    if gap > MAX_RELATIVE_GAP * difference:
        logger.warning(
            "Attributions leave a median gap of %.3g logits, against a median difference of %.3g from the baseline; "
            "raise n_steps, which is %d.",
            gap,
            difference,
            n_steps,
        )


def _settings(model: object, label: str | None, n_steps: int) -> State:
    """Settings of the attribution, in types that h5ad files hold."""
    return {
        "model": type(model).__name__,
        "method": "integrated gradients",
        "quadrature": "gausslegendre",
        "baseline": "no expression",
        "label": "highest logit of each cell" if label is None else str(label),
        "n_steps": n_steps,
        "deltavi_version": deltavi.__version__,
    }
