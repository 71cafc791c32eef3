"""Models through pickle, joblib and deepcopy answer like the original, and leave it alone."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from anndata import AnnData

from deltavi.datasets import simulate_perturbation
from deltavi.errors import DeltaviError
from deltavi.model import SCGEN, VAE
from tests.models import MODELS

QUICK = {"max_epochs": 1, "enable_progress_bar": False, "accelerator": "cpu"}
LABELS = {"labels_key": "cell_type"}
BOTH = {**LABELS, "condition_key": "condition", "batch_key": "batch"}
Model = Any


def cells(seed: int = 0) -> AnnData:
    """Counts of a few cells of three types."""
    return simulate_perturbation(n_genes=30, n_cell_types=3, n_batches=2, n_cells_per_group=8, seed=seed)


def latent(model: Model) -> np.ndarray:
    return np.asarray(model.get_latent_representation())


def labels(model: Model) -> np.ndarray:
    return np.asarray(model.predict(soft=True))


def prediction(model: Model) -> np.ndarray:
    return dense(model.predict_perturbation(control="control", perturbation="stimulated"))


def dense(predicted: AnnData) -> np.ndarray:
    return np.asarray(predicted.to_df())


# what is asked of a model, by the verb that it is for
QUESTIONS: dict[str, Callable[[Model], np.ndarray]] = {
    "get_latent_representation": latent,
    "predict": labels,
    "predict_perturbation": prediction,
}
WAYS: dict[str, Callable[[Model, Path], Model]] = {
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "joblib": lambda model, folder: (joblib.dump(model, folder / "m.joblib"), joblib.load(folder / "m.joblib"))[1],
}


@pytest.fixture(scope="module")
def fitted() -> dict[str, Model]:
    """Every model, trained for a moment."""
    return {name: entry.trained() for name, entry in MODELS.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_a_copy_answers_like_the_original(fitted: dict[str, Model], name: str, way: str, tmp_path: Path) -> None:
    model, ask = fitted[name], QUESTIONS[MODELS[name].verb]
    expected = ask(model)
    made = WAYS[way](model, tmp_path)
    assert np.array_equal(ask(made), expected)
    assert repr(made) == repr(model)
    assert made.id != model.id
    assert made.adata is not model.adata
    assert made.adata_manager.adata is made.adata
    assert made.adata_manager.adata_uuid != model.adata_manager.adata_uuid
    made.save(tmp_path / "saved")
    assert np.array_equal(ask(type(made).load(tmp_path / "saved", cells_of(made))), expected)


def cells_of(model: Model) -> AnnData:
    return model.adata.copy()  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")
def test_a_copy_is_trained_and_edited_by_itself(fitted: dict[str, Model]) -> None:
    model = fitted["SCGEN"]
    before, weights = prediction(model), {k: v.clone() for k, v in model.module.state_dict().items()}
    made = copy.deepcopy(model)
    made.train(**QUICK)
    made.adata.obs["condition"] = "control"
    assert len(made.history["train_loss"]) == 2
    assert len(model.history["train_loss"]) == 1
    assert all((model.module.state_dict()[name] == value).all() for name, value in weights.items())
    assert np.array_equal(prediction(model), before)
    with pytest.raises(DeltaviError, match="after setup_anndata"):
        latent(made)


@pytest.mark.filterwarnings("ignore")
def test_original_and_copy_notice_edits_of_their_own_cells_only(fitted: dict[str, Model]) -> None:
    made = pickle.loads(pickle.dumps(fitted["VAE"]))
    made.adata.obs["batch"] = "elsewhere"
    assert latent(fitted["VAE"]).shape[0] == made.adata.n_obs
    with pytest.raises(DeltaviError, match="after setup_anndata"):
        latent(made)


@pytest.mark.filterwarnings("ignore")
def test_another_process_reads_the_pickle(fitted: dict[str, Model], tmp_path: Path) -> None:
    model = fitted["MIXVI"]
    np.save(tmp_path / "expected.npy", labels(model))
    (tmp_path / "m.pickle").write_bytes(pickle.dumps(model))
    code = (
        "import pickle, sys, warnings, numpy as np\n"
        "warnings.simplefilter('ignore')\n"
        "folder = sys.argv[1]\n"
        "model = pickle.load(open(folder + '/m.pickle', 'rb'))\n"
        "assert np.array_equal(model.predict(soft=True), np.load(folder + '/expected.npy'))\n"
        "model.train(max_epochs=1, enable_progress_bar=False, accelerator='cpu')\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_was_trained_with_callbacks_and_checkpoints(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import LambdaCallback

    adata = cells()
    VAE.setup_anndata(adata)
    model = VAE(adata)
    seen: list[int] = []
    callback = LambdaCallback(on_train_epoch_end=lambda *_: seen.append(1))
    model.train(**QUICK, callbacks=[callback], checkpoint=tmp_path / "checkpoint")
    assert seen == [1]
    assert np.array_equal(latent(pickle.loads(pickle.dumps(model))), latent(model))


@pytest.mark.filterwarnings("ignore")
def test_untrained_models_and_models_without_data(fitted: dict[str, Model], tmp_path: Path) -> None:
    adata = cells()
    SCGEN.setup_anndata(adata, **BOTH)
    untrained = copy.deepcopy(SCGEN(adata))
    untrained.train(**QUICK)
    assert untrained.is_trained
    fitted["SCGEN"].save(tmp_path / "m")
    alone = pickle.loads(pickle.dumps(SCGEN.load(tmp_path / "m")))
    assert alone.adata is None
    query = cells(seed=3)
    ask = {"control": "control", "perturbation": "stimulated"}
    expected = dense(fitted["SCGEN"].predict_perturbation(query, **ask))
    assert np.array_equal(dense(alone.predict_perturbation(query, **ask)), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_copied_mapped_query_answers_but_is_not_trained_on(fitted: dict[str, Model]) -> None:
    query = cells(seed=5)
    query.obs["batch"] = "new"
    mapped = VAE.load_query_data(query, fitted["VAE"])
    mapped.train(**QUICK)
    made = copy.deepcopy(mapped)
    assert np.array_equal(latent(made), latent(mapped))
    with pytest.raises(DeltaviError, match="Neither a file nor a copy says which weights"):
        made.train(**QUICK)


def test_shallow_copies_share_everything(fitted: dict[str, Model]) -> None:
    model = fitted["VAE"]
    same = copy.copy(model)
    assert same.module is model.module
    assert same.adata_manager is model.adata_manager
    assert np.array_equal(latent(same), latent(model))


@pytest.mark.filterwarnings("ignore")
def test_cells_in_an_open_file_are_not_copied(tmp_path: Path) -> None:
    import anndata

    cells().write_h5ad(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r+")
    VAE.setup_anndata(adata)
    model = VAE(adata)
    with pytest.raises(DeltaviError, match="an open file cannot be copied: use save"):
        pickle.dumps(model)
    adata.file.close()
