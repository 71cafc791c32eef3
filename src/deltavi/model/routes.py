"""Routes of a mixture beside a shift of cells: the condition switched, and cells made up."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._errors import DeltaviError
from deltavi._random import isolated_randomness
from deltavi._text import as_text
from deltavi._types import State
from deltavi.likelihood.base import to_numpy
from deltavi.model._aligned import aligned_copy
from deltavi.model._components import all_component_names, over_batches
from deltavi.model._question import Question, Route
from deltavi.model.request import Request
from deltavi.registry.columns import require_known

if TYPE_CHECKING:
    from deltavi.model._mixvi import MIXVI


def switch_condition(model: MIXVI, request: Request, before: np.ndarray, question: Question) -> np.ndarray:
    """Latent positions as they are, to be decoded under the perturbation."""
    return before


def switch_component(model: MIXVI, request: Request, before: np.ndarray, question: Question) -> np.ndarray:
    """Means of the components under the perturbation, at the w of each cell."""
    if not len(before):
        return before
    means = over_batches(
        model,
        lambda tensors: model.module.component_means(tensors, condition=question.perturbation.code),
        request.adata,
        request.cells,
        model.module.n_latent,
    )
    return means.astype(np.float32)


ROUTES: Mapping[str, Route] = MappingProxyType({"z": switch_condition, "w": switch_component})


def check_route(model: MIXVI, options: State) -> None:
    """Raise where a route is asked for that the model cannot go, or with an option that it has no use for."""
    shift = options.get("shift")
    if isinstance(shift, str) and shift in model.routes:
        if not model.module.conditional:
            raise DeltaviError(f"shift={shift!r} switches the condition: make the model with conditional=True.")
        if options.get("shift_scale", "match") != "match":
            raise DeltaviError(f"shift_scale is the factor of a latent shift, and shift={shift!r} takes none.")


def as_query(self: MIXVI, adata: AnnData | None, control: str, options: State) -> AnnData | None:
    """`adata` as the networks are asked about it, with the route among the options of the question checked."""
    check_route(self, options)
    return as_control(self, adata, control)


def as_control(model: MIXVI, adata: AnnData | None, control: str) -> AnnData | None:
    """Cells without a column of conditions are of `control`, which a conditional encoder has to know."""
    key = model._setup_argument("condition_key")
    if not isinstance(adata, AnnData) or not model.module.conditional or key in adata.obs:
        return adata
    layer = model._setup_argument("layer")
    cells = aligned_copy(adata, model.gene_names, layer=layer, min_overlap=model.min_gene_overlap)
    cells.obs[key] = pd.Categorical([as_text(control)] * adata.n_obs)
    return cells


def sample(
    self: MIXVI,
    n: int,
    *,
    component: str | None = None,
    condition: str | None = None,
    batch: str | None = None,
    library_size: float = 1e4,
    seed: int = 0,
) -> AnnData:
    """Make up cells: draw a component, w, z and expression from the model.

    Parameters
    ----------
    n
        Cells.
    component
        Label or component to draw from; by default each as often as training cells use it.
    condition
        Condition of the cells; by default the first one known. Only a model with ``conditional=True`` minds.
    batch
        Batch of the cells; by default the average of all.
    library_size
        Total counts over all genes, where the likelihood has a library.
    seed
        Seed of all draws.

    Returns
    -------
    AnnData. X: drawn counts as CSR (values, where the likelihood is not of counts). layers ``"rate"``: what was
    expected. obs: ``"component"`` and, where one is registered, the condition. obsm ``"X_deltavi"``: z.

    Raises
    ------
    NotTrainedError
        Before training.
    UnknownCategoryError
        If component, condition or batch is not known.
    """
    self._require_trained("sample")
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise DeltaviError(f"n must be a whole number of cells, not {n!r}.")
    if not isinstance(library_size, int | float | np.number) or not 0 < library_size < np.inf:
        raise DeltaviError(f"library_size must be positive and finite, not {library_size!r}.")
    rng = np.random.default_rng(seed)
    codes = _drawn_components(self, n, component, rng)
    known = [as_text(name) for name in self._categories(_keys.CONDITION)]
    condition_code = 0 if condition is None else _code_of("condition", condition, known)
    batches = [as_text(name) for name in self._categories(REGISTRY_KEYS.BATCH_KEY)]
    batch_code = -1 if batch is None else _code_of("batch", batch, batches)
    self.module.eval()
    with torch.inference_mode(), isolated_randomness(seed):
        conditions = torch.full((n, 1), condition_code, device=self.device)
        z = self.module.draw(torch.from_numpy(codes).to(self.device), conditions)
        likelihood = self.module.likelihood_anywhere(
            z,
            condition=conditions,
            batch=batch_code,
            library=library_size / getattr(self.module, "size_factor_unit", 1.0),
        )
        drawn, rate = likelihood.sample(rng).numpy(), to_numpy(likelihood.mean).astype(np.float32)
    all_names = all_component_names(self)
    key = self._setup_argument("condition_key")
    column = "deltavi_component" if key == "component" else "component"
    obs = pd.DataFrame({column: pd.Categorical(all_names[codes])}, index=[f"sample {i}" for i in range(n)])
    if known:
        obs[key] = pd.Categorical([known[condition_code]] * n, categories=known)
    return AnnData(
        X=sparse.csr_matrix(drawn) if self.module.of_counts else drawn,
        obs=obs,
        var=pd.DataFrame(index=pd.Index(self.gene_names.astype(str))),
        layers={_keys.LAYER_RATE: rate},
        obsm={_keys.OBSM_LATENT_AFTER: to_numpy(z).astype(np.float32)},
    )


def _drawn_components(model: MIXVI, n: int, component: str | None, rng: np.random.Generator) -> np.ndarray:
    """Codes of components, ``(n,)``."""
    if component is not None:
        require_known("component", component, model.component_names)
        return np.full(n, list(all_component_names(model)).index(str(component)))
    in_use = np.flatnonzero(model.module.is_active.cpu().numpy())
    shares = np.asarray(model.usage_.shares) if model.usage_ else np.ones(len(in_use))
    return np.asarray(rng.choice(in_use, size=n, p=shares / shares.sum()))


def _code_of(kind: str, name: str, known: list[str]) -> int:
    return known.index(require_known(kind, name, known))
