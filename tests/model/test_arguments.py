"""Arguments reach what they are for: conditions, plans, files, cached matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from deltavi.errors import DeltaviError, DeltaviWarning, InputDataError, ModelFileError, UnknownArgumentError
from deltavi.likelihood import Dispersion, NegativeBinomial
from deltavi.model import SCGEN, VAE
from deltavi.model._asked import positions_of, request_of
from deltavi.model._decoding import CellDecoder, predict_cells
from deltavi.model._shifts import coordinates_of, decoded_change
from deltavi.model._training_means import stretched
from deltavi.perturbation import Shift
from deltavi.perturbation.noise import cell_generators
from tests.model.conftest import QUIET, SETUP, dense, small_adata, train
from tests.models import classes_of

ASK = {"control": "control", "perturbation": "stimulated"}


def test_a_prediction_switches_the_condition_of_the_decoder(adata: AnnData) -> None:
    model = train(SCGEN, adata, n_hidden=16, n_latent=4, condition_in_decoder=True)
    predicted = model.predict_perturbation(shift="none", **ASK)
    latent = model.get_latent_representation()
    loader = model._make_data_loader(adata=model.adata, batch_size=model.adata.n_obs)
    with torch.inference_mode():
        decode = CellDecoder(model.module, next(iter(loader)))
        rates = [decode(latent, condition=code).mean.numpy() for code in (0, 1)]
    control = np.asarray(model.adata.obs["condition"] == "control")
    np.testing.assert_allclose(predicted.layers["rate"], rates[1][control], rtol=1e-3)
    assert not np.allclose(rates[0], rates[1], rtol=1e-3)
    profiles = [coordinates_of(model, code)(latent[:3]) for code in (0, 1)]
    assert not np.allclose(*profiles)


def test_a_decoded_change_is_that_of_mean_cp10k(trained: SCGEN) -> None:
    request = request_of(trained, small_adata(), control="control", labels=None, drop=False)
    positions, move = positions_of(trained, request.adata, request.cells), np.full(4, 0.3)
    everyone = np.arange(len(positions))
    change = decoded_change(trained, request, everyone, positions, (0, 1))(move)

    def log_mean(shift: np.ndarray) -> np.ndarray:
        rate = trained.predict_perturbation(small_adata(), shift=shift, **ASK).layers["rate"]
        return np.log1p((rate * 1e4 / request.totals[:, None]).mean(0))

    np.testing.assert_allclose(change, log_mean(move) - log_mean(0 * move), rtol=1e-3, atol=1e-4)


def test_sampled_counts_have_mean_and_variance_of_the_likelihood() -> None:
    n = 5000
    likelihood = NegativeBinomial(torch.full((n, 1), 2.0), Dispersion(torch.tensor([1.0])))
    predicted = predict_cells(
        np.full((n, 1), 2.0),
        likelihood,
        likelihood,
        totals=np.full(n, 1e4),
        output="cells",
        generators=cell_generators([str(i) for i in range(n)], seed=0),
    )
    counts = dense(predicted.counts)
    # standard errors: of the mean sqrt(6 / n), of the variance about sqrt(mu4 / n) with mu4 near 300
    assert abs(counts.mean() - 2) < 5 * np.sqrt(6 / n)
    assert abs(counts.var() - 6) < 5 * np.sqrt(300 / n)


def test_a_shift_is_stretched_to_the_first_crossing() -> None:
    """A projection that rises to 1.2 and falls again reaches 1.1 at 1.1; later crossings do not count."""
    curve = lambda d: np.array([d[0] if d[0] < 1.2 else 2.4 - d[0]])  # noqa: E731
    assert stretched(Shift(np.ones(1), "paired", {"a": 1.0}), np.array([1.1]), curve)[1] == pytest.approx(1.1)


def test_invalid_counts_can_be_dropped(trained: SCGEN) -> None:
    query = small_adata()
    row = int(np.flatnonzero(query.obs["condition"] == "control")[2])
    x = dense(query.X)
    x[row, 1] = 0.5
    query.X = x
    predicted = trained.predict_perturbation(query, invalid_cells="drop", **ASK)
    assert query.obs_names[row] not in set(predicted.obs["deltavi_source_cell"])
    assert predicted.n_obs == (query.obs["condition"] == "control").sum() - 1


def test_a_query_keeps_its_labels_and_conditions(trained: SCGEN) -> None:
    query = trained._validate_anndata(small_adata())
    for key in ("_scvi_labels", "_scvi_batch", "_scvi_condition"):
        assert list(query.obs[key]) == list(trained.adata.obs[key])


def test_the_plan_follows_the_arguments(adata: AnnData) -> None:
    SCGEN.setup_anndata(adata, **SETUP)
    model = SCGEN(adata, n_hidden=8, n_latent=2)
    plans: list[Any] = []

    class Plan(SCGEN._training_plan_cls):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            plans.append(self)

    model._training_plan_cls = Plan
    model.train(max_epochs=4, kl_warmup=0.5, batch_size=32, early_stopping=True, **QUIET)
    (plan,) = plans
    assert (plan.n_epochs_kl_warmup, plan.max_kl_weight, plan.lr_schedule) == (2, 0.3, "one_cycle")
    assert model.trainer.early_stopping_callback.warmup_epochs == 2
    assert model.trainer.optimizers[0].param_groups[0]["max_lr"] == pytest.approx(2e-3)
    again = SCGEN(adata, n_hidden=8, n_latent=2)
    again.train(max_epochs=1, batch_size=32, plan_kwargs={"lr": 5e-4, "max_kl_weight": 1.0}, **QUIET)
    assert again.trainer.optimizers[0].param_groups[0]["max_lr"] == pytest.approx(5e-4)


def test_a_query_is_aligned_once(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    model = train(VAE, adata)
    aligned: list[AnnData] = []
    align = model._align
    monkeypatch.setattr(model, "_align", lambda query: aligned.append(query) or align(query))
    query = small_adata(seed=1)
    assert model.get_latent_representation(query).shape == (query.n_obs, model.module.n_latent)
    (only,) = aligned
    assert only is query


def test_a_warm_up_that_training_does_not_reach_the_end_of(adata: AnnData) -> None:
    VAE.setup_anndata(adata, **SETUP)
    model = VAE(adata, n_hidden=8, n_latent=2)
    with pytest.warns(DeltaviWarning, match=r"over 400 epochs.* after 4.* 0\.01 of .*max_epochs=400"):
        model.train(max_epochs=4, plan_kwargs=VAE.scvi_plan, **QUIET)
    (group,) = model.trainer.optimizers[0].param_groups
    assert (group["lr"], model.trainer.lr_scheduler_configs) == (1e-3, [])


def test_a_rate_that_falls_where_training_stalls_has_no_cycle(adata: AnnData) -> None:
    VAE.setup_anndata(adata, **SETUP)
    model = VAE(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=2, plan_kwargs={"reduce_lr_on_plateau": True}, check_val_every_n_epoch=1, **QUIET)
    (found,) = model.trainer.lr_scheduler_configs
    assert type(found.scheduler).__name__ == "ReduceLROnPlateau"


@pytest.mark.parametrize("epochs", [1, 2, 9])
def test_the_shortest_cycles_of_the_learning_rate(adata: AnnData, epochs: int) -> None:
    SCGEN.setup_anndata(adata, **SETUP)
    model = SCGEN(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=epochs, **QUIET)
    assert len(model.history["train_loss"]) == epochs


def test_a_new_batch_starts_at_the_mean_dispersion(adata: AnnData) -> None:
    model = train(VAE, adata, n_hidden=8, n_latent=2, dispersion="gene-batch")
    query = small_adata(seed=1)
    query.obs["batch"] = "new"
    mapped = VAE.load_query_data(query, model)
    torch.testing.assert_close(mapped.module.px_r[:, -1], model.module.px_r.mean(1))
    torch.testing.assert_close(mapped.module.px_r[:, :-1], model.module.px_r)


def test_a_model_needs_data_that_was_set_up(adata: AnnData) -> None:
    with pytest.raises(DeltaviError, match="setup_anndata"):
        SCGEN()
    with pytest.raises(ValueError, match="setup_anndata"):
        SCGEN(adata)


def test_a_model_is_loaded_with_its_own_class(trained: SCGEN, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    with pytest.raises(ModelFileError, match="holds a SCGEN"):
        VAE.load(tmp_path / "model")


def test_a_matrix_that_was_replaced_is_read_once_it_is_set_up_again(adata: AnnData) -> None:
    adata.X = sparse.csc_matrix(adata.X)
    model = train(SCGEN, adata, n_hidden=8, n_latent=2)
    before = model.get_latent_representation()
    adata.X = sparse.csc_matrix(adata.X * 3)
    with pytest.raises(DeltaviError, match=r"adata\.X changed"):
        model.get_latent_representation()
    assert not np.allclose(model.get_latent_representation(adata.copy()), before)
    SCGEN.setup_anndata(adata, **SETUP)
    matrix = SCGEN(adata, n_hidden=8, n_latent=2).adata_manager.get_from_registry("X")
    np.testing.assert_array_equal(dense(matrix), dense(adata.X))


def test_normalised_expression_of_another_batch(trained: SCGEN) -> None:
    first, second = (
        trained.get_normalized_expression(transform_batch=batch, return_numpy=True)
        for batch in trained._categories("batch")
    )
    assert not np.allclose(first, second)


def test_an_unseen_batch_decodes_between_the_known_ones(trained: SCGEN) -> None:
    query = small_adata()
    rates = []
    for batch in (*trained._categories("batch"), "never seen"):
        query.obs["batch"] = batch
        ask = {"shift": "none", **ASK}
        if batch == "never seen":
            with pytest.warns(UserWarning, match="average"):
                rates.append(trained.predict_perturbation(query, **ask).layers["rate"])
        else:
            rates.append(trained.predict_perturbation(query, **ask).layers["rate"])
    apart = np.abs(np.log(rates[0]) - np.log(rates[1])).mean()
    for known in rates[:2]:
        assert np.abs(np.log(rates[2]) - np.log(known)).mean() < apart


@pytest.mark.parametrize("model_class", classes_of(has_batches=True))
def test_an_argument_that_setup_does_not_know(model_class: Any, adata: AnnData) -> None:
    words = f"{model_class.__name__}.setup_anndata has no argument 'batch'.*mean 'batch_key'"
    with pytest.raises(UnknownArgumentError, match=words):
        model_class.setup_anndata(adata, labels_key="cell_type", batch="batch")
    assert "_scvi_batch" not in adata.obs


def test_a_learned_library_needs_cells_that_differ() -> None:
    adata = small_adata()[:1].copy()
    VAE.setup_anndata(adata, batch_key="batch")
    with pytest.raises(DeltaviError, match=r"1 cells are there, 2 are needed. Pass library='observed'"):
        VAE(adata, library="learned")
    VAE(adata, library="observed")


@pytest.mark.parametrize(
    "times",
    [
        lambda n: pd.period_range("2020-01-03", periods=n, freq="D"),
        lambda n: pd.date_range("2020-01-03", periods=n, tz="UTC"),
        lambda n: pd.to_timedelta(np.arange(1, n + 1), unit="D"),
        lambda n: pd.Categorical(pd.period_range("2020-01-03", periods=n, freq="D")),
        lambda n: pd.Series(pd.period_range("2020-01-03", periods=n, freq="D")).astype(object).to_numpy(),
        lambda n: pd.Series(pd.date_range("2020-01-03", periods=n)).astype(object).to_numpy(),
    ],
    ids=["periods", "dates", "durations", "categories", "periods as objects", "dates as objects"],
)
def test_times_are_no_numbers(adata: AnnData, times: Any) -> None:
    adata.obs["size"] = times(adata.n_obs)
    for keys in ({"size_factor_key": "size"}, {"continuous_covariate_keys": ["size"]}):
        with pytest.raises(InputDataError, match=rf"obs\['size'\] must .*{adata.n_obs} cells"):
            VAE.setup_anndata(adata, **keys)
