"""Models that go to scvi-tools and come back answer alike, and what cannot go or come is refused by name."""

from __future__ import annotations

import itertools
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scvi.model import SCVI

from deltavi.errors import DeltaviError, ModelFileError, ModelWriteError, NotTrainedError
from deltavi.io.export import write_export
from deltavi.model import LABELVI, MIXVI, SCGEN, VAE
from tests.io.every_fault import strikes, tree
from tests.model.conftest import QUIET, small_adata

SMALL = {"n_hidden": 16, "n_latent": 4}
COLUMNS = {"batch_key": "batch", "labels_key": "cell_type"}
# single precision resolves 1e-7 of a number; sums over genes and layers, as both sides make them, lose two digits more
SINGLE = 1e-5
GRID = [
    (*case, ("none", "decoder", "both")[i % 3], 1 + i % 2)
    for i, case in enumerate(
        itertools.product(
            ("zinb", "nb", "poisson"), ("gene", "gene-batch", "gene-label"), ("observed", "learned", "size_factor")
        )
    )
] + [("zinb", "gene-cell", "observed", "both", 1), ("normal", "gene-batch", "learned", "decoder", 2)]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


def cells(seed: int = 0) -> AnnData:
    adata = small_adata(seed=seed, n_per_group=8)
    rng = np.random.default_rng(seed)
    adata.obs["sex"] = rng.choice(["f", "m", "u"], adata.n_obs)
    adata.obs["age"] = rng.standard_normal(adata.n_obs)
    return adata


def setup_of(library: str, covariates: str) -> dict[str, Any]:
    further = (
        {} if covariates == "none" else {"categorical_covariate_keys": ["sex"], "continuous_covariate_keys": ["age"]}
    )
    return {**COLUMNS, **({"size_factor_key": "total_counts"} if library == "size_factor" else {}), **further}


def shaken(model: Any) -> Any:
    """`model` as if trained: no weight, and no mean or variance of a normalisation, is what it begins with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.module.state_dict().values():
            if value.is_floating_point():
                value.add_(0.4 * torch.rand(value.shape, generator=generator) - 0.2)
    model.is_trained_ = True
    model.module.eval()
    return model


def theirs(adata: AnnData, setup: dict[str, Any], **settings: Any) -> Any:
    SCVI.setup_anndata(adata, **setup)
    torch.manual_seed(0)
    return shaken(SCVI(adata, **SMALL, **settings))


def loaded(folder: Path, adata: AnnData) -> Any:
    return SCVI.load(str(folder), adata=adata, accelerator="cpu")


def arguments(model: Any) -> dict[str, Any]:
    """What an SCVI was made with."""
    given = model.init_params_
    return {**given["non_kwargs"], **given["kwargs"]["kwargs"]}


def forward(model: Any, adata: AnnData | None = None) -> dict[str, np.ndarray]:
    """What a model says of its cells, terms of the evidence lower bound at seeded draws included."""
    adata = model.adata if adata is None else model._validate_anndata(adata)
    parts: dict[str, list[torch.Tensor]] = {}
    torch.manual_seed(0)
    with torch.inference_mode():
        for tensors in model._make_data_loader(adata=adata, batch_size=32):
            torch.manual_seed(1)
            inference, generative, loss = model.module(tensors)
            px = generative["px"]
            said = {
                "positions": inference["qz"].loc,
                "spread": inference["qz"].scale,
                "mean": px.mean,
                "reconstruction": loss.reconstruction_loss["reconstruction_loss"],
                **loss.kl_local,
            }
            for name, value in said.items():
                parts.setdefault(name, []).append(value)
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def assert_alike(one: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: float = SINGLE) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        scale = max(1.0, np.abs(other[name]).max())
        np.testing.assert_allclose(value, other[name], rtol=tolerance, atol=tolerance * scale, err_msg=name)


def assert_same_weights(one: Any, other: Any) -> None:
    for name, value in other.module.state_dict().items():
        used = name in one.module.state_dict()
        assert used, name
        torch.testing.assert_close(one.module.state_dict()[name], value, rtol=0, atol=0)


# -- there and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("likelihood", "dispersion", "library", "covariates", "n_layers"), GRID)
def test_there_and_back(
    tmp_path: Path, likelihood: str, dispersion: str, library: str, covariates: str, n_layers: int
) -> None:
    adata = cells()
    first = theirs(
        adata,
        setup_of(library, covariates),
        gene_likelihood=likelihood,
        dispersion=dispersion,
        n_layers=n_layers,
        use_observed_lib_size=library != "learned",
        encode_covariates=covariates == "both",
    )
    expected = forward(first)
    first.save(str(tmp_path / "scvi"))
    ours = VAE.import_scvi(tmp_path / "scvi", cells(), allow_pickle=True)
    assert ours.module.library == library
    assert_alike(forward(ours), expected)
    ours.export_scvi(tmp_path / "back")
    second = loaded(tmp_path / "back", cells())
    # the same code on the same weights: not a bit may differ
    assert_alike(forward(second), expected, 0.0)
    assert_alike(forward(loaded(tmp_path / "scvi", cells())), expected, 0.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_batch_norm": "encoder"},
        {"use_batch_norm": "none", "use_layer_norm": "both"},
        {"use_layer_norm": "decoder", "n_layers": 2, "deeply_inject_covariates": False, "encode_covariates": True},
        {"log_variational": False, "dropout_rate": 0.0},
        {
            "extra_encoder_kwargs": {"activation_fn": torch.nn.LeakyReLU},
            "extra_decoder_kwargs": {"activation_fn": torch.nn.LeakyReLU},
        },
    ],
)
def test_settings_of_the_module(tmp_path: Path, settings: dict[str, Any]) -> None:
    first = theirs(cells(), setup_of("observed", "decoder"), **settings)
    expected = forward(first)
    first.save(str(tmp_path / "scvi"))
    ours = VAE.import_scvi(tmp_path / "scvi", cells(), allow_pickle=True)
    assert_alike(forward(ours), expected)
    ours.export_scvi(tmp_path / "back")
    second = loaded(tmp_path / "back", cells())
    assert_alike(forward(second), expected, 0.0)
    assert arguments(second).items() >= arguments(first).items()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"gene_likelihood": "nb", "n_layers": 2}, None),
        ({"bias": False, "activation": "leaky_relu", "n_hidden": 12, "dropout_rate_decoder": 0.3}, None),
        ({"library": "learned", "dispersion": "gene-batch"}, None),
        ({"gene_likelihood": "poisson", "encode_covariates": True}, "total_counts"),
    ],
)
def test_ours_first(tmp_path: Path, settings: dict[str, Any], key: str | None) -> None:
    adata = cells()
    VAE.setup_anndata(adata, **COLUMNS, condition_key="condition", size_factor_key=key)
    ours = shaken(VAE(adata, **{**SMALL, **settings}))
    ours.export_scvi(tmp_path / "scvi")
    assert_alike(forward(loaded(tmp_path / "scvi", cells())), forward(ours))
    again = VAE.import_scvi(tmp_path / "scvi", cells(), condition_key="condition", allow_pickle=True)
    assert_alike(forward(again), forward(ours))


def test_verbs_of_users_agree(tmp_path: Path) -> None:
    first = theirs(cells(), COLUMNS)
    first.save(str(tmp_path / "scvi"))
    ours = VAE.import_scvi(tmp_path / "scvi", cells(), allow_pickle=True)

    def asked(model: Any) -> list[Any]:
        answers = []
        for verb, options in (
            (model.get_latent_representation, {}),
            (model.get_normalized_expression, {"return_numpy": True, "library_size": 1e4}),
            (model.get_normalized_expression, {"return_numpy": True, "library_size": "latent"}),
            (model.get_normalized_expression, {"return_numpy": True, "transform_batch": "batch_2"}),
            (model.get_elbo, {}),
        ):
            torch.manual_seed(0)
            answers.append(np.asarray(verb(**options), dtype=np.float64))
        return answers

    for mine, other in zip(asked(ours), asked(first), strict=True):
        np.testing.assert_allclose(mine, other, rtol=SINGLE, atol=SINGLE * np.abs(other).max())


# -- real use ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model that scvi-tools trained on simulated counts, and its folder."""
    adata = cells()
    SCVI.setup_anndata(adata, **COLUMNS)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SCVI(adata, **SMALL)
        model.train(3, check_val_every_n_epoch=1, batch_size=32, logger=None, **QUIET)
    folder = tmp_path_factory.mktemp("trained") / "scvi"
    model.save(str(folder), save_anndata=True)
    return model, folder


def test_a_trained_model_comes_with_its_cells_split_and_history(trained: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = trained
    ours = VAE.import_scvi(folder, allow_pickle=True)
    assert_alike(forward(ours), forward(model))
    for name in ("train_indices_", "validation_indices_", "test_indices_"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(model, name))
    assert ours.is_trained_
    assert ours.history_.keys() == model.history_.keys() != set()
    for name, table in model.history_.items():
        np.testing.assert_array_equal(ours.history_[name].to_numpy(float), table.to_numpy(float))
        np.testing.assert_array_equal(ours.history_[name].index, table.index)
    ours.export_scvi(tmp_path / "back", save_anndata=True)
    back = SCVI.load(str(tmp_path / "back"), accelerator="cpu")
    assert_alike(forward(back), forward(model), 0.0)
    np.testing.assert_array_equal(back.train_indices_, model.train_indices_)
    np.testing.assert_array_equal(back.history_["elbo_train"], model.history_["elbo_train"].astype(float))
    registry = SCVI.load_registry(str(tmp_path / "back"))
    assert registry["field_registries"]["X"]["summary_stats"]["n_cells"] == model.adata.n_obs
    # types of text that an older pandas cannot make
    named = torch.serialization.get_unsafe_globals_in_checkpoint(str(tmp_path / "back" / "model.pt"))
    assert "numpy.ndarray" in named
    assert not [name for name in named if "String" in name or name.startswith("pyarrow")]


def test_an_imported_model_is_saved_as_any_other(trained: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = trained
    VAE.import_scvi(folder, allow_pickle=True).save(tmp_path / "ours")
    assert sorted(path.suffix for path in (tmp_path / "ours").iterdir()) == [".json", ".json", ".safetensors"]
    again = VAE.load(tmp_path / "ours", cells())
    assert_alike(forward(again), forward(model))
    without = VAE.load(tmp_path / "ours")
    np.testing.assert_allclose(
        without.get_latent_representation(cells(1)), again.get_latent_representation(cells(1)), rtol=0, atol=0
    )


def test_genes_in_another_order_and_a_file_without_cells(trained: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = trained
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "model.pt").write_bytes((folder / "model.pt").read_bytes())
    shuffled = cells()[:, np.random.default_rng(0).permutation(40)].copy()
    expected = forward(model)
    assert not np.array_equal(shuffled.var_names, model.adata.var_names)
    assert_alike(forward(VAE.import_scvi(bare, shuffled, allow_pickle=True)), expected)
    without = VAE.import_scvi(bare, allow_pickle=True)
    assert without.adata is None
    assert without.registry_["field_registries"]["X"]["summary_stats"]["n_cells"] == model.adata.n_obs
    assert_alike(forward(without, shuffled), expected)
    # registration leaves the user's cells as they were
    assert list(shuffled.uns) == [key for key in shuffled.uns if key.startswith("_scvi")]


def test_codes_of_categories_are_those_of_the_file(tmp_path: Path) -> None:
    """Categories in an order that is not the alphabet's, one without a cell, and numbers."""
    adata = cells()
    adata.obs["batch"] = pd.Categorical(adata.obs["batch"], categories=["batch_2", "gone", "batch_1"])
    adata.obs["cell_type"] = pd.Categorical(adata.obs["cell_type"].str[-1].astype(int), categories=[3, 1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the category without a cell
        first = theirs(adata, COLUMNS, dispersion="gene-batch")
    first.save(str(tmp_path / "scvi"))
    plain = adata.copy()
    plain.obs["batch"] = plain.obs["batch"].astype(str)
    plain.obs["cell_type"] = plain.obs["cell_type"].astype(int)
    ours = VAE.import_scvi(tmp_path / "scvi", plain, allow_pickle=True)
    assert list(ours._categories("batch")) == ["batch_2", "gone", "batch_1"]
    assert list(ours._categories("labels")) == [3, 1, 2]
    assert_alike(forward(ours), forward(first))
    ours.export_scvi(tmp_path / "back")
    mapping = SCVI.load_registry(str(tmp_path / "back"))["field_registries"]["batch"]["state_registry"]
    assert list(mapping["categorical_mapping"]) == ["batch_2", "gone", "batch_1"]


def test_counts_in_a_layer(tmp_path: Path) -> None:
    adata = cells()
    adata.layers["counts"] = adata.X.copy()
    first = theirs(adata, {**COLUMNS, "layer": "counts"})
    first.save(str(tmp_path / "scvi"))
    other = adata.copy()
    other.X = other.X * 0
    ours = VAE.import_scvi(tmp_path / "scvi", other, allow_pickle=True)
    assert_alike(forward(ours), forward(first))
    ours.export_scvi(tmp_path / "back")
    assert_alike(forward(loaded(tmp_path / "back", other)), forward(first), 0.0)


@pytest.mark.parametrize("imported_by", [VAE, SCGEN])
def test_responses_are_predicted_with_the_cells_that_are_given(tmp_path: Path, imported_by: Any) -> None:
    adata = cells()
    SCGEN.setup_anndata(adata, **COLUMNS, condition_key="condition")
    ours = SCGEN(adata, **SMALL)
    ours.train(max_epochs=2, batch_size=32, **QUIET)
    ours.export_scvi(tmp_path / "scvi")
    again = imported_by.import_scvi(tmp_path / "scvi", cells(), condition_key="condition", allow_pickle=True)
    asked = {"control": "control", "perturbation": "stimulated", "labels": "type_1"}
    mine, other = again.predict_perturbation(**asked), ours.predict_perturbation(**asked)
    np.testing.assert_allclose(mine.layers["rate"], other.layers["rate"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mine.varm["deltavi_change"], other.varm["deltavi_change"], rtol=1e-3, atol=1e-4)


def test_labels_that_scvi_did_not_know(tmp_path: Path) -> None:
    first = theirs(cells(), {"batch_key": "batch"})
    first.save(str(tmp_path / "scvi"))
    named = {"condition_key": "condition", "labels_key": "cell_type", "allow_pickle": True}
    ours = SCGEN.import_scvi(tmp_path / "scvi", cells(), **named)
    assert_alike(forward(ours), forward(first))
    predicted = ours.predict_perturbation(control="control", perturbation="stimulated", labels="type_1")
    assert set(predicted.uns["deltavi"]["weights"]["training_label"]) <= {"type_1", "type_2", "type_3"}
    with pytest.raises(DeltaviError, match="pass adata"):
        SCGEN.import_scvi(tmp_path / "scvi", **named)


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "setup", "named"),
    [
        ({"gene_likelihood": "bernoulli", "check_input": False}, {}, "gene_likelihood='bernoulli'"),
        ({"gene_likelihood": "normal", "check_input": False}, {}, "library='none'"),
        (
            {"gene_likelihood": "normal", "library": "observed", "dispersion": "shared", "check_input": False},
            {},
            "dispersion='shared'",
        ),
        ({"posterior": "deterministic"}, {}, "posterior='deterministic'"),
        ({"n_layers": 0, "use_batch_norm": "none"}, {}, "n_layers=0"),
        ({"n_layers": 2, "n_layers_decoder": 1}, {}, "n_layers_decoder=1"),
        ({"scale_activation": "softmax_rest"}, {"size_factor_key": "total_counts"}, "scale_activation='softmax_rest'"),
        ({"condition_in_decoder": True}, {"condition_key": "condition"}, "condition_in_decoder=True"),
    ],
)
def test_what_scvi_cannot_be_is_not_exported(
    tmp_path: Path, settings: dict[str, Any], setup: dict[str, Any], named: str
) -> None:
    adata = cells()
    VAE.setup_anndata(adata, **COLUMNS, **setup)
    model = shaken(VAE(adata, **{**SMALL, **settings}))
    with pytest.raises(DeltaviError, match=named):
        model.export_scvi(tmp_path / "scvi")
    assert not (tmp_path / "scvi").exists()


def test_models_without_a_counterpart_say_so(tmp_path: Path, trained: tuple[Any, Path]) -> None:
    for cls in (LABELVI, MIXVI):
        with pytest.raises(DeltaviError, match="VAE and SCGEN"):
            cls.import_scvi(trained[1], allow_pickle=True)
    adata = cells()
    SCGEN.setup_anndata(adata, **COLUMNS, condition_key="condition", size_factor_key="total_counts")
    with pytest.raises(NotTrainedError):
        SCGEN(adata, **SMALL).export_scvi(tmp_path / "scvi")
    with pytest.raises(DeltaviError, match=r"scale_activation='softmax_rest'.*without a size factor"):
        shaken(SCGEN(adata, **SMALL)).export_scvi(tmp_path / "scvi")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"latent_distribution": "ln"}, "latent_distribution='ln'"),
        ({"batch_representation": "embedding"}, "batch_representation='embedding'"),
        ({"extra_decoder_kwargs": {"activation_fn": torch.nn.LeakyReLU}}, "activation_fn"),
        ({"extra_encoder_kwargs": {"bias": False}}, "extra_encoder_kwargs"),
    ],
)
def test_settings_of_scvi_that_no_model_here_can_have(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    theirs(cells(), COLUMNS, **settings).save(str(tmp_path / "scvi"))
    with pytest.raises(ModelFileError, match=named):
        VAE.import_scvi(tmp_path / "scvi", cells(), allow_pickle=True)


def test_other_models_of_scvi_tools(tmp_path: Path) -> None:
    from scvi.model import LinearSCVI

    adata = cells()
    LinearSCVI.setup_anndata(adata, **COLUMNS)
    shaken(LinearSCVI(adata, **SMALL)).save(str(tmp_path / "linear"))
    with pytest.raises(ModelFileError, match="holds a LinearSCVI"):
        VAE.import_scvi(tmp_path / "linear", allow_pickle=True)


def test_minified_cells_are_not_taken_for_counts(tmp_path: Path) -> None:
    first = theirs(cells(), COLUMNS)
    expected = forward(first)
    first.adata.obsm["X_latent_qzm"], first.adata.obsm["X_latent_qzv"] = first.get_latent_representation(
        return_dist=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first.minify_adata(use_latent_qzm_key="X_latent_qzm", use_latent_qzv_key="X_latent_qzv")
        first.save(str(tmp_path / "scvi"), save_anndata=True)
    without = VAE.import_scvi(tmp_path / "scvi", allow_pickle=True)
    assert without.adata is None
    assert_alike(forward(without, cells()), expected)
    with pytest.raises(DeltaviError, match="minified"):
        VAE.import_scvi(tmp_path / "scvi", anndata.read_h5ad(tmp_path / "scvi" / "adata.h5ad"), allow_pickle=True)


def exported(tmp_path: Path, *, save_anndata: bool = True) -> Any:
    """A model that was exported to ``scvi``."""
    adata = cells()
    VAE.setup_anndata(adata, **COLUMNS)
    model = shaken(VAE(adata, **SMALL))
    model.export_scvi(tmp_path / "scvi", save_anndata=save_anndata)
    return model


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_export_is_replaced_only_on_request_and_other_files_stay(tmp_path: Path) -> None:
    model = exported(tmp_path)
    assert names(tmp_path / "scvi") == ["adata.h5ad", "model.pt"]
    with pytest.raises(ModelFileError, match="overwrite=True"):
        model.export_scvi(tmp_path / "scvi")
    (tmp_path / "scvi" / "notes.txt").write_text("mine")
    model.export_scvi(tmp_path / "scvi", overwrite=True)
    assert names(tmp_path / "scvi") == ["model.pt", "notes.txt"]
    model.export_scvi(tmp_path / "scvi", overwrite=True, save_anndata=True)
    assert names(tmp_path / "scvi") == ["adata.h5ad", "model.pt", "notes.txt"]
    assert (tmp_path / "scvi" / "notes.txt").read_text() == "mine"
    assert SCVI.load(str(tmp_path / "scvi")).adata.n_obs == model.adata.n_obs
    # nothing is left beside it, and the cells stay registered with the model they belong to
    assert names(tmp_path) == ["scvi"]
    assert model.get_latent_representation().shape == (model.adata.n_obs, 4)


def test_what_was_not_exported_is_not_replaced(tmp_path: Path) -> None:
    model = exported(tmp_path)
    folder = tmp_path / "scvi"
    theirs = SCVI.load(str(folder))
    with torch.no_grad():
        next(theirs.module.parameters()).add_(1)
    theirs.save(str(folder), overwrite=True)
    before = (folder / "model.pt").read_bytes()
    with pytest.raises(ModelFileError, match=r"model\.pt was not written by export_scvi, or was changed"):
        model.export_scvi(folder, overwrite=True)
    assert (folder / "model.pt").read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "adata.h5ad").write_text("mine")
    with pytest.raises(ModelFileError, match=r"adata\.h5ad was not written"):
        model.export_scvi(tmp_path / "other", overwrite=True, save_anndata=True)
    model.export_scvi(tmp_path / "other", overwrite=True)
    assert (tmp_path / "other" / "adata.h5ad").read_text() == "mine"
    # nor are cells that were not exported with a model attached to it
    assert VAE.import_scvi(tmp_path / "other", allow_pickle=True).adata is None
    with pytest.raises(ModelFileError, match="is a file"):
        model.export_scvi(tmp_path / "other" / "adata.h5ad", overwrite=True)
    with pytest.raises(ModelFileError, match="names nothing"):
        model.export_scvi("", overwrite=True)


@pytest.mark.parametrize("has_old", [True, False])
def test_a_fault_anywhere_in_exporting(tmp_path: Path, has_old: bool) -> None:
    old, ready = exported(tmp_path), tmp_path / "scvi"
    shutil.copytree(ready, tmp_path / "old")
    with torch.no_grad():
        next(old.module.parameters()).add_(1)
    old.export_scvi(ready, overwrite=True, save_anndata=True)
    place, mine = tmp_path / "place", {"notes.ipynb": b"mine"}

    def prepare() -> None:
        if has_old:
            shutil.copytree(tmp_path / "old", place, dirs_exist_ok=True)
        (place / "notes.ipynb").write_bytes(b"mine")

    def write(folder: Path) -> None:
        for name in ("model.pt", "adata.h5ad"):
            with (folder / name).open("wb") as file:
                file.write((ready / name).read_bytes())

    new = {**tree(ready), **mine}
    former = {**(tree(tmp_path / "old") if has_old else {}), **mine}
    assert new != former
    for struck in strikes(place, prepare, lambda: write_export(place, write)):
        now = tree(place)
        assert now in (new, former), (struck.name, now.keys())
        if isinstance(struck.error, OSError):
            assert isinstance(struck.error, ModelWriteError), struck.name
            assert ("What was there before is unchanged" in str(struck.error)) == (now == former), struck.name
            assert ("is new and complete" in str(struck.error)) == (now == new), struck.name
        elif struck.error is None:
            assert now == new


def test_exporting_leaves_everything_alone(tmp_path: Path) -> None:
    adata = cells()
    VAE.setup_anndata(adata, **COLUMNS)
    model = shaken(VAE(adata, **SMALL))
    before, drawn = {k: v.clone() for k, v in model.module.state_dict().items()}, torch.get_rng_state()
    registered = set(SCVI._setup_adata_manager_store)
    model.export_scvi(tmp_path / "one")
    # what stood in for cells is not kept alive
    assert set(SCVI._setup_adata_manager_store) == registered
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    model.export_scvi(tmp_path / "two")
    one, two = (torch.load(tmp_path / n / "model.pt", weights_only=False)["model_state_dict"] for n in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one if name != "pyro_param_store")
