"""What every plot promises: where it draws, when it shows, what it writes and what it leaves alone."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

from deltavi import pl
from deltavi.errors import DeltaviError
from deltavi.metrics import calibration

PLOTS = [
    "reg_mean",
    "reg_var",
    "response_heatmap",
    "response_intervals",
    "shift_weights",
    "scoreboard",
    "prediction_umap",
    "training_history",
    "calibration",
    "confusion",
    "open_set",
    "components",
    "responsibilities",
    "screen_heatmap",
    "volcano",
    "ranked_genes",
    "observed_predicted",
]


@pytest.fixture(params=PLOTS)
def draw(request, cells, several, table, history, labelled, screen, gene_predictions) -> Callable[..., object]:
    """One plot with its data, still to be told how to behave."""
    calls = {
        "reg_mean": lambda **k: pl.reg_mean(cells["predicted"], cells["real"], control=cells["control"], **k),
        "reg_var": lambda **k: pl.reg_var(cells["predicted"], cells["real"], control=cells["control"], **k),
        "response_heatmap": lambda **k: pl.response_heatmap(
            several["predicted"], several["real"], labels_key="cell_type", **k
        ),
        "response_intervals": lambda **k: pl.response_intervals(
            several["predicted"], several["real"], labels_key="cell_type", label="B", **k
        ),
        "shift_weights": lambda **k: pl.shift_weights(several["predicted"], **k),
        "scoreboard": lambda **k: pl.scoreboard(table, metrics=["mse_top"], split_half="half vs half", **k),
        "prediction_umap": lambda **k: pl.prediction_umap(cells["control"], cells["real"], cells["predicted"], **k),
        "training_history": lambda **k: pl.training_history(history, metrics=["loss"], **k),
        "calibration": lambda **k: pl.calibration(calibration(labelled["probabilities"], labelled["truth"]), **k),
        "confusion": lambda **k: pl.confusion(labelled["truth"], labelled["predicted"], **k),
        "open_set": lambda **k: pl.open_set(
            labelled["p_values"], is_new=labelled["is_new"], groups=labelled["truth"], **k
        ),
        "components": lambda **k: pl.components(labelled["probabilities"], labelled["truth"], **k),
        "responsibilities": lambda **k: pl.responsibilities(labelled["probabilities"], labelled["truth"], **k),
        "screen_heatmap": lambda **k: pl.screen_heatmap(**screen, title="a screen", **k),
        "volcano": lambda **k: pl.volcano(gene_predictions, title="a response", **k),
        "ranked_genes": lambda **k: pl.ranked_genes(gene_predictions, n_genes=12, **k),
        "observed_predicted": lambda **k: pl.observed_predicted(
            [0.1, 1.0, 2.0, 3.0], [0.2, 0.8, 2.5, 2.0], refused=[1, 0, 0, 0], names=list("abcd"), **k
        ),
    }
    return calls[request.param]


@pytest.fixture
def shown(monkeypatch) -> list[bool]:
    calls: list[bool] = []
    monkeypatch.setattr(plt, "show", lambda: calls.append(True))
    return calls


class TestShow:
    def test_false_returns_the_axes(self, draw, shown):
        assert isinstance(draw(show=False), Axes)
        assert not shown

    def test_true_shows_and_returns_nothing(self, draw, shown):
        assert draw(show=True) is None
        assert shown == [True]

    def test_none_shows_nothing_in_a_script(self, draw, shown):
        assert isinstance(draw(), Axes)
        assert not shown

    def test_none_shows_in_interactive_use(self, draw, shown):
        with plt.ion():
            assert draw() is None
        assert shown == [True]

    def test_none_never_shows_axes_of_the_user(self, draw, shown):
        _, ax = plt.subplots()
        with plt.ion():
            assert draw(ax=ax) is ax
        assert not shown


class TestSave:
    @pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
    def test_writes_a_file(self, draw, tmp_path, suffix):
        draw(show=False, save=tmp_path / f"plot.{suffix}")
        assert (tmp_path / f"plot.{suffix}").stat().st_size > 2000

    def test_file_is_written_before_it_is_shown(self, draw, tmp_path, monkeypatch):
        monkeypatch.setattr(plt, "show", lambda: (tmp_path / "plot.png").rename(tmp_path / "seen.png"))
        draw(show=True, save=str(tmp_path / "plot.png"))
        assert (tmp_path / "seen.png").exists()

    def test_same_call_same_picture(self, draw, tmp_path):
        for name in ("first.png", "second.png"):
            draw(show=False, save=tmp_path / name)
        assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


class TestAxes:
    def test_draws_where_it_is_told(self, draw):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
        assert draw(ax=right, show=False) is right
        assert right.has_data()
        assert not left.has_data()
        assert plt.get_fignums() == [figure.number]

    def test_sequence_of_one(self, draw):
        _, ax = plt.subplots()
        assert draw(ax=[ax], show=False) is ax

    def test_part_of_a_figure(self, draw, tmp_path):
        part = plt.figure(figsize=(9, 4), layout="constrained").subfigures(1, 2)[1]
        draw(ax=part.subplots(), show=False, save=tmp_path / "plot.png")
        assert (tmp_path / "plot.png").exists()

    def test_wrong_number(self, draw):
        _, axes = plt.subplots(1, 2)
        with pytest.raises(DeltaviError, match="1 panels, but ax holds 2"):
            draw(ax=axes, show=False)

    def test_every_text_lies_within_the_figure(self, draw):
        ax = draw(show=False)
        figure = ax.figure
        figure.draw_without_rendering()
        assert figure.get_tightbbox().width < figure.get_figwidth() + 0.2
        assert figure.get_tightbbox().height < figure.get_figheight() + 0.2


class TestNothingElseChanges:
    def test_settings(self, draw, tmp_path):
        before = dict(matplotlib.rcParams)
        draw(show=False, save=tmp_path / "plot.png")
        assert dict(matplotlib.rcParams) == before

    def test_global_random_state(self, draw):
        before = np.random.get_state()[1].copy()
        draw(show=False)
        np.testing.assert_array_equal(np.random.get_state()[1], before)

    def test_cells(self, draw, cells):
        before = {name: adata.copy() for name, adata in cells.items()}
        draw(show=False)
        for name, adata in cells.items():
            assert str(adata) == str(before[name])
            for one, other in ((adata.X, before[name].X),):
                difference = one - other
                assert abs(difference).max() == 0

    def test_predictions(self, draw, several):
        before = {name: adata.copy() for name, adata in several.items()}
        draw(show=False)
        for name, adata in several.items():
            assert str(adata) == str(before[name])
            assert abs(adata.X - before[name].X).max() == 0
            assert all(adata.varm[key].equals(before[name].varm[key]) for key in adata.varm if "deltavi" in key)
        for name, frame in several["predicted"].uns["deltavi"].items():
            assert isinstance(frame, str) or frame.equals(before["predicted"].uns["deltavi"][name])

    def test_labels(self, draw, labelled):
        before = {name: values.copy() for name, values in labelled.items()}
        draw(show=False)
        assert all(np.array_equal(values, before[name]) for name, values in labelled.items())

    def test_screen_and_genes(self, draw, screen, gene_predictions):
        before, genes = {name: frame.copy() for name, frame in screen.items()}, gene_predictions.to_frame()
        draw(show=False)
        assert all(frame.equals(before[name]) for name, frame in screen.items())
        assert gene_predictions.to_frame().equals(genes)

    def test_table_and_history(self, draw, table, history):
        table_before = table.copy()
        history_before = {name: frame.copy() for name, frame in history.items()}
        draw(show=False)
        assert table.equals(table_before)
        assert all(frame.equals(history_before[name]) for name, frame in history.items())


@pytest.mark.parametrize("name", PLOTS)
class TestSignature:
    def test_few_positional_parameters(self, name):
        parameters = inspect.signature(getattr(pl, name)).parameters.values()
        assert sum(p.kind is not inspect.Parameter.KEYWORD_ONLY for p in parameters) <= 3

    def test_takes_ax_show_and_save(self, name):
        parameters = inspect.signature(getattr(pl, name)).parameters
        assert all(parameters[p].default is None for p in ("ax", "show", "save"))

    def test_every_parameter_is_documented(self, name):
        function = getattr(pl, name)
        documented = re.findall(r"^(\w[\w, ]*)$", inspect.getdoc(function).split("Returns\n")[0], flags=re.MULTILINE)
        names = {part.strip() for line in documented for part in line.split(",")}
        assert set(inspect.signature(function).parameters) <= names


def test_everything_public_is_tested_here():
    assert sorted(pl.__all__) == sorted(PLOTS)
