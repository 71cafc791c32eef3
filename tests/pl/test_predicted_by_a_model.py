"""What models return can be drawn as it is, from memory and from a file."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from anndata import AnnData

from deltavi import pl
from deltavi.datasets import simulate_perturbation
from deltavi.model import SCGEN
from deltavi.pp import highly_variable_genes

from .test_response_heatmap import genes, image, labels, means


@pytest.fixture(scope="module")
def experiment() -> AnnData:
    adata = simulate_perturbation(
        n_genes=60, n_cell_types=4, n_batches=1, n_cells_per_group=15, conditions=("control", "A", "B"), seed=2
    )
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"type_1": "CD4/CD8", "type_2": "."})
    return highly_variable_genes(adata)


@pytest.fixture(scope="module")
def model(experiment) -> SCGEN:
    keys = {"condition_key": "condition", "labels_key": "cell_type", "size_factor_key": "total_counts"}
    SCGEN.setup_anndata(experiment, layer="counts", **keys)
    model = SCGEN(experiment, n_latent=3, n_hidden=8)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False, logger=None)
    return model


@pytest.fixture(params=["from memory", "from a file"])
def predicted(request, model, tmp_path) -> AnnData:
    found = model.predict_perturbation(control="control", perturbation="A", shift="gp")
    if request.param == "from memory":
        return found
    found.write_h5ad(tmp_path / "predicted.h5ad")
    return anndata.read_h5ad(tmp_path / "predicted.h5ad")


def of(experiment: AnnData, condition: str) -> AnnData:
    return experiment[(experiment.obs["condition"] == condition).to_numpy()]


def test_response_heatmap(predicted, experiment):
    real, control = of(experiment, "A"), of(experiment, "control")
    ax = pl.response_heatmap(predicted, real, labels_key="cell_type", n_genes=8, show=False)
    assert sorted(labels(ax)) == [".", "CD4/CD8", "type_3", "type_4"]
    for j, label in enumerate(labels(ax)):
        for k, cells in enumerate((predicted, real)):
            expected = (means(cells, label) - means(control, label))[genes(ax)]
            np.testing.assert_allclose(image(ax)[:, 2 * j + k], expected, atol=1e-4)


@pytest.mark.parametrize("label", ["CD4/CD8", "."])
def test_response_intervals(predicted, experiment, label):
    ax = pl.response_intervals(predicted, of(experiment, "A"), label=label, labels_key="cell_type", show=False)
    assert len(ax.collections[0].get_segments()) == 20
    assert ax.get_title().startswith(f"{label}\n")


def test_shift_weights(predicted):
    ax = pl.shift_weights(predicted, show=False)
    assert np.asarray(ax.images[0].get_array()).sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert ax.get_title() == "weights of the gp shift, A"
    assert sum(text.get_text() == "training" for text in ax.texts) == 1


def test_perturbation_that_joins_conditions(model, experiment):
    predicted = model.predict_perturbation(control="control", perturbation="A+B", labels=["CD4/CD8", "type_3"])
    ax = pl.shift_weights(predicted, show=False)
    names = [text.get_text() for text in ax.get_xticklabels()]
    assert [name[-3:] for name in names] == ["(A)"] * 4 + ["(B)"] * 4
    assert [line.get_xdata()[0] for line in ax.lines] == [3.5]
    pl.response_intervals(predicted, label="type_3", show=False)


def test_means_and_variances(predicted, experiment):
    for plot in (pl.reg_mean, pl.reg_var):
        ax = plot(predicted, of(experiment, "A"), control=of(experiment, "control"), show=False)
        assert ax.texts[0].get_text().endswith("all 60 genes")
