"""What is asked of many perturbations and makes no sense, or is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from deltavi.errors import (
    DeltaviError,
    FileWriteError,
    GeneMatchError,
    InputDataError,
    InputDataWarning,
    NotHeldOutWarning,
    NotTrainedError,
    UnknownArgumentError,
    UnknownCategoryError,
)
from deltavi.model import PPCA, SCGEN
from deltavi.perturbation import ResponseModel
from tests.model.conftest import log_normalised, train
from tests.model.screens import CONTEXTS, N_OWN, SETUP, SMALL, query, screen, table_of, trained_on

ASK: dict[str, Any] = {"control": "control"}


@pytest.fixture(scope="module")
def model() -> SCGEN:
    return trained_on(SCGEN, screen(), epochs=1)


@pytest.fixture(scope="module")
def responses() -> ResponseModel:
    return table_of(screen())


def spoil(adata: AnnData, cell: int, value: float) -> None:
    """Write a value into a gene that the networks do not have."""
    stored = np.arange(adata.X.indptr[cell], adata.X.indptr[cell + 1])
    adata.X.data[stored[adata.X.indices[stored] >= N_OWN][0]] = value


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"labels": CONTEXTS[0]}, UnknownArgumentError, "no argument 'labels'. Did you mean 'contexts'"),
        ({"perturbations": "D"}, UnknownCategoryError, r"'D'.*Known: 'A', 'B', 'C', 'control'"),
        ({"perturbations": ["A", "A+D"]}, UnknownCategoryError, r"part of 'A\+D'"),
        ({"perturbations": "control"}, DeltaviError, "both 'control'"),
        ({"perturbations": ["A", "control"]}, DeltaviError, "both 'control'"),
        ({"perturbations": "A+control"}, DeltaviError, "other than the control"),
        ({"perturbations": []}, DeltaviError, "nothing to predict.*'A', 'B', 'C'"),
        ({"perturbations": ["A", "A"]}, DeltaviError, "more than once"),
        ({"perturbation": "A"}, UnknownArgumentError, "perturbations"),
        ({"contexts": "nowhere"}, UnknownCategoryError, "context 'nowhere'.*'context_1'"),
        ({"contexts": "contxt_1"}, UnknownCategoryError, "Did you mean 'context_1'"),
        ({"contexts": []}, DeltaviError, "contexts is empty"),
        ({"draws": "fresh"}, DeltaviError, "'matched', 'independent'"),
        ({"draws": "independent", "output": "mean"}, DeltaviError, "leave one of them out"),
        ({"layers": "count"}, DeltaviError, "Did you mean 'counts'"),
        ({"responses": "table"}, DeltaviError, "ResponseModel"),
        ({"controls": 1}, DeltaviError, "controls must be True or False"),
        ({"seed": -1}, DeltaviError, "seed"),
        ({"path": "answer.csv"}, DeltaviError, r"\.h5ad or \.zarr"),
        ({"path": ""}, DeltaviError, "names nothing"),
        ({"path": "no such folder/answer.h5ad"}, DeltaviError, "no folder"),
    ],
)
def test_questions_that_make_no_sense(
    model: SCGEN, asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.predict_perturbations(query(), **{**ASK, **asked})


def test_a_control_that_does_not_exist(model: SCGEN) -> None:
    with pytest.raises(UnknownCategoryError, match="Did you mean 'control'"):
        model.predict_perturbations(query(), control="ctrol")


def test_a_context_without_control_cells(model: SCGEN, caplog: pytest.LogCaptureFixture) -> None:
    adata = screen()
    alone = (adata.obs["context"] == CONTEXTS[1]) & (adata.obs["condition"] == "control")
    lacking = adata[~alone.to_numpy()].copy()
    lacking.obs_names = "query " + lacking.obs_names
    with pytest.raises(UnknownCategoryError, match=r"'context_2' has no control cells.*'context_1', 'context_3'"):
        model.predict_perturbations(lacking, contexts=CONTEXTS[1], **ASK)
    with caplog.at_level("INFO", logger="deltavi"):
        found = model.predict_perturbations(lacking, perturbations="A", **ASK)
    assert set(found.obs["context"].astype(str)) == {CONTEXTS[0], CONTEXTS[2]}
    assert "No control cells, and no prediction, for 'context_2'" in caplog.text
    treated = adata[(adata.obs["condition"] != "control").to_numpy()].copy()
    with pytest.raises(UnknownCategoryError, match=r"nothing to start from.*'A', 'B', 'C'"):
        model.predict_perturbations(treated, **ASK)
    with pytest.raises(InputDataError, match="no cells"):
        model.predict_perturbations(treated[:0].copy(), **ASK)


def test_one_sum_under_two_names(model: SCGEN) -> None:
    with pytest.warns(InputDataWarning, match=r"'A\+B' and 'B\+A', which are the same"):
        found = model.predict_perturbations(query(), perturbations=["A+B", "B+A"], contexts=CONTEXTS[0], **ASK)
    assert set(found.obs["condition"].astype(str)) == {"A+B"}
    assert found.obs_names.is_unique


def test_treated_cells_that_are_controls(model: SCGEN) -> None:
    cells = query()
    treated = cells[:5].copy()
    treated.obs["condition"] = "A"
    with pytest.raises(InputDataError, match="either treated or a control"):
        model.predict_perturbations(cells, treated=treated, **ASK)
    others = screen(seed=1)
    others = others[(others.obs["condition"] == "C").to_numpy()].copy()
    with pytest.raises(UnknownCategoryError, match="none of a perturbation that is asked for"):
        model.predict_perturbations(cells, treated=others, perturbations=["A", "B"], **ASK)
    del others.obs["condition"]
    with pytest.raises(DeltaviError, match="which of 3 perturbations each cell"):
        model.predict_perturbations(cells, treated=others, **ASK)


@pytest.mark.filterwarnings("default:Measured cells under")
def test_training_cells_are_warned_of_once(model: SCGEN) -> None:
    with pytest.warns(NotHeldOutWarning, match="in 8 of 9 pairs") as caught:
        model.predict_perturbations(**ASK)
    assert sum(issubclass(one.category, NotHeldOutWarning) for one in caught) == 1


def test_an_untrained_model_refuses() -> None:
    own = screen()[:, :N_OWN].copy()
    SCGEN.setup_anndata(own, **SETUP)
    with pytest.raises(NotTrainedError):
        SCGEN(own, **SMALL).predict_perturbations(**ASK)


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["answer.h5ad", "answer.zarr"])
def test_a_file_that_exists_is_kept(model: SCGEN, tmp_path: Path, name: str) -> None:
    ask = {**ASK, "perturbations": "A", "contexts": CONTEXTS[0], "path": tmp_path / name}
    model.predict_perturbations(query(), **ask)
    with pytest.raises(DeltaviError, match="exists; pass overwrite=True"):
        model.predict_perturbations(query(), **ask)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    broken = query()
    spoil(broken, broken.n_obs - 1, np.nan)
    with pytest.raises(InputDataError, match=r"1 cells hold values that are no counts.*query"):
        model.predict_perturbations(broken, **{**ask, "contexts": None}, overwrite=True, responses=table_of(screen()))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_of_something_else_is_kept(model: SCGEN, tmp_path: Path) -> None:
    folder = tmp_path / "mine.zarr"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(DeltaviError, match="no Zarr store"):
        model.predict_perturbations(query(), path=folder, overwrite=True, **ASK)
    with pytest.raises(DeltaviError, match="is a folder"):
        (tmp_path / "mine.h5ad").mkdir()
        model.predict_perturbations(query(), path=tmp_path / "mine.h5ad", overwrite=True, **ASK)
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["answer.h5ad", "answer.zarr"])
def test_a_disk_that_fails_leaves_nothing(
    model: SCGEN, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deltavi.io._blocks.BlockFile.finish", full)
    with pytest.raises(FileWriteError, match="No space left"):
        model.predict_perturbations(query(), perturbations="A", path=tmp_path / name, **ASK)
    assert not list(tmp_path.iterdir())


# -- all genes -----------------------------------------------------------------------------------------------


def test_no_other_genes(model: SCGEN, responses: ResponseModel) -> None:
    with pytest.raises(GeneMatchError, match="measure the responses of all genes"):
        model.predict_perturbations(query()[:, :N_OWN].copy(), responses=responses, **ASK)


def test_totals_of_another_scale(responses: ResponseModel) -> None:
    own = screen()[:, :N_OWN].copy()
    del own.obs["total_counts"]
    setup = {**SETUP, "size_factor_key": None}
    model = train(SCGEN, own, epochs=1, setup=setup, **SMALL)
    with pytest.raises(DeltaviError, match="size_factor_key"):
        model.predict_perturbations(query(), responses=responses, **ASK)


def test_a_model_without_counts(responses: ResponseModel) -> None:
    own = log_normalised(screen()[:, :N_OWN].copy())
    model = train(PPCA, own, setup={"condition_key": "condition", "labels_key": "context"}, n_latent=3)
    cells = log_normalised(query())
    with pytest.raises(DeltaviError, match="likelihood of counts"):
        model.predict_perturbations(cells, responses=responses, **ASK)


@pytest.mark.parametrize("value", [np.nan, -1.0, 0.5, np.inf])
def test_cells_with_other_values(model: SCGEN, responses: ResponseModel, value: float) -> None:
    broken: AnnData = query()
    spoil(broken, 2, value)
    with pytest.raises(InputDataError, match="no counts"):
        model.predict_perturbations(broken, responses=responses, **ASK)
    kept = model.predict_perturbations(broken, responses=responses, invalid_cells="drop", perturbations="A", **ASK)
    assert broken.obs_names[2] not in set(kept.obs["deltavi_source_cell"])
    assert kept.n_obs == broken.n_obs - 1
