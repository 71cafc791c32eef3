"""Real responses that a crossed Gaussian process was not given, with halves of the controls that it never saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

import deltavi
from deltavi.perturbation import ResponseModel


@pytest.fixture(scope="module")
def k562(data_path: Callable[[str], Path]) -> AnnData:
    cells = anndata.read_h5ad(data_path("norman_mcfaline_perturbench.h5ad"))
    return with_logs(cells[cells.obs["cell_type"] == "k562"].copy())


@pytest.fixture(scope="module")
def kang(kang_path: Path) -> AnnData:
    cells = anndata.read_h5ad(kang_path)
    return with_logs(cells[cells.obs["cell_type"] != "Megakaryocyte"].copy())


def with_logs(cells: AnnData) -> AnnData:
    deltavi.pp.log_normalise(cells, key_added="logs")
    cells.X = cells.layers.pop("logs")
    return cells


def halves(mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    found = np.random.default_rng(seed).permutation(np.flatnonzero(mask))
    return found[: len(found) // 2], found[len(found) // 2 :]


def means(x: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each gene and its squared standard error."""
    rows = x.toarray().astype(np.float64)
    return rows.mean(0), rows.var(0, ddof=1) / len(rows)


class Score:
    """Share of squared responses that is explained, noise taken off, and genes within intervals."""

    def __init__(self) -> None:
        self.errors, self.energies, self.held = 0.0, 0.0, []

    def add(self, cells: AnnData, treated: np.ndarray, control: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        (one, e1), (other, e2) = means(cells.X[treated]), means(cells.X[control])
        real, noise = one - other, float((e1 + e2).sum())
        self.errors += float(((predicted - real) ** 2).sum()) - noise
        self.energies += float((real**2).sum()) - noise
        return real

    @property
    def explained(self) -> float:
        return 1 - self.errors / self.energies


def test_pairs_of_perturbations_are_predicted_from_singles_and_other_pairs(k562: AnnData) -> None:
    condition = k562.obs["condition"].astype(str).to_numpy()
    singles = {name for name in condition if "+" not in name}
    pairs = sorted({name for name in condition if "+" in name and set(name.split("+")) <= singles})
    assert len(pairs) == 5
    explained, of_sum = [], []
    for seed in range(2):
        seen, unseen = halves(condition == "control", seed)
        ours, plain, held = Score(), Score(), []
        for pair in pairs:
            rows = np.concatenate([np.flatnonzero((condition != "control") & (condition != pair)), seen])
            table = deltavi.tl.responses(k562[rows], condition_key="condition", control="control")
            found = ResponseModel.fit(table).predict(pair)
            treated = np.flatnonzero(condition == pair)
            real = ours.add(k562, treated, unseen, found.change[0])
            parts = [table.changes[table.names.index(part)] for part in pair.split("+")]
            plain.add(k562, treated, unseen, np.sum(parts, axis=0))
            lower, upper = found.interval(0.9, n_perturbed=len(treated), n_control=len(unseen))
            held.append(((real >= lower[0]) & (real <= upper[0])).mean())
        explained.append(ours.explained)
        of_sum.append(plain.explained)
        assert 0.88 <= np.mean(held) <= 0.97
    assert np.mean(explained) >= 0.75
    assert np.mean(explained) > np.mean(of_sum) + 0.5


def test_types_that_were_not_measured_are_predicted_by_similar_ones(kang: AnnData) -> None:
    of_type = kang.obs["cell_type"].astype(str).to_numpy()
    treated = (kang.obs["condition"] == "stimulated").to_numpy()
    ours, plain, held = Score(), Score(), []
    for name in ("CD4T", "FCGR3A+Mono", "B"):
        asked = of_type == name
        seen, unseen = halves(asked & ~treated, 0)
        table = deltavi.tl.responses(
            kang[~asked], condition_key="condition", control="control", context_keys="cell_type"
        )
        model = ResponseModel.fit(table)
        assert model.kernel.name == "similarity"
        found = model.predict("stimulated", profile=means(kang.X[seen])[0])
        cells = np.flatnonzero(asked & treated)
        real = ours.add(kang, cells, unseen, found.change[0])
        plain.add(kang, cells, unseen, table.changes.mean(0))
        lower, upper = found.interval(0.9, n_perturbed=len(cells), n_control=len(unseen))
        held.append(((real >= lower[0]) & (real <= upper[0])).mean())
        assert abs(found.expected_skill - 0.85) < 0.15
    assert ours.explained > plain.explained + 0.1
    assert ours.explained > 0.8
    assert 0.88 <= np.mean(held) <= 0.97


def test_control_cells_that_are_called_treated_are_no_response(kang: AnnData) -> None:
    controls = kang[kang.obs["condition"] == "control"].copy()
    controls.obs["half"] = np.random.default_rng(0).choice(["one", "other"], controls.n_obs)
    table = deltavi.tl.responses(controls, condition_key="half", control="one", context_keys="cell_type")
    found = ResponseModel.fit(table, kernel="identity").predict("other", profile=table.control_means[0])
    assert "no_evidence" in found.flags[0]
    assert not found.change.any()


def test_five_treated_cells_tell_the_size_of_a_response(kang: AnnData) -> None:
    of_type = kang.obs["cell_type"].astype(str).to_numpy()
    treated = (kang.obs["condition"] == "stimulated").to_numpy()
    asked = of_type == "CD14+Mono"
    seen, unseen = halves(asked & ~treated, 0)
    few, rest = np.split(np.random.default_rng(1).permutation(np.flatnonzero(asked & treated)), [5])
    keys = {"condition_key": "condition", "control": "control", "context_keys": "cell_type"}
    model = ResponseModel.fit(deltavi.tl.responses(kang[~asked], **keys), kernel="similarity")
    observed = deltavi.tl.responses(kang[np.concatenate([few, seen])], **keys)
    blind, alone, both = Score(), Score(), Score()
    blind.add(kang, rest, unseen, model.predict("stimulated", profile=observed.control_means[0]).change[0])
    alone.add(kang, rest, unseen, observed.changes[0])
    found = model.with_observation(observed).predict("stimulated", context="CD14+Mono")
    both.add(kang, rest, unseen, found.change[0])
    assert both.explained > max(blind.explained, alone.explained)
