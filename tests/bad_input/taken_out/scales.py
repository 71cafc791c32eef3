"""Checks of scales that a model would not learn on."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

TESTS = "tests/model/test_scales.py::"
COVARIATES, PRIOR, BOUND = "registry/covariates.py", "model/_library_prior.py", "model/_bound.py"
FINITE = f"{TESTS}test_covariates_and_size_factors_are_finite_numbers"
MOMENTS = f"{TESTS}test_moments_are_those_of_training_and_are_saved"
FLOOR = f"{TESTS}test_a_library_that_hardly_varies_has_a_floor"
CAUSE = f"{TESTS}test_an_absurd_bound_is_an_error_with_its_likely_cause"

MUTATIONS: tuple[OwnTest, ...] = (
    OwnTest(FINITE, COVARIATES, "wrong = ~np.isfinite(numbers(adata, key))", "wrong = np.zeros(adata.n_obs, bool)"),
    OwnTest(FINITE, COVARIATES, "~np.isfinite(values) | (values <= 0)", "~np.isfinite(values)"),
    OwnTest(
        f"{TESTS}test_the_unit_of_a_covariate_does_not_matter[year]",
        COVARIATES,
        "values if moments is None else standardised(values, moments)",
        "values",
    ),
    OwnTest(MOMENTS, COVARIATES, "kept = {} if moments is None else {self.MOMENTS_KEY: moments}", "kept = {}"),
    OwnTest(
        MOMENTS,
        COVARIATES,
        "self._values(adata_target), state_registry.get(self.MOMENTS_KEY)",
        "self._values(adata_target), _moments(self._values(adata_target))",
    ),
    OwnTest(
        f"{TESTS}test_values_far_from_training_are_named",
        COVARIATES,
        "for place in np.flatnonzero(far.any(0)):",
        "for place in np.flatnonzero(far.all(0)):",
    ),
    OwnTest(
        f"{TESTS}test_a_constant_covariate_is_named_and_ignored",
        COVARIATES,
        "for place in constant if len(values) > 1 else ():",
        "for place in ():",
    ),
    OwnTest(
        f"{TESTS}test_a_constant_covariate_is_named_and_ignored",
        COVARIATES,
        "    scales[scales <= SMALLEST_SPREAD * np.abs(values).max(0)] = 0.0",
        "    pass",
    ),
    OwnTest(FLOOR, PRIOR, "np.maximum(variances, SMALLEST_VARIANCE)", "variances"),
    OwnTest(FLOOR, PRIOR, "    if len(narrow):", "    if False:"),
    OwnTest(CAUSE, BOUND, "if value > LARGEST_BOUND}", "if value > 1e99}"),
    OwnTest(CAUSE, BOUND, "        if ratio > LARGEST_RATIO:", "        if False:"),
    OwnTest(
        f"{TESTS}test_training_that_ends_absurd_says_so",
        "model/_training.py",
        '    require_plausible_bound(self, plan.get("lr"))',
        "    pass",
    ),
    OwnTest(
        f"{TESTS}test_training_that_ends_absurd_says_so", BOUND, "    if largest > LARGEST_COUNT:", "    if False:"
    ),
)
