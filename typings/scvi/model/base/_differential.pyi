from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

class DifferentialComputation:
    def get_bayes_factors(
        self,
        idx1: list[bool] | np.ndarray,
        idx2: list[bool] | np.ndarray,
        mode: Literal["vanilla", "change"] = "change",
        batchid1: Sequence[int | float | str] | None = None,
        batchid2: Sequence[int | float | str] | None = None,
        use_observed_batches: bool | None = False,
        n_samples_overall: int = 5000,
        use_permutation: bool = False,
        m_permutation: int = 10000,
        change_fn: str | Callable[..., Any] | None = None,
        m1_domain_fn: Callable[..., Any] | None = None,
        delta: float | None = 0.5,
        pseudocounts: float | None = None,
        threshold_counts: float = 0.01,
        test_mode: Literal["two", "three"] = "three",
        cred_interval_lvls: list[float] | np.ndarray | None = None,
    ) -> dict[str, np.ndarray]: ...
