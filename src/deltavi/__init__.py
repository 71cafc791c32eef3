"""deltavi: prediction of the responses of single cells to perturbations.

``deltavi.model`` holds the models, ``deltavi.tl`` whole analyses, ``deltavi.perturbation`` shifts, baselines and
comparisons, ``deltavi.get`` tables of predictions, ``deltavi.errors`` the exceptions and warnings to
catch, ``deltavi.pp`` the preparation of cells, ``deltavi.dataloaders`` data modules, ``deltavi.datasets``,
``deltavi.metrics`` and ``deltavi.pl`` data, scores and plots. A new model is built of ``deltavi.module``,
``deltavi.latent`` and ``deltavi.likelihood``, and tested by ``deltavi.testing``, which needs the extra ``test``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltavi import (
        dataloaders,
        datasets,
        errors,
        get,
        latent,
        likelihood,
        metrics,
        model,
        module,
        perturbation,
        pl,
        pp,
        testing,
        tl,
    )

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "dataloaders",
    "datasets",
    "errors",
    "get",
    "latent",
    "likelihood",
    "metrics",
    "model",
    "module",
    "perturbation",
    "pl",
    "pp",
    "testing",
    "tl",
]


def __getattr__(name: str) -> object:
    """Import a subpackage at its first use, since torch and scvi-tools take seconds to load."""
    if name in __all__:
        return importlib.import_module(f"deltavi.{name}")
    raise AttributeError(f"module 'deltavi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
