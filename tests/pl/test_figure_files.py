"""Where figures are written: looked at before anything is drawn, and replaced only if they are figures."""

from __future__ import annotations

import inspect
import io
import os
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure

from deltavi import pl
from deltavi.errors import DeltaviError, FileWriteError
from deltavi.pl._figure import figure_file

HISTORY = {"train_loss": pd.DataFrame({"train_loss": [2.0, 1.0]}, index=pd.Index([0, 1], name="epoch"))}


def draw(save: Any) -> None:
    pl.training_history(HISTORY, save=save, show=False)
    plt.close("all")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("results.h5ad", "the name of a figure ends in one of"),
        ("notes.ipynb", "the name of a figure ends in one of"),
        ("counts.raw", "the name of a figure ends in one of"),
        ("figures", "is a folder: name a file in it"),
        ("figures.png", "is a folder: name a file in it"),
        ("nowhere/figure.png", "there is no folder"),
        ("", "names nothing"),
    ],
)
def test_what_cannot_be_a_figure_is_refused_before_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("figures", "figures.png"):
        (tmp_path / folder).mkdir()
    for file in ("results.h5ad", "notes.ipynb", "counts.raw"):
        (tmp_path / file).write_text("mine")
    before = plt.get_fignums()
    with pytest.raises(DeltaviError, match=words):
        draw(name)
    assert plt.get_fignums() == before
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"results.h5ad", "notes.ipynb", "counts.raw"}
    assert (tmp_path / "results.h5ad").read_text() == "mine"


@pytest.mark.parametrize("name", pl.__all__)
def test_every_plot_looks_before_it_reads_what_to_draw(tmp_path: Path, name: str) -> None:
    plot = getattr(pl, name)
    needed = [p.name for p in inspect.signature(plot).parameters.values() if p.default is p.empty]
    with pytest.raises(DeltaviError, match="the name of a figure"):
        plot(**dict.fromkeys(needed), save=tmp_path / "figure.h5ad")


def test_a_figure_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "figure.png"
    draw(path)
    before = path.read_bytes()
    save = Figure.savefig

    def half(self: Figure, file: Any, **options: Any) -> None:
        save(self, file, **options)
        Path(file).write_bytes(Path(file).read_bytes()[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", half)
        with pytest.raises(FileWriteError, match=r"No space left on device.*What was there before is unchanged"):
            draw(path)
    assert path.read_bytes() == before
    path.write_bytes(b"an earlier one")
    draw(path)
    assert path.read_bytes()[:4] == before[:4]
    assert os.listdir(tmp_path) == ["figure.png"]


def test_names_without_suffix_home_folders_and_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    draw("~/figure")
    draw("~/Figure.PDF")
    assert sorted(os.listdir(tmp_path)) == ["Figure.PDF", "figure.png"]
    file = io.BytesIO()
    draw(file)
    assert file.getvalue()[1:4] == b"PNG"
    assert figure_file(None) is None
