"""Simulated experiments: the counts follow the stated law, and the stated truth is the truth."""

from __future__ import annotations

import inspect
from itertools import combinations

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from deltavi.datasets import simulate_perturbation
from deltavi.datasets._simulation_parameters import SimulationParameters
from deltavi.errors import DeltaviError

LINE = np.arange(5)[:, None] * 0.6  # positions of types along a line, neighbours alike


@pytest.fixture(scope="module")
def simulated():
    return simulate_perturbation(n_genes=400, n_cell_types=3, n_cells_per_group=120, seed=1)


@pytest.fixture(scope="module")
def residuals(simulated):
    """Standardised counts, and the expectations they were drawn from, of the genes that are expressed."""
    rate = simulated.layers["rate"].astype(float)
    variance = rate + rate**2 / simulated.var["inverse_dispersion"].to_numpy()
    expressed = rate.mean(axis=0) > 0.2
    standardised = (simulated.X.toarray() - rate) / np.sqrt(variance)
    return standardised[:, expressed], rate[:, expressed]


def correlation_of_types(response: pd.DataFrame) -> np.ndarray:
    return np.corrcoef(response.to_numpy().T)


class TestCountsFollowTheirExpectation:
    def test_mean_of_every_gene(self, residuals):
        z = residuals[0].mean(axis=0) * np.sqrt(len(residuals[0]))
        assert abs(z.mean()) < 4 / np.sqrt(z.size)
        assert np.abs(z).max() < 5
        assert z.std() == pytest.approx(1, abs=0.2)

    def test_variance_is_negative_binomial(self, residuals):
        assert np.mean(residuals[0] ** 2) == pytest.approx(1, abs=0.03)

    def test_variance_is_not_poisson(self, residuals, simulated):
        standardised, rate = residuals
        theta = simulated.var["inverse_dispersion"].to_numpy()[simulated.layers["rate"].mean(axis=0) > 0.2]
        poisson_residuals = standardised * np.sqrt(1 + rate / theta)
        assert np.mean(poisson_residuals**2) > 1.5

    def test_zeros_as_often_as_the_law_says(self, simulated):
        theta = simulated.var["inverse_dispersion"].to_numpy()
        p_zero = (theta / (theta + simulated.layers["rate"].astype(float))) ** theta
        observed = (simulated.X.toarray() == 0).mean(axis=0)
        error = np.sqrt((p_zero * (1 - p_zero)).sum(axis=0)) / simulated.n_obs
        z = (observed - p_zero.mean(axis=0))[error > 0.002] / error[error > 0.002]
        assert np.abs(z).max() < 5
        assert abs(z.mean()) < 4 / np.sqrt(z.size)

    def test_large_inverse_dispersion_is_poisson(self):
        adata = simulate_perturbation(n_genes=100, n_cell_types=2, inverse_dispersion=1e8, seed=3)
        rate = adata.layers["rate"].astype(float)
        expressed = rate.mean(axis=0) > 0.5
        squares = (adata.X.toarray() - rate)[:, expressed] ** 2 / rate[:, expressed]
        assert squares.mean() == pytest.approx(1, abs=0.05)

    def test_dispersion_varies_around_its_median(self):
        theta = simulate_perturbation(n_genes=2000, n_cells_per_group=1, inverse_dispersion=4).var["inverse_dispersion"]
        assert theta.median() == pytest.approx(4, rel=0.1)
        assert np.log(theta).std() == pytest.approx(0.5, abs=0.05)


class TestLibrary:
    def test_expected_counts_sum_to_the_library_in_every_condition(self, simulated):
        for layer in ("rate", "expected_control", "expected_stimulated"):
            np.testing.assert_allclose(simulated.layers[layer].sum(axis=1), simulated.obs["library_size"], rtol=1e-5)

    def test_is_log_normal(self):
        adata = simulate_perturbation(n_genes=10, n_cells_per_group=500, library_median=1500, library_sd=0.3)
        log_library = np.log(adata.obs["library_size"])
        assert stats.kstest((log_library - np.log(1500)) / 0.3, "norm").pvalue > 1e-3

    def test_zero_spread_gives_one_library(self):
        library = simulate_perturbation(n_genes=10, n_cells_per_group=2, library_sd=0, library_median=700).obs
        np.testing.assert_allclose(library["library_size"], 700)

    def test_observed_totals_are_those_of_the_counts(self, simulated):
        np.testing.assert_array_equal(simulated.obs["total_counts"], np.asarray(simulated.X.sum(axis=1)).ravel())

    @pytest.mark.parametrize(("n_genes", "median"), [(100, 200), (1000, 2000), (4000, 3000)])
    def test_default_follows_the_number_of_genes(self, n_genes, median):
        adata = simulate_perturbation(n_genes=n_genes, n_cell_types=1, n_cells_per_group=2)
        assert adata.uns["simulation"]["library_median"] == median

    @pytest.mark.parametrize("n_genes", [50, 300, 1000, 3000])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_sparsity_is_realistic(self, n_genes, seed):
        adata = simulate_perturbation(n_genes=n_genes, n_cells_per_group=10, seed=seed)
        zeros = 1 - adata.X.nnz / np.prod(adata.shape)
        assert 0.78 < zeros < 0.95

    def test_no_gene_dominates(self):
        adata = simulate_perturbation(seed=5)
        share = adata.layers["rate"] / adata.layers["rate"].sum(axis=1, keepdims=True)
        assert share.mean(axis=0).max() < 0.15


class TestKnownTruth:
    def test_own_condition_is_the_rate(self, simulated):
        for condition in ("control", "stimulated"):
            own = (simulated.obs["condition"] == condition).to_numpy()
            np.testing.assert_array_equal(simulated.layers["rate"][own], simulated.layers[f"expected_{condition}"][own])
            assert not np.allclose(simulated.layers["rate"][~own], simulated.layers[f"expected_{condition}"][~own])

    def test_log_ratio_of_expectations_is_the_response_up_to_a_constant(self, simulated):
        ratio = np.log(simulated.layers["expected_stimulated"].astype(float))
        ratio -= np.log(simulated.layers["expected_control"].astype(float))
        response = simulated.varm["response_stimulated"][simulated.obs["cell_type"].to_list()].to_numpy().T
        left_over = ratio - response
        np.testing.assert_allclose(left_over - left_over[:, :1], 0, atol=1e-4)

    def test_cells_of_one_group_share_their_composition(self, simulated):
        share = simulated.layers["rate"] / simulated.obs["library_size"].to_numpy()[:, None]
        for _, members in simulated.obs.groupby(["condition", "cell_type", "batch"], observed=True).indices.items():
            np.testing.assert_allclose(share[members], share[members[:1]].repeat(len(members), axis=0), rtol=1e-4)

    def test_batch_multiplies_every_gene_alike_in_all_types(self, simulated):
        log_share = np.log(simulated.layers["expected_control"].astype(float))
        groups = simulated.obs.groupby(["cell_type", "batch"], observed=True).indices
        effects = []
        for cell_type in simulated.obs["cell_type"].cat.categories:
            first, second = (log_share[groups[cell_type, batch]].mean(axis=0) for batch in ("batch_1", "batch_2"))
            effects.append(second - first)
        centred = np.array(effects) - np.mean(effects, axis=1, keepdims=True)
        np.testing.assert_allclose(centred, centred[:1].repeat(len(centred), axis=0), atol=1e-4)
        assert centred[0].std() == pytest.approx(0.2, rel=0.2)

    def test_no_batch_effect_when_none_is_asked(self):
        adata = simulate_perturbation(n_genes=30, n_cell_types=1, n_cells_per_group=1, batch_effect=0, library_sd=0)
        expected = adata.layers["expected_control"]
        np.testing.assert_allclose(expected, expected[:1].repeat(len(expected), axis=0), rtol=1e-5)

    def test_response_is_shared_plus_specific(self):
        effects = {"n_genes": 300, "n_cells_per_group": 1, "seed": 4}
        whole = simulate_perturbation(shared_effect=1, specific_effect=0.5, **effects).varm["response_stimulated"]
        shared = simulate_perturbation(shared_effect=1, specific_effect=0, **effects)
        specific = simulate_perturbation(shared_effect=0, specific_effect=0.5, **effects).varm["response_stimulated"]
        np.testing.assert_allclose(whole, shared.varm["response_stimulated"] + specific)
        planted = shared.var["shared_response_stimulated"].to_numpy()
        np.testing.assert_array_equal(shared.varm["response_stimulated"].to_numpy(), planted[:, None].repeat(6, axis=1))

    @pytest.mark.parametrize(("shared", "specific"), [(1.5, 0.0), (0.0, 0.8)])
    def test_effects_are_standard_deviations_over_responding_genes(self, shared, specific):
        adata = simulate_perturbation(
            n_genes=5000, n_cell_types=2, n_cells_per_group=1, shared_effect=shared, specific_effect=specific
        )
        response = adata.varm["response_stimulated"]["type_1"]
        assert (response != 0).mean() == pytest.approx(0.2)
        assert response[response != 0].std() == pytest.approx(shared + specific, rel=0.1)

    def test_responsiveness_scales_the_whole_response_of_a_type(self):
        settings_ = {"n_genes": 80, "n_cell_types": 3, "n_cells_per_group": 1}
        even = simulate_perturbation(**settings_).varm["response_stimulated"]
        uneven = simulate_perturbation(responsiveness=(1, 0, 2), **settings_).varm["response_stimulated"]
        np.testing.assert_allclose(uneven, even * [1, 0, 2])

    def test_a_type_that_does_not_respond_keeps_its_expectation(self):
        adata = simulate_perturbation(n_genes=50, n_cell_types=2, n_cells_per_group=3, responsiveness=[1, 0])
        silent = (adata.obs["cell_type"] == "type_2").to_numpy()
        np.testing.assert_array_equal(
            adata.layers["expected_control"][silent], adata.layers["expected_stimulated"][silent]
        )

    def test_no_response_when_no_gene_responds(self):
        adata = simulate_perturbation(n_genes=50, n_cells_per_group=2, responding_fraction=0)
        np.testing.assert_array_equal(adata.layers["expected_control"], adata.layers["expected_stimulated"])

    def test_similarity_of_types_is_the_correlation_of_their_responses(self):
        adata = simulate_perturbation(
            n_genes=20_000, n_cell_types=5, n_cells_per_group=1, type_positions=LINE, shared_effect=0
        )
        np.testing.assert_allclose(
            correlation_of_types(adata.varm["response_stimulated"]),
            adata.uns["simulation"]["type_similarity"],
            atol=0.08,
        )

    def test_similarity_falls_with_distance(self):
        similarity = simulate_perturbation(n_genes=5, n_cell_types=5, n_cells_per_group=1, type_positions=LINE).uns[
            "simulation"
        ]["type_similarity"]
        assert np.all(np.diff(similarity[0]) < 0)
        np.testing.assert_array_equal(np.diag(similarity), 1)

    def test_each_target_has_programmes_of_its_own(self):
        adata = simulate_perturbation(n_genes=2000, n_cells_per_group=1, conditions=("rest", "ifn", "tnf"))
        assert set(adata.layers) - {None} == {"rate", "expected_rest", "expected_ifn", "expected_tnf"}
        ifn, tnf = (adata.varm[f"response_{perturbation}"].to_numpy().ravel() for perturbation in ("ifn", "tnf"))
        assert abs(np.corrcoef(ifn, tnf)[0, 1]) < 0.1
        assert "response_rest" not in adata.varm

    def test_genes_do_not_depend_on_the_number_of_cells(self):
        few, many = (simulate_perturbation(n_genes=40, n_cells_per_group=n) for n in (1, 7))
        pd.testing.assert_frame_equal(few.var, many.var)
        pd.testing.assert_frame_equal(few.varm["response_stimulated"], many.varm["response_stimulated"])


class TestForm:
    def test_names_and_types(self, simulated):
        assert sparse.issparse(simulated.X)
        assert simulated.X.format == "csr"
        assert simulated.X.dtype == np.float32
        assert simulated.var_names[0] == "GENE0001"
        assert list(simulated.obs["condition"].cat.categories) == ["control", "stimulated"]
        assert list(simulated.obs["cell_type"].cat.categories) == ["type_1", "type_2", "type_3"]
        assert list(simulated.varm["response_stimulated"].columns) == ["type_1", "type_2", "type_3"]
        assert simulated.obs_names.is_unique

    def test_every_group_has_the_same_number_of_cells(self, simulated):
        sizes = simulated.obs.groupby(["condition", "cell_type", "batch"], observed=False).size()
        assert len(sizes) == 12
        assert (sizes == 120).all()

    def test_cells_are_in_random_order(self, simulated):
        assert simulated.obs["condition"].iloc[:60].nunique() == 2
        assert simulated.obs["cell_type"].iloc[:60].nunique() == 3

    def test_names_sort_as_they_count(self):
        adata = simulate_perturbation(n_genes=3, n_cell_types=12, n_batches=11, n_cells_per_group=1)
        for column in ("cell_type", "batch"):
            categories = list(adata.obs[column].cat.categories)
            assert categories == sorted(categories)

    @pytest.mark.parametrize("responsiveness", [None, (1.0, 0.5)])
    def test_survives_a_file(self, tmp_path, responsiveness):
        adata = simulate_perturbation(
            n_genes=20, n_cell_types=2, n_cells_per_group=3, responsiveness=responsiveness, type_positions=[[0], [1]]
        )
        adata.write_h5ad(tmp_path / "simulated.h5ad")
        back = anndata.read_h5ad(tmp_path / "simulated.h5ad")
        np.testing.assert_array_equal(back.X.toarray(), adata.X.toarray())
        np.testing.assert_array_equal(back.layers["expected_stimulated"], adata.layers["expected_stimulated"])
        np.testing.assert_array_equal(back.varm["response_stimulated"], adata.varm["response_stimulated"])
        pd.testing.assert_frame_equal(back.obs, adata.obs, check_categorical=False)
        assert set(back.uns["simulation"]) == set(adata.uns["simulation"])
        assert list(back.uns["simulation"]["conditions"]) == ["control", "stimulated"]

    def test_every_parameter_is_recorded(self, simulated):
        parameters = set(inspect.signature(simulate_perturbation).parameters) - {"seed"}
        assert parameters == set(SimulationParameters.__dataclass_fields__)
        assert parameters <= set(simulated.uns["simulation"])

    def test_parameters_are_named(self):
        kinds = {p.kind for p in inspect.signature(simulate_perturbation).parameters.values()}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}


class TestBadParameters:
    @pytest.mark.parametrize("name", ["n_genes", "n_cell_types", "n_batches", "n_cells_per_group"])
    @pytest.mark.parametrize("value", [0, -1, 1.5, "many"])
    def test_counts(self, name, value):
        with pytest.raises(DeltaviError, match=name):
            simulate_perturbation(**{name: value})

    @pytest.mark.parametrize("name", ["shared_effect", "specific_effect", "type_effect", "batch_effect", "library_sd"])
    @pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
    def test_sizes(self, name, value):
        with pytest.raises(DeltaviError, match=name):
            simulate_perturbation(**{name: value})

    @pytest.mark.parametrize("name", ["library_median", "inverse_dispersion"])
    def test_positive_sizes(self, name):
        with pytest.raises(DeltaviError, match=f"{name} must be a number above 0"):
            simulate_perturbation(**{name: 0})

    @pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
    def test_fraction(self, value):
        with pytest.raises(DeltaviError, match="responding_fraction"):
            simulate_perturbation(responding_fraction=value)

    @pytest.mark.parametrize(
        ("conditions", "message"),
        [
            (("control",), "at least one perturbation"),
            ("control", "at least one perturbation"),
            (("a", "a"), "differ"),
            (("a", ""), "non-empty"),
            (("a", "b/c"), "without '/'"),
            (("a", 1), "strings"),
        ],
    )
    def test_conditions(self, conditions, message):
        with pytest.raises(DeltaviError, match=message):
            simulate_perturbation(conditions=conditions)

    @pytest.mark.parametrize("value", [(1,), (1, 2, 3), (1, np.nan)])
    def test_responsiveness(self, value):
        with pytest.raises(DeltaviError, match="responsiveness must be 2 finite numbers"):
            simulate_perturbation(n_cell_types=2, responsiveness=value)

    @pytest.mark.parametrize("value", [[0.0, 1.0], [[0.0], [1.0], [2.0]], [[0.0], [np.inf]]])
    def test_positions(self, value):
        with pytest.raises(DeltaviError, match="type_positions must be finite"):
            simulate_perturbation(n_cell_types=2, type_positions=value)


class TestAnySize:
    small = st.integers(1, 4)

    @settings(max_examples=40, deadline=None)
    @given(
        n_genes=st.integers(1, 30),
        n_cell_types=small,
        n_batches=small,
        n_cells_per_group=small,
        n_conditions=st.integers(2, 4),
        fraction=st.floats(0, 1),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_shapes_and_truth_hold(
        self, n_genes, n_cell_types, n_batches, n_cells_per_group, n_conditions, fraction, seed
    ):
        conditions = tuple(f"c{i}" for i in range(n_conditions))
        adata = simulate_perturbation(
            n_genes=n_genes,
            n_cell_types=n_cell_types,
            n_batches=n_batches,
            n_cells_per_group=n_cells_per_group,
            conditions=conditions,
            responding_fraction=fraction,
            seed=seed,
        )
        assert adata.shape == (n_cell_types * n_batches * n_cells_per_group * n_conditions, n_genes)
        assert np.isfinite(adata.layers["rate"]).all()
        assert (adata.layers["rate"] > 0).all()
        counts = adata.X.data
        assert np.array_equal(counts, np.rint(counts))
        own = np.stack([adata.layers[f"expected_{c}"] for c in conditions])
        codes = adata.obs["condition"].cat.codes.to_numpy()
        np.testing.assert_array_equal(own[codes, np.arange(adata.n_obs)], adata.layers["rate"])

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1))
    def test_same_seed_same_data_and_global_state_untouched(self, seed):
        before = np.random.get_state()[1].copy()
        first, second = (simulate_perturbation(n_genes=15, n_cells_per_group=2, seed=seed) for _ in range(2))
        np.testing.assert_array_equal(np.random.get_state()[1], before)
        np.testing.assert_array_equal(first.X.toarray(), second.X.toarray())
        np.testing.assert_array_equal(first.layers["rate"], second.layers["rate"])

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1))
    def test_a_generator_is_used_and_advances(self, seed):
        generator = np.random.default_rng(seed)
        first = simulate_perturbation(n_genes=15, n_cells_per_group=2, seed=generator)
        second = simulate_perturbation(n_genes=15, n_cells_per_group=2, seed=generator)
        from_seed = simulate_perturbation(n_genes=15, n_cells_per_group=2, seed=seed)
        np.testing.assert_array_equal(first.layers["rate"], from_seed.layers["rate"])
        assert not np.array_equal(first.layers["rate"], second.layers["rate"])


def log_means(adata: anndata.AnnData) -> pd.DataFrame:
    """Mean log1p CP10k of every condition and type: the numbers that a mean shift works with."""
    logs = np.log1p(adata.X.toarray() / adata.obs["total_counts"].to_numpy()[:, None] * 1e4)
    return (
        pd.DataFrame(logs, index=adata.obs_names)
        .groupby([adata.obs["condition"], adata.obs["cell_type"]], observed=True)
        .mean()
    )


class TestLearning:
    """What a method should find in such data can be found by the simplest of methods."""

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_mean_shift_predicts_a_held_out_type_better_than_no_change(self, seed):
        means = log_means(simulate_perturbation(n_cells_per_group=60, seed=seed))
        shift = means.loc["stimulated"] - means.loc["control"]
        for held_out in shift.index:
            real = means.loc["stimulated"].loc[held_out]
            no_change = means.loc["control"].loc[held_out]
            predicted = no_change + shift.drop(index=held_out).mean()
            assert np.sum((predicted - real) ** 2) < 0.9 * np.sum((no_change - real) ** 2)

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_closer_types_respond_more_alike(self, seed):
        adata = simulate_perturbation(n_cells_per_group=60, seed=seed)
        means = log_means(adata)
        observed = np.corrcoef((means.loc["stimulated"] - means.loc["control"]).to_numpy())
        similarity = adata.uns["simulation"]["type_similarity"]
        pairs = tuple(np.array(list(combinations(range(6), 2))).T)
        assert stats.spearmanr(observed[pairs], similarity[pairs]).statistic > 0.5

    def test_closer_types_look_more_alike(self):
        adata = simulate_perturbation(n_genes=500, n_cell_types=5, n_cells_per_group=60, type_positions=LINE)
        control = log_means(adata).loc["control"].to_numpy()
        distance = ((control[:1] - control[1:]) ** 2).sum(axis=1)
        assert distance[0] == distance.min()
        assert stats.spearmanr(distance, np.arange(4)).statistic > 0.7

    def test_relatives_shift_beats_mean_shift_where_responses_are_specific(self):
        two_families = [[0.0], [0.3], [4.0], [4.3]]
        adata = simulate_perturbation(
            n_cell_types=4, n_cells_per_group=60, type_positions=two_families, shared_effect=0, specific_effect=1.2
        )
        means = log_means(adata)
        shift = (means.loc["stimulated"] - means.loc["control"]).to_numpy()
        for held_out, relative in [(0, 1), (1, 0), (2, 3), (3, 2)]:
            average = np.delete(shift, held_out, axis=0).mean(axis=0)
            from_relative = np.sum((shift[relative] - shift[held_out]) ** 2)
            assert from_relative < np.sum((average - shift[held_out]) ** 2)
