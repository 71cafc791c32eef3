"""Figures of these tests are drawn without a screen and closed after each test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from deltavi.datasets import simulate_perturbation
from deltavi.perturbation import Experiment, GeneTable, gene_table
from deltavi.pp import highly_variable_genes

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def cells() -> dict[str, AnnData]:
    """Control and real cells of one simulated type, and a prediction by the mean shift of the other types."""
    adata = highly_variable_genes(simulate_perturbation(n_genes=200, n_cell_types=3, n_cells_per_group=30, seed=6))
    group = adata.obs["cell_type"].astype(str) + "/" + adata.obs["condition"].astype(str)

    def of(cell_type: str, condition: str) -> AnnData:
        return adata[(group == f"{cell_type}/{condition}").to_numpy()].copy()

    shifts = [of(t, "stimulated").X.mean(axis=0) - of(t, "control").X.mean(axis=0) for t in ("type_2", "type_3")]
    predicted = of("type_1", "control")
    predicted.X = np.clip(np.asarray(predicted.X + np.mean(shifts, axis=0)), 0, None)
    return {"control": of("type_1", "control"), "real": of("type_1", "stimulated"), "predicted": predicted}


@pytest.fixture(scope="session")
def several() -> dict[str, AnnData]:
    """Control and real cells of two types, one named like a path, and a prediction as models return it.

    The prediction knows the control means and says that every gene changes by a random number in each type; three
    genes of intervals are known to hold the measured change, or to miss it.
    """
    adata = highly_variable_genes(
        simulate_perturbation(n_genes=60, n_cell_types=2, n_batches=1, n_cells_per_group=30, seed=3)
    )
    names = {"type_1": "CD4/CD8", "type_2": "B"}
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).map(names).astype("category")
    is_control = (adata.obs["condition"] == "control").to_numpy()
    control, real = adata[is_control].copy(), adata[~is_control].copy()
    rng = np.random.default_rng(0)
    predicted = AnnData(control.X.toarray().astype(np.float64), obs=control.obs, var=control.var[[]])
    change = pd.DataFrame(rng.normal(0, 0.3, (60, 2)), index=predicted.var_names, columns=["B", "CD4%2FCD8"])
    for column, label in (("B", "B"), ("CD4%2FCD8", "CD4/CD8")):
        predicted.X[(predicted.obs["cell_type"] == label).to_numpy()] += change[column].to_numpy()
    predicted.varm.update({"deltavi_change": change, "deltavi_lower": change - 0.4, "deltavi_upper": change + 0.5})
    predicted.uns["deltavi"] = {"shift": "gp", "perturbation": "stimulated", **weights_and_uncertainty()}
    return {"control": control, "real": real, "predicted": predicted}


def weights_and_uncertainty() -> dict[str, pd.DataFrame]:
    """What a prediction of two types says of where it comes from: three training labels, one taken away."""
    weights = pd.DataFrame(
        {
            "query": ["CD4/CD8"] * 3 + ["B"] * 3,
            "training_label": ["NK", "Mono", "T"] * 2,
            "weight": [0.8, 0.25, -0.05, 0.2, 0.3, 0.5],
        }
    )
    columns = {"uncertainty": [1.7, 0.4], "max_training_uncertainty": [0.9, 0.9]}
    uncertainty = pd.DataFrame({"query": ["B", "CD4/CD8"], **columns})
    return {"weights": weights, "uncertainty": uncertainty}


@pytest.fixture
def screen() -> dict[str, pd.DataFrame]:
    """Sizes of responses of three contexts to six perturbations, one of them unknown, with what is known of them."""
    rng = np.random.default_rng(1)
    contexts, perturbations = ["line A", "line B", "line C"], ["ATF4", "BAK1", "BAK1+JUN", "JUN", "MYC", "TP53"]
    responses = pd.DataFrame(rng.uniform(0.5, 4, (3, 6)), contexts, perturbations)
    uncertainty = responses * np.tile([0.2, 0.4, 0.6, 0.9, 1.2, 2.0], (3, 1))
    measured = responses > 2
    responses.iloc[1, 2] = np.nan
    return {"responses": responses, "uncertainty": uncertainty, "measured": measured}


@pytest.fixture
def gene_predictions() -> GeneTable:
    """Predictions of sixty genes, of which ten change, five in each direction."""
    rng = np.random.default_rng(2)
    change = np.concatenate([np.linspace(0.6, 1.4, 5), -np.linspace(0.5, 1.0, 5), rng.normal(0, 0.03, 50)])
    names = [f"GENE{i:02d}" for i in range(60)]
    experiment = Experiment(100, 200)
    return gene_table(change, 0.01, 5, cell_variance=0.4, control_mean=np.ones(60), experiment=experiment, genes=names)


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {"r2_of_means": [0.4, 0.9, 0.8, 0.99], "mse_top": [1.5, 0.2, 0.1, 0.01], "name": list("abcd")},
        index=pd.Index(["no change", "mean shift", "model", "half vs half"], name="method"),
    )


@pytest.fixture
def history() -> dict[str, pd.DataFrame]:
    """What scvi-tools logs: one table per quantity, validation every second epoch only."""
    epoch = pd.RangeIndex(20, name="epoch")
    train = pd.Series(100 + 900 * np.exp(-np.arange(20.0)), index=epoch)
    validation = (train + 5 + np.maximum(0, np.arange(20) - 11.0)).where(epoch % 2 == 1)
    return {
        "kl_weight": pd.DataFrame({"kl_weight": np.linspace(0, 1, 20)}, index=epoch),
        "train_loss_step": pd.DataFrame({"train_loss_step": np.arange(50.0)}),
        "train_loss_epoch": train.to_frame("train_loss_epoch"),
        "validation_loss": validation.to_frame("validation_loss"),
        "elbo_train": train.to_frame("elbo_train"),
        "elbo_validation": validation.to_frame("elbo_validation"),
        "kl_global_train": pd.DataFrame({"kl_global_train": np.zeros(20)}, index=epoch),
    }


@pytest.fixture
def labelled() -> dict[str, Any]:
    """Probabilities, true and predicted labels and p-values of 300 cells; those of the last label are new."""
    rng = np.random.default_rng(4)
    names = np.array(["B", "CD14+ Monocyte", "CD8+/CD45RA+ Naive Cytotoxic", "T"])
    codes = rng.choice(4, 300, p=[0.4, 0.3, 0.2, 0.1])
    p = rng.dirichlet(np.ones(4), 300) + 2 * np.eye(4)[codes]
    p_values = np.where(codes == 3, rng.uniform(0, 0.1, 300), rng.uniform(size=300))
    return {
        "probabilities": pd.DataFrame(p / p.sum(axis=1, keepdims=True), columns=names),
        "truth": names[codes],
        "predicted": np.where(p_values <= 0.05, "unassigned", names[p.argmax(axis=1)]),
        "p_values": p_values,
        "is_new": codes == 3,
    }
