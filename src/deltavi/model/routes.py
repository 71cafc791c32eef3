"""What a mixture can do beside moving cells by a shift: switch the condition, and make cells up."""

from __future__ import annotations

from typing import Any, Literal

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
from deltavi.likelihood.base import to_numpy
from deltavi.model._base import aligned_copy
from deltavi.model._components import ComponentsMixin
from deltavi.model.request import Request
from deltavi.registry.columns import require_known

ROUTES = ("z", "w")


class RoutesMixin(ComponentsMixin):
    """Carries the routes of ``predict_perturbation`` and ``sample``; comes before what carries perturbations."""

    def get_latent_representation(  # type: ignore[override]  # what scvi-tools names is among the keywords
        self, adata: AnnData | None = None, indices: Any = None, *, of: Literal["z", "w"] = "z", **kwargs: Any
    ) -> Any:
        """Latent position of each cell: the posterior mean of z, or of w.

        Parameters
        ----------
        adata, indices, **kwargs
            As in :meth:`deltavi.model.VAE.get_latent_representation`; for w nothing further.
        of
            ``"z"``, ``(n_cells, n_latent)``, or ``"w"``, ``(n_cells, n_w)``.

        Raises
        ------
        NotTrainedError
            Before training.
        DeltaviError
            If the model has no w.
        """
        if of == "z":
            return super().get_latent_representation(adata, indices=indices, **kwargs)
        if of != "w" or kwargs:
            raise DeltaviError(f"of must be 'z' or 'w', not {of!r}." if of != "w" else f"w takes no {list(kwargs)}.")
        self._require_trained("get_latent_representation")
        if self.module.n_w == 0:
            raise DeltaviError("The model has no w: make it with n_w of at least 1.")
        aligned = self._validate_anndata(adata)
        chosen = np.arange(aligned.n_obs) if indices is None else np.asarray(indices)
        return np.asarray(self._over_batches(self.module.w_means, aligned, chosen, self.module.n_w), dtype=np.float32)

    def predict_perturbation(
        self, adata: AnnData | None = None, *, control: str, perturbation: str, **kwargs: Any
    ) -> AnnData:
        """Predict how cells would look under another condition.

        As :meth:`deltavi.model.SCGEN.predict_perturbation`, with two further values of ``shift`` for a model with
        ``conditional=True``: ``"z"`` keeps the cell's latent position and decodes it under `perturbation`; ``"w"``
        keeps its component and its w, and decodes the mean of that component under `perturbation`. The route ``"w"``
        leaves of a cell what w says about it; where that is little (:meth:`get_kl_per_dimension`), all cells of a
        component are predicted alike but for their residual.

        Parameters
        ----------
        adata, control, perturbation, **kwargs
            As there; ``shift`` may also be ``"z"`` or ``"w"``.

        Raises
        ------
        DeltaviError
            If a route is asked for without ``conditional=True``, or together with a ``shift_scale``.
        """
        shift = kwargs.get("shift")
        if isinstance(shift, str) and shift in ROUTES:
            if not self.module.conditional:
                raise DeltaviError(f"shift={shift!r} switches the condition: make the model with conditional=True.")
            if kwargs.get("shift_scale", "match") != "match":
                raise DeltaviError(f"shift_scale is the factor of a latent shift, and shift={shift!r} takes none.")
        adata = self._as_control(adata, control)
        return super().predict_perturbation(adata, control=control, perturbation=perturbation, **kwargs)

    def _as_control(self, adata: AnnData | None, control: str) -> AnnData | None:
        """Cells without a column of conditions are of `control`, which a conditional encoder has to know."""
        key = self._setup_argument("condition_key")
        if not isinstance(adata, AnnData) or not self.module.conditional or key in adata.obs:
            return adata
        layer = self._setup_argument("layer")
        cells = aligned_copy(adata, self.gene_names, layer=layer, min_overlap=self.min_gene_overlap)
        cells.obs[key] = pd.Categorical([as_text(control)] * adata.n_obs)
        return cells

    def _shifted_positions(
        self, request: Request, before: np.ndarray, conditions: tuple[str, str], **options: Any
    ) -> tuple[np.ndarray, dict[str, Any]]:
        route = options["shift"]
        if not (isinstance(route, str) and route in ROUTES):
            return super()._shifted_positions(request, before, conditions, **options)
        return self._routed(request, before, conditions[1], route), {"shift": route}

    def _routed(self, request: Request, before: np.ndarray, perturbation: str, route: str) -> np.ndarray:
        if route == "z" or not len(before):
            return before
        code = self._condition_code(perturbation)
        means: np.ndarray = self._over_batches(
            lambda tensors: self.module.component_means(tensors, condition=code),
            request.adata,
            request.cells,
            self.module.n_latent,
        )
        return means.astype(np.float32)

    def sample(
        self,
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
        codes = self._drawn_components(n, component, rng)
        known = [as_text(name) for name in self._categories(_keys.CONDITION)]
        condition_code = 0 if condition is None else self._code_of("condition", condition, known)
        batches = [as_text(name) for name in self._categories(REGISTRY_KEYS.BATCH_KEY)]
        batch_code = -1 if batch is None else self._code_of("batch", batch, batches)
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
        all_names = self._all_component_names()
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

    def _drawn_components(self, n: int, component: str | None, rng: np.random.Generator) -> np.ndarray:
        """Codes of components, ``(n,)``."""
        if component is not None:
            require_known("component", component, self.component_names)
            return np.full(n, list(self._all_component_names()).index(str(component)))
        in_use = np.flatnonzero(self.module.is_active.cpu().numpy())
        shares = np.asarray(self.usage_.shares) if self.usage_ else np.ones(len(in_use))
        return np.asarray(rng.choice(in_use, size=n, p=shares / shares.sum()))

    @staticmethod
    def _code_of(kind: str, name: str, known: list[str]) -> int:
        return known.index(require_known(kind, name, known))
