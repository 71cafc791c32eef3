"""Generative output of a module, for the methods of scvi-tools that read it."""

from __future__ import annotations

from typing import Any

from deltavi._compat import MODULE_KEYS
from deltavi._types import Outputs
from deltavi.likelihood import Likelihood


class Generated(Outputs):
    """``"likelihood"``, and ``"px"``, the distribution of scvi-tools, which is made at its first use.

    Training does not use it, and scvi-tools checks every rate and dispersion when a distribution is made.

    Parameters
    ----------
    likelihood
        Likelihood of the expression given the latent variables.
    """

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__({"likelihood": likelihood})

    def __missing__(self, key: str) -> Any:
        if key != MODULE_KEYS.PX_KEY:
            raise KeyError(key)
        self[key] = self["likelihood"].distribution
        return self[key]

    def __contains__(self, key: object) -> bool:
        return key == MODULE_KEYS.PX_KEY or super().__contains__(key)
