"""Tests that a model gets by one entry, also one outside of this package; they need the extra ``test``.

An entry, :class:`SmallModel`, names the class of a model and declares what it can do; :func:`contract_of` makes a class
of tests of it, which pytest collects. :class:`ModelContract` is for every model, :class:`CountContract` for those that
decode expression, :class:`PredictContract` for those that learn labels, and :class:`BadInputContract` for what a model
must refuse, or answer with a warning.
"""

from __future__ import annotations

try:
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('deltavi.testing needs pytest: pip install "deltavi[test]".', name=error.name) from error

# so that a failed assertion shows its values
for part in ("bad_genes", "bad_values", "bench", "contract", "contract_of", "count_contract", "predict_contract"):
    pytest.register_assert_rewrite(f"{__name__}._{part}")

from deltavi.testing._bad_input_contract import BadInputContract  # noqa: E402
from deltavi.testing._cells import small_adata  # noqa: E402
from deltavi.testing._contract import ModelContract  # noqa: E402
from deltavi.testing._contract_of import contract_of  # noqa: E402
from deltavi.testing._count_contract import CountContract  # noqa: E402
from deltavi.testing._predict_contract import PredictContract  # noqa: E402
from deltavi.testing._small_model import SmallModel  # noqa: E402

__all__ = [
    "BadInputContract",
    "CountContract",
    "ModelContract",
    "PredictContract",
    "SmallModel",
    "contract_of",
    "small_adata",
]
