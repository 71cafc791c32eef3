"""Training curves: what was logged is what is drawn, from a model or from its history."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.errors import NotTrainedError, UnknownCategoryError
from deltavi.pl import training_history
from deltavi.pl._figure import BLUE, VERMILION


def line(ax, colour: str) -> np.ndarray:
    """Epochs and values of the line of one colour, (n_epochs, 2)."""
    (found,) = [x for x in ax.lines if x.get_color() == colour and x.get_linestyle() == "-"]
    return np.column_stack([found.get_xdata(), found.get_ydata()])


def legend(ax) -> list[str]:
    return [] if ax.get_legend() is None else [text.get_text() for text in ax.get_legend().get_texts()]


class TestWhatIsDrawn:
    def test_training_and_validation_share_a_panel(self, history):
        axes = training_history(history, show=False)
        assert [ax.get_title() for ax in axes] == ["loss", "elbo", "kl weight"]
        np.testing.assert_array_equal(line(axes[0], BLUE)[:, 1], history["train_loss_epoch"].iloc[:, 0])

    def test_epochs_without_validation_are_skipped(self, history):
        validation = line(training_history(history, metrics=["loss"], show=False), VERMILION)
        logged = history["validation_loss"].iloc[:, 0].dropna()
        np.testing.assert_array_equal(validation[:, 0], logged.index)
        np.testing.assert_array_equal(validation[:, 1], logged)

    def test_values_per_step_and_constants_are_left_out(self, history):
        titles = [ax.get_title() for ax in training_history(history, show=False)]
        assert "kl global" not in titles
        assert len(line(training_history(history, metrics=["loss"], show=False), BLUE)) == 20

    def test_a_constant_is_drawn_when_asked_for(self, history):
        assert training_history(history, metrics="kl_global", show=False).get_title() == "kl global"

    def test_constants_are_drawn_when_there_is_nothing_else(self):
        assert training_history({"train_loss": [1.0, 1.0]}, show=False).get_title() == "loss"

    def test_best_validation_is_marked(self, history):
        ax = training_history(history, metrics=["loss"], show=False)
        logged = history["validation_loss"].iloc[:, 0]
        assert legend(ax) == ["train", "validation", f"best: {logged.min():.4g}, epoch {logged.idxmin()}"]

    def test_best_is_not_marked_where_lower_is_not_better(self, history):
        history["kl_local_train"] = history["kl_weight"]
        history["kl_local_validation"] = history["kl_weight"]
        assert legend(training_history(history, metrics=["kl_local"], show=False)) == ["train", "validation"]

    def test_training_alone_needs_no_legend(self, history):
        assert legend(training_history(history, metrics=["kl_weight"], show=False)) == []

    @pytest.mark.parametrize(
        ("values", "scale"),
        [
            ([1000.0, 150.0, 100.0], "log"),
            ([300.0, 200.0, 150.0], "linear"),
            ([0.1, 5.0, 20.0], "linear"),
            ([50.0, 1.0, -2.0], "linear"),
        ],
        ids=["falls far", "falls a little", "rises", "below zero"],
    )
    def test_scale_shows_both_ends(self, values, scale):
        ax = training_history({"elbo_train": values}, show=False)
        assert ax.get_yscale() == scale
        ax.figure.draw_without_rendering()

    def test_labels_of_a_logarithmic_axis_are_plain_numbers(self, history):
        ax = training_history(history, metrics=["loss"], show=False)
        ax.figure.draw_without_rendering()
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert {"200", "500"} <= set(labels)

    def test_several_panels_stand_in_rows_of_at_most_three(self):
        history = {f"part{i}_train": [1.0, 2.0] for i in range(7)}
        axes = training_history(history, show=False)
        assert len(axes) == 7
        assert axes[0].get_subplotspec().get_gridspec().ncols == 3


class TestForms:
    def test_model(self, history):
        axes = training_history(SimpleNamespace(history=history), show=False)
        assert len(axes) == 3

    @pytest.mark.parametrize(
        "form", [list, np.asarray, pd.Series, lambda v: pd.DataFrame({"x": v}), lambda v: pd.Series(v, dtype=object)]
    )
    def test_tables_series_and_sequences(self, form):
        ax = training_history({"train_loss": form([3.0, 2.0, 1.5])}, show=False)
        np.testing.assert_array_equal(line(ax, BLUE), [[0, 3], [1, 2], [2, 1.5]])

    @pytest.mark.parametrize(
        ("train", "validation"),
        [
            ("train_loss", "val_loss"),
            ("train_loss_epoch", "validation_loss"),
            ("loss_train", "loss_validation"),
            ("loss", "val_loss"),
        ],
    )
    def test_names_of_other_loggers(self, train, validation):
        ax = training_history({train: [3.0, 2.0], validation: [4.0, 3.0]}, show=False)
        assert ax.get_title() == "loss"
        np.testing.assert_array_equal(line(ax, VERMILION)[:, 1], [4, 3])

    def test_one_epoch(self):
        ax = training_history({"train_loss": [3.0]}, show=False)
        assert ax.lines[0].get_marker() == "o"

    def test_axes_of_the_user(self, history):
        _, axes = plt.subplots(1, 3)
        assert training_history(history, ax=axes, show=False) == list(axes)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.floats(-1e6, 1e6) | st.just(np.nan), min_size=1, max_size=12))
    def test_any_values(self, values):
        finite = [v for v in values if np.isfinite(v)]
        if not finite:
            with pytest.raises(NotTrainedError):
                training_history({"train_loss": values}, show=False)
        else:
            ax = training_history({"train_loss": values, "validation_loss": values}, show=False)
            np.testing.assert_array_equal(line(ax, BLUE)[:, 1], finite)
            ax.figure.draw_without_rendering()
        plt.close("all")

    def test_a_trained_model_of_scvi_tools(self, cells):
        """The names that scvi-tools logs today are understood."""
        scvi = pytest.importorskip("scvi")
        adata = cells["real"].copy()
        adata.X = adata.layers["counts"].copy()
        scvi.model.SCVI.setup_anndata(adata)
        model = scvi.model.SCVI(adata, n_latent=2, n_hidden=8)
        model.train(max_epochs=3, accelerator="cpu", check_val_every_n_epoch=1, enable_progress_bar=False, logger=None)
        axes = training_history(model, show=False)
        titles = [ax.get_title() for ax in axes]
        assert {"loss", "elbo", "reconstruction loss", "kl local"} <= set(titles)
        assert legend(axes[titles.index("elbo")])[:2] == ["train", "validation"]


class TestErrors:
    @pytest.mark.parametrize("nothing", [None, {}, SimpleNamespace(history=None), SimpleNamespace(), object()])
    def test_not_trained(self, nothing):
        with pytest.raises(NotTrainedError, match="There is no training history"):
            training_history(nothing)

    def test_nothing_per_epoch(self):
        with pytest.raises(NotTrainedError, match="no value per epoch"):
            training_history({"train_loss_step": [1.0, 2.0]})

    def test_unknown_metric(self, history):
        with pytest.raises(UnknownCategoryError, match=r"metric 'los' is not in the data\. Did you mean 'loss'"):
            training_history(history, metrics=["los"])
