"""Simulated screens: counts follow the stated law, large groups show the stated truth, numbers of cells add up."""

from __future__ import annotations

import inspect
import time
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from deltavi import pp
from deltavi._cp10k import log1p_cp10k_rows
from deltavi.datasets import simulate_screen
from deltavi.datasets._screen_cells import draw_group_counts
from deltavi.datasets._screen_expectation import ExpectedLog
from deltavi.datasets._screen_parameters import ScreenParameters
from deltavi.errors import DeltaviError, UnknownArgumentError

SMALL: dict[str, Any] = {"n_genes": 120, "n_contexts": 3, "n_perturbations": 5, "n_cells_per_group": 8}
LINE = np.array([[0.0], [0.2], [3.0], [3.2]])  # two pairs of contexts that are alike


@pytest.fixture(scope="module")
def large() -> AnnData:
    """Few groups of many cells, with a pair and a drug, in two batches."""
    return simulate_screen(
        n_genes=300,
        n_contexts=2,
        n_perturbations=3,
        n_pairs=1,
        n_drugs=1,
        n_cells_per_group=5000,
        n_control_cells=5000,
        unevenness=0,
        inert_fraction=0.4,
        seed=2,
    )


def moments(adata: AnnData, context: str, condition: str, layer: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean over batches of the means of a group, each batch counted alike, and its squared error."""
    means, errors = [], []
    for batch in adata.obs["batch"].cat.categories:
        chosen = (adata.obs[["context", "condition", "batch"]] == [context, condition, batch]).all(axis=1).to_numpy()
        rows = layer[chosen].toarray().astype(np.float64)
        means.append(rows.mean(axis=0))
        errors.append(rows.var(axis=0) / len(rows))
    return np.mean(means, axis=0), np.sum(errors, axis=0) / len(means) ** 2


class TestTruth:
    def test_changes_of_large_groups_converge_to_it(self, large: AnnData) -> None:
        logs = log1p_cp10k_rows(large.X, large.obs["total_counts"].to_numpy())
        truth = large.uns["truth"]
        for c, context in enumerate(truth["contexts"]):
            start, start_error = moments(large, context, "control", logs)
            np.testing.assert_allclose(start, truth["control"][c], atol=0.015 + 5 * np.sqrt(start_error).max())
            for p, condition in enumerate(truth["conditions"]):
                end, error = moments(large, context, condition, logs)
                z = (end - start - truth["change"][c, p]) / np.sqrt(error + start_error + 1e-9)
                z = z[np.minimum(truth["control"][c], truth["control"][c] + truth["change"][c, p]) > 0.02]
                assert np.abs(z).max() < 5
                assert z.std() == pytest.approx(1, abs=0.2)
                assert abs(z.mean()) < 0.35  # genes share the totals of cells

    def test_change_of_expected_means(self, large: AnnData) -> None:
        scale = sparse.diags(1e4 / large.obs["total_counts"].to_numpy())
        scaled, truth = sparse.csr_matrix(scale @ large.X), large.uns["truth"]
        start, start_error = moments(large, "context_1", "control", scaled)
        for p, condition in enumerate(truth["conditions"]):
            end, error = moments(large, "context_1", condition, scaled)
            found = np.log1p(end) - np.log1p(start) - truth["change_of_expected_mean"][0, p]
            # a mean of ratios is not quite the ratio of means
            allowed = 0.03 + 5 * np.sqrt(error / (1 + end) ** 2 + start_error / (1 + start) ** 2)
            assert (np.abs(found) < allowed).all()

    def test_genes_that_do_not_respond_do_not_change(self) -> None:
        truth = simulate_screen(n_genes=1000, n_contexts=2, n_perturbations=8, n_cells_per_group=1).uns["truth"]
        silent = ~truth["responds"]
        assert np.abs(truth["change"][:, silent]).max() < 0.01
        assert np.abs(truth["change_of_expected_mean"][:, silent]).max() < 0.01
        assert np.abs(truth["log_fold_change"][:, silent]).max() == 0
        assert np.quantile(np.abs(truth["change_of_expected_mean"][:, ~silent]), 0.75) > 0.02

    def test_targets_are_knocked_down(self) -> None:
        adata = simulate_screen(
            **SMALL, specific_effect=0, generic_effect=0, pair_interaction=0, n_pairs=1, knockdown=0.75
        )
        truth = adata.uns["truth"]
        for p, condition in enumerate(truth["conditions"]):
            targets = np.isin(truth["genes"], condition.split("+"))
            assert set(np.flatnonzero(targets)) == set(np.flatnonzero(truth["responds"][p]))
            np.testing.assert_allclose(truth["log_fold_change"][:, p, targets], np.log(0.25), rtol=1e-5)
            assert (truth["change"][:, p, targets] < 0).all()
        assert set(adata.var_names[adata.var["is_target"]]) == set(truth["effects"])

    def test_inert_perturbations_change_their_target_only(self) -> None:
        truth = simulate_screen(**SMALL, inert_fraction=0.6).uns["truth"]
        inert = truth["table"]["size"] == 0
        assert inert.sum() == 3
        assert (truth["responds"][inert].sum(axis=1) == 1).all()
        assert (truth["responds"][~inert].sum(axis=1) > 5).all()

    def test_fold_changes_are_those_of_the_formula(self) -> None:
        truth = simulate_screen(**SMALL, n_drugs=1, knockdown=0).uns["truth"]
        singles = (truth["table"]["kind"] == "gene").to_numpy()
        moved = np.einsum("cek,ek,kg->ceg", truth["context_gains"], truth["programme_scores"], truth["programmes"])
        rest = truth["log_fold_change"][:, singles] - moved[:, : singles.sum()]
        # what is left is the generic response: one profile, whose length is the gain times the size
        profiles = rest.reshape(-1, rest.shape[-1])
        assert np.linalg.svd(profiles, compute_uv=False)[1] < 1e-5
        lengths = np.outer(truth["generic_gains"], truth["table"]["size"][singles]).ravel()
        found = profiles @ profiles[np.argmax(np.abs(lengths))]
        assert np.corrcoef(found, lengths)[0, 1] > 1 - 1e-6

    def test_pairs_are_sums_and_some_interact(self) -> None:
        truth = simulate_screen(**SMALL, n_pairs=6, interacting_fraction=0.5).uns["truth"]
        place = {name: i for i, name in enumerate(truth["conditions"])}
        pairs = [name for name in truth["conditions"] if "+" in name]
        beyond = np.abs(truth["pair_interaction"]).sum(axis=1)
        assert sum(beyond[place[name]] > 0 for name in pairs) == 3
        for name in pairs:
            both = truth["log_fold_change"][:, [place[part] for part in name.split("+")]].sum(axis=1)
            found = truth["log_fold_change"][:, place[name]] - both
            np.testing.assert_allclose(found, np.tile(truth["pair_interaction"][place[name]], (3, 1)), atol=1e-5)

    def test_doses_follow_hill(self) -> None:
        adata = simulate_screen(**SMALL, n_drugs=2, doses=[0.1, 3, 100, 1e9], inert_fraction=0)
        truth = adata.uns["truth"]
        for drug, (half, slope) in truth["drugs"].iterrows():
            rows = (truth["table"]["perturbation"] == drug).to_numpy()
            doses = truth["table"].loc[rows, "dose"].to_numpy()
            changes = truth["log_fold_change"][:, rows]
            expected = doses**slope / (doses**slope + half**slope)
            for factor, change in zip(expected, changes.transpose(1, 0, 2), strict=True):
                np.testing.assert_allclose(
                    change, factor / expected[-1] * changes[:, -1], atol=1e-4 * np.abs(changes).max()
                )

    def test_similar_contexts_have_similar_gains(self) -> None:
        settings_ = {"n_genes": 400, "n_contexts": 4, "n_perturbations": 60, "n_cells_per_group": 1}
        correlation = {}
        for gains in ("similar", "random"):
            truth = simulate_screen(**settings_, gains=gains, context_positions=LINE).uns["truth"]
            correlation[gains] = np.corrcoef(truth["context_gains"].reshape(4, -1))
            assert truth["context_gains"].std() == pytest.approx(0.5, rel=0.15)
            np.testing.assert_allclose(np.diag(truth["context_similarity"]), 1)
        assert correlation["similar"][0, 1] > 0.75
        assert abs(correlation["similar"][0, 2]) < 0.2
        assert np.abs(correlation["random"] - np.eye(4)).max() < 0.2

    def test_without_interaction_all_contexts_have_the_same_fold_changes(self) -> None:
        truth = simulate_screen(**SMALL, context_interaction=0).uns["truth"]
        np.testing.assert_allclose(truth["log_fold_change"], truth["log_fold_change"][:1].repeat(3, axis=0))


class TestExpectation:
    @pytest.mark.parametrize("share", [2e-5, 1e-3, 0.05])
    @pytest.mark.parametrize("theta", [0.4, 3.0])
    def test_agrees_with_draws(self, share: float, theta: float) -> None:
        rng = np.random.default_rng(0)
        rest_shares = rng.dirichlet(np.ones(30)) * (1 - share)
        rest_theta = rng.uniform(0.5, 3, 30)
        spread = float((rest_shares**2 / rest_theta).sum() + share**2 / theta)
        expected = ExpectedLog((1e-5, 0.1), (0.3, 4), (spread / 2, spread * 2), library_median=1500, library_sd=0.4)
        library = 1500 * np.exp(0.4 * rng.standard_normal(200_000))
        x = rng.poisson(library * share * rng.gamma(theta, 1 / theta, 200_000))
        rest = sum(
            rng.poisson(library * s * rng.gamma(t, 1 / t, 200_000))
            for s, t in zip(rest_shares, rest_theta, strict=True)
        )
        drawn = np.log1p(1e4 * x / np.maximum(x + rest, 1))
        found = expected(np.array([share]), np.array([theta]), np.array(spread))[0]
        assert found == pytest.approx(drawn.mean(), abs=0.006 + 4 * drawn.std() / np.sqrt(len(drawn)))


class TestCounts:
    def test_both_ways_to_draw_have_the_moments_of_the_law(self) -> None:
        rng = np.random.default_rng(1)
        shares = np.array([[1e-4, 3e-4, 2e-3, 0.01], [2e-4, 1e-4, 4e-3, 0.02]])
        theta = np.array([0.5, 2.0, 0.5, 2.0])
        group, library = np.repeat([0, 1], 40_000), np.full(80_000, 1000.0)
        counts = draw_group_counts(shares, group, library, theta, rng).toarray()
        for g in (0, 1):
            rows, mean = counts[group == g].astype(np.float64), 1000 * shares[g]
            variance = mean + mean**2 / theta
            np.testing.assert_allclose(rows.mean(axis=0), mean, atol=5 * np.sqrt(variance / 40_000).max(), rtol=0.05)
            np.testing.assert_allclose(rows.var(axis=0), variance, rtol=0.1)
            zero = stats.nbinom.pmf(0, theta, theta / (theta + mean))
            np.testing.assert_allclose((rows == 0).mean(axis=0), zero, atol=0.012)
            two = stats.nbinom.pmf(2, theta, theta / (theta + mean))
            np.testing.assert_allclose((rows == 2).mean(axis=0), two, atol=0.008)

    def test_cells_with_larger_libraries_have_more_counts(self) -> None:
        rng = np.random.default_rng(2)
        library = np.repeat([200.0, 1000.0], 20_000)[rng.permutation(40_000)]
        counts = draw_group_counts(np.array([[3e-4]]), np.zeros(40_000, int), library, np.array([1.0]), rng).toarray()
        for size in (200.0, 1000.0):
            assert counts[library == size].mean() == pytest.approx(3e-4 * size, rel=0.1)

    def test_are_whole_sparse_and_single_precision(self, large: AnnData) -> None:
        assert isinstance(large.X, sparse.csr_matrix)
        assert large.X.dtype == np.float32
        assert large.X.has_sorted_indices
        assert (large.X.data > 0).all()
        np.testing.assert_array_equal(large.X.data, np.round(large.X.data))
        np.testing.assert_array_equal(np.asarray(large.X.sum(axis=1)).ravel(), large.obs["total_counts"])
        assert 0.7 < 1 - large.X.nnz / np.prod(large.shape) < 0.95

    @pytest.mark.slow
    def test_a_screen_takes_seconds(self) -> None:
        start = time.process_time()
        adata = simulate_screen(n_contexts=20, n_perturbations=50)
        assert time.process_time() - start < 30  # four or five on a quiet machine
        assert adata.shape == (43_200, 2000)


class TestGroups:
    @given(
        n_contexts=st.integers(1, 4),
        n_cells_per_group=st.integers(1, 9),
        unevenness=st.floats(0, 2),
        absent_fraction=st.floats(0, 1),
        n_pairs=st.integers(0, 3),
        n_drugs=st.integers(0, 2),
        seed=st.integers(0, 100),
    )
    @settings(max_examples=12, deadline=None)
    def test_uneven_groups_sum_to_what_was_asked(self, seed: int, **given_: Any) -> None:
        adata = simulate_screen(n_genes=40, n_perturbations=3, seed=seed, **given_)
        n_conditions = 3 + given_["n_pairs"] + 3 * given_["n_drugs"]
        sizes = adata.obs.groupby(["context", "condition"], observed=False).size()
        perturbed = sizes[sizes.index.get_level_values("condition") != "control"]
        n_groups = given_["n_contexts"] * n_conditions
        n_present = max(n_groups - int(given_["absent_fraction"] * n_groups), 1)
        assert (perturbed > 0).sum() == n_present
        assert perturbed.sum() == n_present * given_["n_cells_per_group"]
        control = sizes[sizes.index.get_level_values("condition") == "control"]
        assert (control == 4 * given_["n_cells_per_group"]).all()
        if given_["unevenness"] == 0:
            assert set(perturbed) <= {0, given_["n_cells_per_group"]}

    def test_larger_unevenness_spreads_the_sizes(self) -> None:
        spreads = []
        for unevenness in (0.0, 0.5, 1.5):
            obs = simulate_screen(**SMALL | {"n_cells_per_group": 60}, unevenness=unevenness).obs
            obs = obs[obs["condition"] != "control"]
            spreads.append(obs.groupby(["context", "condition"], observed=True).size().std())
        assert spreads[0] == 0
        assert np.diff(spreads).min() > 5

    def test_columns(self) -> None:
        adata = simulate_screen(**SMALL, n_pairs=2, n_drugs=1)
        obs, truth = adata.obs, adata.uns["truth"]
        assert obs["condition"].cat.categories[0] == "control"
        assert list(obs["condition"].cat.categories[1:]) == list(truth["conditions"]) == list(truth["table"].index)
        assert (obs.loc[obs["condition"] == "control", "dose"] == 0).all()
        drug = obs["perturbation"] == "drug_1"
        assert set(obs.loc[drug, "dose"]) == {0.1, 1.0, 10.0}
        assert obs.loc[~drug & (obs["condition"] != "control"), "dose"].isna().all()
        assert set(obs["batch"]) == {"batch_1", "batch_2"}
        for column in ("context", "condition", "perturbation", "batch"):
            assert obs[column].dtype == "category"
            assert set(obs[column].cat.categories) == set(obs[column])
        pp.canonical_conditions(adata, "condition", control="control")
        assert set(adata.obs["condition"]) == set(obs["condition"])

    def test_batches_multiply_genes_alike_in_all_groups(self) -> None:
        adata = simulate_screen(
            **SMALL | {"n_cells_per_group": 1500, "n_contexts": 1, "n_perturbations": 1},
            batch_effect=1.0,
            specific_effect=0,
            generic_effect=0,
        )
        rate = {}
        for (condition, batch), members in adata.obs.groupby(["condition", "batch"], observed=True).indices.items():
            rate[condition, batch] = np.asarray(adata.X[members].mean(axis=0)).ravel()
        frequent = np.min(list(rate.values()), axis=0) > 0.3
        perturbed = next(c for c, _ in rate if c != "control")
        one, other = (
            np.log(rate[c, "batch_2"][frequent] / rate[c, "batch_1"][frequent]) for c in ("control", perturbed)
        )
        assert np.corrcoef(one, other)[0, 1] > 0.95
        assert one.std() > 0.5


class TestSeeds:
    def test_same_seed_same_screen(self) -> None:
        one, other = (simulate_screen(**SMALL, n_pairs=1, n_drugs=1, seed=7) for _ in range(2))
        assert abs(one.X - other.X).nnz == 0
        pd.testing.assert_frame_equal(one.obs, other.obs)
        np.testing.assert_array_equal(one.uns["truth"]["change"], other.uns["truth"]["change"])

    def test_other_seed_other_screen(self) -> None:
        one, other = (simulate_screen(**SMALL, seed=seed).uns["truth"] for seed in (1, 2))
        assert not np.allclose(one["change"], other["change"])

    def test_a_generator_is_used_and_advances(self) -> None:
        rng = np.random.default_rng(7)
        first, second = simulate_screen(**SMALL, seed=rng), simulate_screen(**SMALL, seed=rng)
        assert abs(first.X - simulate_screen(**SMALL, seed=7).X).nnz == 0
        assert first.shape != second.shape or abs(first.X - second.X).nnz > 0

    def test_truth_does_not_depend_on_the_numbers_of_cells(self) -> None:
        one, other = (
            simulate_screen(**SMALL | {"n_cells_per_group": n}, unevenness=u).uns["truth"] for n, u in ((3, 0), (9, 1))
        )
        np.testing.assert_array_equal(one["change"], other["change"])

    def test_cells_are_in_random_order(self) -> None:
        codes = simulate_screen(**SMALL).obs["condition"].cat.codes.to_numpy()
        assert (np.diff(codes) < 0).mean() > 0.3

    def test_global_random_state_is_left_alone(self) -> None:
        before = np.random.get_state()[1].copy()
        simulate_screen(**SMALL)
        np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_is_written_to_h5ad_and_read_again(tmp_path: Any) -> None:
    adata = simulate_screen(**SMALL, n_pairs=1, n_drugs=1)
    adata.write_h5ad(tmp_path / "screen.h5ad")
    again = anndata.read_h5ad(tmp_path / "screen.h5ad")
    assert abs(again.X - adata.X).nnz == 0
    assert list(again.obs["condition"]) == list(adata.obs["condition"])
    for name, value in adata.uns["truth"].items():
        found = again.uns["truth"][name]
        if isinstance(value, pd.DataFrame):
            assert found.astype(str).equals(value.astype(str)), name
            assert list(found.index) == list(value.index)
        else:
            np.testing.assert_array_equal(found, value, err_msg=name)
    for name, value in adata.uns["simulation"].items():
        np.testing.assert_array_equal(again.uns["simulation"][name], value, err_msg=name)


def test_parameters_are_recorded_as_given() -> None:
    signature = inspect.signature(simulate_screen).parameters
    assert set(ScreenParameters.__dataclass_fields__) == set(signature) - {"seed"}
    record = simulate_screen(**SMALL).uns["simulation"]
    assert set(record) == set(signature) - {"seed", "context_positions"}
    assert record["n_control_cells"] == 32
    assert record["library_median"] == 240


class TestBadInput:
    @pytest.mark.parametrize(
        ("given_", "words"),
        [
            ({"n_genes": 5}, "n_genes must be a whole number of at least 20"),
            ({"n_contexts": 0}, "n_contexts must be a whole number of at least 1"),
            ({"n_perturbations": 31}, "only 30 of 120 genes are expressed as a target has to be"),
            ({"n_perturbations": 0}, "at least one perturbation"),
            ({"n_pairs": 11}, "5 perturbations make 10 pairs"),
            ({"doses": []}, "doses must be a list of at least one finite number above zero"),
            ({"doses": [0, 1]}, "doses must be a list of at least one finite number above zero"),
            ({"doses": "high"}, "doses must hold numbers"),
            ({"doses": [1, 1]}, "doses must differ"),
            ({"gains": "same"}, "gains must be one of 'similar', 'random'"),
            ({"knockdown": 1}, "knockdown must lie below 1"),
            ({"knockdown": 1.2}, "knockdown must be a number from 0 to 1"),
            ({"absent_fraction": -0.1}, "absent_fraction must be a number from 0 to 1"),
            ({"size_sd": -1}, "size_sd must be a number of at least 0"),
            ({"specific_effect": np.nan}, "specific_effect must be a finite number"),
            ({"inverse_dispersion": 0}, "inverse_dispersion must be a number above 0"),
            ({"library_median": 0}, "library_median must be a number above 0"),
            ({"n_control_cells": 0}, "n_control_cells must be a whole number of at least 1"),
            ({"context_positions": [[0.0], [1.0]]}, r"context_positions must be finite, of shape \(3, n_dimensions\)"),
            ({"seed": "a"}, "seed must be a whole number"),
        ],
    )
    def test_is_answered(self, given_: dict[str, Any], words: str) -> None:
        with pytest.raises(DeltaviError, match=words):
            simulate_screen(**SMALL | given_)

    def test_misspelt(self) -> None:
        with pytest.raises(UnknownArgumentError, match="'n_perturbations'"):
            simulate_screen(n_perturbation=3)
