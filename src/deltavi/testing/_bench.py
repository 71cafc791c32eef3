"""A model that bad input is put before, and assertions on what it answers."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from deltavi.errors import DeltaviError, DeltaviWarning
from deltavi.testing._cells import dense
from deltavi.testing._small_model import PERTURBATION, SmallModel

Change = Callable[[np.ndarray], Any]
N_CELLS, N_GENES = 144, 40


@dataclass(frozen=True)
class Case:
    """A model class with its columns and settings, and the verb that it is for."""

    entry: SmallModel

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def verb(self) -> str:
        return self.entry.verb

    @property
    def setup(self) -> dict[str, Any]:
        return dict(self.entry.setup)

    @property
    def init(self) -> dict[str, Any]:
        return dict(self.entry.init)

    @property
    def reads_logs(self) -> bool:
        return self.entry.reads == "logs"

    @property
    def model_class(self) -> Any:
        return self.entry.model_class

    @property
    def annotates(self) -> bool:
        """True where labels are learned, of which some may be missing."""
        return self.entry.annotates

    @property
    def has_epochs(self) -> bool:
        return self.entry.by_epochs

    # -- cells -----------------------------------------------------------------------------------------------

    def cells(self, change: Change | None = None, *, seed: int = 0) -> AnnData:
        """Cells on the scale the model reads, as CSR; or what `change` makes of the dense matrix."""
        adata = self.entry.cells(seed)
        if change is not None:
            adata.X = change(dense(adata.X).astype(np.float64))
        return adata

    def many_cells(self, change: Change) -> AnnData:
        """More cells than one block of the scan holds, dense, with a change of the matrix."""
        adata = self.cells()
        times = 8
        obs = pd.concat([adata.obs] * times).set_axis([f"CELL{i:06d}" for i in range(times * adata.n_obs)])
        return AnnData(change(np.tile(dense(adata.X).astype(np.float64), (times, 1))), obs=obs, var=adata.var)

    # -- models ----------------------------------------------------------------------------------------------

    def set_up(self, adata: AnnData, **setup: Any) -> None:
        self.model_class.setup_anndata(adata, **{**self.setup, **setup})

    def untrained(self, adata: AnnData, *, setup: dict[str, Any] | None = None, **init: Any) -> Any:
        self.set_up(adata, **(setup or {}))
        return self.model_class(adata, **{**self.init, **init})

    def train(self, model: Any, **options: Any) -> None:
        self.entry.train(model, **options)

    def fitted(self, adata: AnnData, *, setup: dict[str, Any] | None = None, **init: Any) -> Any:
        model = self.untrained(adata, setup=setup, **init)
        self.train(model)
        return model

    @property
    def trained(self) -> Any:
        """A fitted model that all rows share, and leave as it is."""
        return _trained(self)

    def load(self, folder: Path, adata: AnnData | None = None, **options: Any) -> Any:
        return self.model_class.load(folder, adata, **options)

    # -- answers ---------------------------------------------------------------------------------------------

    def ask(self, model: Any, adata: AnnData | None = None, *, drawn: bool = True, **options: Any) -> pd.DataFrame:
        """Answers of the verb that the model is for, a row per cell that has one, by cell name.

        Where an answer is partly drawn, by the name of the cell, what is expected alone unless `drawn`.
        """
        if self.verb == "predict":
            return pd.DataFrame(model.predict(adata, soft=True, **options))
        if self.verb == "predict_perturbation":
            # a shift of its own would hang on the other cells of the call
            shift = np.full(model.module.n_latent, 0.2)
            moved = model.predict_perturbation(adata, **{**PERTURBATION, "shift": shift, **options})
            names = moved.obs["deltavi_source_cell"].to_numpy()
            found = moved.X if drawn else moved.layers["rate"]
            return pd.DataFrame(dense(found), index=names, columns=moved.var_names)
        latent = model.get_latent_representation(adata, **options)
        return pd.DataFrame(latent, index=(model.adata if adata is None else adata).obs_names)

    def answered(self, adata: AnnData) -> np.ndarray:
        """Positions of the cells that the verb answers for."""
        moved = self.verb == "predict_perturbation" and "condition" in adata.obs
        return np.flatnonzero(adata.obs["condition"] == "control") if moved else np.arange(adata.n_obs)


@functools.cache
def _trained(case: Case) -> Any:
    return case.fitted(case.cells())


@dataclass(frozen=True)
class Bench:
    """A case, with what pytest lends a test."""

    case: Case
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    caplog: pytest.LogCaptureFixture

    def logged(self, call: Callable[[], Any]) -> tuple[Any, str]:
        """Result of `call`, and its messages to the log."""
        self.caplog.clear()
        with self.caplog.at_level("INFO", logger="deltavi"):
            found = call()
        said = [record.getMessage() for record in self.caplog.records if record.name.startswith("deltavi")]
        return found, "\n".join(said)


# -- what an answer has to be ----------------------------------------------------------------------------------


@contextmanager
def untouched(adata: AnnData, *, registered: bool = False) -> Iterator[None]:
    """`adata` must be the same afterwards, but for what registration adds where it may be `registered`."""
    before, kind, matrix, is_view = adata.copy(), type(adata.X), adata.X, adata.is_view
    yield
    after = adata
    assert after.is_view == is_view
    assert is_view or adata.X is matrix or type(adata.X) is kind
    np.testing.assert_array_equal(dense(after.X), dense(before.X))
    for layer in set(before.layers) | set(after.layers):
        if layer is not None:
            np.testing.assert_array_equal(dense(after.layers[layer]), dense(before.layers[layer]))
    assert after.obs_names.equals(before.obs_names)
    pd.testing.assert_frame_equal(after.var, before.var)
    pd.testing.assert_frame_equal(_users(after.obs, registered), _users(before.obs, registered))
    for name in ("obsm", "varm", "uns"):
        tables = [getattr(adata, name) for adata in (after, before)]
        left, right = ({key for key in table if not (registered and key.startswith("_scvi"))} for table in tables)
        assert left == right, name


def _users(obs: pd.DataFrame, registered: bool) -> pd.DataFrame:
    return obs[[key for key in obs if not (registered and str(key).startswith("_scvi"))]]


def refused(
    call: Callable[[], Any], error: type[DeltaviError], *words: str, of: AnnData, registered: bool = False
) -> str:
    """Message of the error of exactly this class that `call` ends in; it holds the words, and `of` is untouched."""
    with untouched(of, registered=registered), pytest.raises(DeltaviError) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is error, f"{type(caught.value).__name__}: {message}"
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    return message


def warned(call: Callable[[], Any], category: type[DeltaviWarning], *words: str) -> Any:
    """Result of `call`, which must warn once, in exactly this class, with the words."""
    # warnings of others are given on
    with pytest.warns(DeltaviWarning) as caught:
        found = call()
    ours = [one for one in caught if issubclass(one.category, DeltaviWarning)]
    assert [one.category for one in ours] == [category], [str(one.message) for one in ours]
    for word in words:
        assert word in str(ours[0].message), f"{word!r} is not in: {ours[0].message}"
    return found


def assert_names(message: str, among: pd.Index, wrong: Any) -> None:
    """The message names up to three of the `wrong` ones, and none of the others `among` them."""
    named = [name for name in among if f"'{name}'" in message]
    wrong = list(wrong)
    assert set(named) <= set(wrong), f"{named} are named, {wrong[:5]} are meant"
    assert len(named) == min(3, len(wrong)), message


def assert_same(found: pd.DataFrame, expected: pd.DataFrame, *, atol: float = 0.0) -> None:
    """The same answers for the same cells, exactly unless a tolerance is given for another order of sums."""
    assert list(found.index) == list(expected.index)
    assert len(found)
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=atol, atol=atol)


@contextmanager
def silent_about(*messages: str) -> Iterator[None]:
    """Leave out warnings of other libraries that begin with one of the messages."""
    with warnings.catch_warnings():
        for message in messages:
            warnings.filterwarnings("ignore", message)
        yield
