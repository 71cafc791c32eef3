"""Arguments of the methods of a trained model: cells, genes, batches and numbers, read alike by all.

The verbs of scvi-tools are among them: a mask of any type, a misspelt gene or an unknown batch means the same to all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi._entries import flag, known_keywords, names, positions, seed_number, share
from deltavi._errors import DeltaviError, unknown_category
from deltavi._random import isolated_randomness
from deltavi._reading import Reader, arguments, either, one_of, optional, read_all, real, whole
from deltavi._text import as_text
from deltavi._types import State
from deltavi.io import require_store
from deltavi.model._compared import TEMPORARY_COLUMN, read_groups
from deltavi.model._verb_keywords import verb_keywords
from deltavi.registry.genes import gene_positions
from deltavi.registry.manager import compared_once
from deltavi.registry.stored_rows import places_of
from deltavi.registry.tables import require_cells

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

# Verbs of scvi-tools, which have no answer for no cells.
INHERITED = (
    *("differential_expression", "get_elbo", "get_feature_correlation_matrix", "get_likelihood_parameters"),
    *("get_marginal_ll", "get_normalized_expression", "get_reconstruction_error", "posterior_predictive_sample"),
    *("get_aggregated_posterior", "get_latent_library_size"),
)
OWN = (
    *("batch_removal", "get_attributions", "get_latent_representation", "get_kl_per_dimension", "get_novelty_scores"),
    *("get_responsibilities", "impute", "log_likelihood", "merge_components", "predict", "predict_perturbation"),
    *("get_importance_weights", "predict_perturbations", "sample"),
)
# Verbs whose answer has a row for each cell, and can be written to a file.
WRITING = (
    *(
        "batch_removal",
        "get_attributions",
        "get_latent_representation",
        "get_normalized_expression",
        "get_novelty_scores",
    ),
    *("get_responsibilities", "impute", "predict"),
)
# Total counts of a cell beyond which single precision holds no products with them.
MOST_COUNTS = 1e12
READERS: dict[str, Reader] = {
    "batch_size": optional(whole(1)),
    "effect_scale": real(),
    "fdr_target": share,
    "delta": optional(real(least=0)),
    "dof": optional(real(above=0)),
    "correlation_type": one_of("spearman", "pearson"),
    "library_size": either("latent", real(above=0, most=MOST_COUNTS)),
    "m_permutation": optional(whole(1)),
    "shift_scale": either("match", real()),
    "max_overlap": optional(share),
    "mc_samples": whole(1),
    "mode": one_of("vanilla", "change"),
    "n": whole(0),
    "n_groups": optional(whole(1)),
    "n_mc_samples": whole(1),
    "n_mc_samples_per_pass": whole(1),
    "n_samples": whole(1),
    "n_samples_overall": optional(whole(1)),
    "n_steps": whole(1),
    "pseudocounts": optional(real(least=0)),
    "reject": optional(real()),
    "return_numpy": optional(flag),
    "rna_size_factor": real(above=0, most=MOST_COUNTS),
    "seed": seed_number,
    "bandwidth": real(above=0),
    "test_mode": one_of("two", "three"),
    "threshold_counts": real(),
    "weights": optional(one_of("uniform", "importance")),
    **dict.fromkeys(
        (
            *("all_stats", "batch_correction", "filter_outlier_cells", "give_mean", "keep_observed", "return_dist"),
            *("overwrite", "progress", "return_mean", "silent", "soft", "use_permutation"),
        ),
        flag,
    ),
}
# What a loader of the user's own decides.
OF_THE_LOADER = ("adata", "indices", "gene_list", "transform_batch", "batch_size", "path")
_is_drawing: ContextVar[bool] = ContextVar("is_drawing", default=False)


def of_trained(verb: Callable[..., Any]) -> Callable[..., Any]:
    """`verb`, which an untrained model refuses, with its arguments read."""
    signature = inspect.signature(verb)
    hands_on = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())

    @wraps(verb)
    def asked(self: CountModel, *args: Any, **kwargs: Any) -> Any:
        self._require_trained(verb.__name__)
        name, model_class = verb.__name__, type(self)
        known_keywords(kwargs, verb_keywords(model_class, name), among=f"{model_class.__name__}.{name}")
        if hands_on:
            # the verb of the base class, which knows their names, reads them
            return verb(self, *args, **kwargs)
        given = read_all(READERS, arguments(verb, signature, (self, *args), kwargs))
        with compared_once():
            if given.get("dataloader") is not None:
                _refuse_beside_loader(given)
                return verb(**given)
            _read_path(self, verb, given)
            order = _read_cells(self, verb, set(signature.parameters), given)
            with _drawing(self, verb), _tidied(self, verb, given):
                return _ordered(verb(**given), order)

    asked.__wrapped_for_training__ = True  # type: ignore[attr-defined]
    return asked


@contextmanager
def _drawing(model: CountModel, verb: Callable[..., Any]) -> Iterator[None]:
    """Draws of the model's seed, so that scvi-tools' verbs answer alike each time; the user's generators stay.

    A verb that another one calls goes on with the draws of that one: the groups of a comparison would get the same.
    """
    if verb.__name__ not in INHERITED or _is_drawing.get():
        yield
        return
    token = _is_drawing.set(True)
    try:
        with isolated_randomness(model.seed):
            yield
    finally:
        _is_drawing.reset(token)


@contextmanager
def _tidied(model: CountModel, verb: Callable[..., Any], given: State) -> Iterator[None]:
    """Take away what a comparison of groups leaves in obs where it fails."""
    try:
        yield
    finally:
        cells: Any = given.get("adata") if given.get("adata") is not None else model._adata
        if verb.__name__ == "differential_expression" and TEMPORARY_COLUMN in cells.obs:
            del cells.obs[TEMPORARY_COLUMN]


def _refuse_beside_loader(given: State) -> None:
    beside = [name for name in OF_THE_LOADER if given.get(name) is not None]
    if beside:
        raise DeltaviError(f"dataloader brings its own cells: leave out {', '.join(beside)}, or the loader.")


def _read_path(model: CountModel, verb: Callable[..., Any], given: State) -> None:
    """Check the file to write before the cells, whose storage an alignment may hide."""
    if verb.__name__ in WRITING and given.get("path") is not None:
        sources = {place for cells in (model._adata, given.get("adata")) for place in places_of(cells)}
        given["path"] = require_store(given["path"], overwrite=given.get("overwrite", False), sources=sources)


def _read_cells(model: CountModel, verb: Callable[..., Any], parameters: set[str], given: State) -> np.ndarray | None:
    """Bring what `given` says of cells, genes and batches into its plain form; order of the genes asked for."""
    if "adata" in parameters and given.get("adata") is not None:
        given["adata"] = require_cells(given["adata"])
    if not {"indices", "idx1"} & parameters:
        return None
    cells = _aligned(model, given)
    if given.get("indices") is not None:
        given["indices"] = positions(given["indices"], cells.n_obs, cells=cells.obs_names)
    if verb.__name__ in INHERITED:
        _require_some(cells, given.get("indices"))
    for name in ("transform_batch", "batchid1", "batchid2"):
        if given.get(name) is not None:
            given[name] = _batches(model, name, given[name])
    if "idx1" in parameters:
        _require_statistics(model, cells, given)
        read_groups(given, cells)
    if "n_samples_overall" in parameters:
        _read_draws(given)
    return _read_genes(model, given)


def _require_statistics(model: CountModel, cells: AnnData, given: State) -> None:
    """Raise where scvi-tools would need counts in memory for the means of the groups that it compares."""
    if given.get("all_stats", True) and model._manager_of(cells).reads_rows:
        raise DeltaviError(
            "all_stats=True needs the counts in memory, and these are in a file or a Dask array: pass all_stats=False, "
            "or the cells of adata.to_memory()."
        )


def _aligned(model: CountModel, given: State) -> AnnData:
    """The cells a verb is asked about; a query is aligned once, and handed on as it is."""
    # before anything is read of the model's own cells, they are compared with those that were registered
    cells: AnnData = model._validate_anndata(given.get("adata"))
    if given.get("adata") is not None:
        given["adata"] = cells
    return cells


def _require_some(cells: AnnData, indices: np.ndarray | None) -> None:
    if cells.n_obs == 0:
        raise DeltaviError("adata has no cells: there is nothing to answer.")
    if indices is not None and len(indices) == 0:
        raise DeltaviError(f"indices chooses none of {cells.n_obs} cells: there is nothing to answer.")


def _batches(model: CountModel, name: str, given: object) -> list[Any]:
    """Batches as they were registered; a number and its text are one."""
    known = list(model._categories(REGISTRY_KEYS.BATCH_KEY))
    by_text = {as_text(batch): batch for batch in known}
    found = [None] if given is None else _names_with_none(name, given)
    if not found:
        raise DeltaviError(f"{name} is empty: name a batch, or pass None for the batch of each cell.")
    for batch in found:
        if batch is not None and as_text(batch) not in by_text:
            raise unknown_category(f"{name}: the batch", batch, known)
    return [None if batch is None else by_text[as_text(batch)] for batch in found]


def _names_with_none(name: str, given: object) -> list[Any]:
    # None stands for the batch of each cell, in a list too
    listed = list(given) if isinstance(given, list | tuple) else None
    if listed is not None and any(value is None for value in listed):
        rest = names(name, [value for value in listed if value is not None])
        return [None, *rest]
    return names(name, given)


def _read_draws(given: State) -> None:
    """Raise where options of draws do not go together; scvi-tools leaves some of them out without a word."""
    overall = given.get("n_samples_overall")
    if overall is None and given.get("weights") == "importance":
        raise DeltaviError("weights='importance' weighs draws over all cells: pass n_samples_overall.")
    if overall is None:
        return
    if given.get("n_samples", 1) != 1:
        raise DeltaviError("n_samples and n_samples_overall are two ways to say how many draws: pass one of them.")
    if given.get("return_numpy") is False:
        raise DeltaviError("Draws over all cells are of no one cell: with n_samples_overall leave return_numpy out.")
    given["return_numpy"] = True


def _read_genes(model: CountModel, given: State) -> np.ndarray | None:
    """Names of the genes in the model's order, as scvi-tools hands them out, and the order that was asked for."""
    if given.get("gene_list") is None:
        return None
    genes = pd.Index(model.gene_names.astype(str))
    places = gene_positions(given["gene_list"], genes)
    if given.get("path") is not None:
        # a file is written in the order asked for
        given["gene_list"] = genes[places].tolist()
        return None
    given["gene_list"] = genes[np.sort(places)].tolist()
    return np.asarray(np.argsort(np.argsort(places)))


def _ordered(answer: Any, order: np.ndarray | None) -> Any:
    """An answer with its genes, the second axis from the cells on, in the order asked for."""
    if order is None or np.array_equal(order, np.arange(len(order))):
        return answer
    if isinstance(answer, pd.DataFrame):
        return answer.iloc[:, order]
    # arrays of draws by cells by genes, but draws last where they are sampled counts
    return answer[..., order] if isinstance(answer, np.ndarray) else _columns_in(order, answer)


def _columns_in(order: np.ndarray, counts: Any) -> Any:
    """``counts[:, order]`` of a sparse array ``(n_cells, n_genes)`` or with draws behind, for a permutation.

    Indexing such an array compiles code at its first call, which takes longer than all the rest.
    """
    entries = counts.tocoo()
    places = entries.coords.copy()
    places[1] = np.argsort(order)[places[1]]
    return type(entries)(places, entries.data, shape=entries.shape).asformat("gcxs")
