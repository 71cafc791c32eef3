"""Tidy tables of the results that a prediction keeps in ``uns`` and ``varm``."""

from deltavi.get._prediction import changes, provenance, uncertainty, weights
from deltavi.get._provenance import Provenance

__all__ = ["Provenance", "changes", "provenance", "uncertainty", "weights"]
