"""The same bad input and faults before SCVI and SCANVI of scvi-tools, through the interface that they share with ours.

Each case is given the very input of its row, and what happens is classified by what is seen: an error, with its class
and whether its message has a word that names the cause; a warning that does; an answer, compared with that for good
input where the row is about input that should work.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scvi
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scipy import sparse
from scvi.model import SCANVI, SCVI

from tests.model.conftest import QUIET, dense, small_adata

EPOCHS = 2
UNKNOWN = "unknown"
# Answers that differ by no more are the same; sums are in single precision.
TOLERANCE = 1e-3


def cells(change: Callable[[np.ndarray], Any] | None = None) -> AnnData:
    """The cells of the rows, with another matrix."""
    adata = small_adata()
    adata.X = sparse.csr_matrix(adata.X)
    if change is not None:
        adata.X = change(dense(adata.X).astype(np.float64))
    return adata


def fitted(adata: AnnData, *, model: Any = SCVI, epochs: int = EPOCHS, callbacks: Any = (), **setup: Any) -> Any:
    """A small model of the class, briefly trained."""
    keys = {
        "batch_key": "batch",
        **({"labels_key": "cell_type", "unlabeled_category": UNKNOWN} if model is SCANVI else {}),
    }
    model.setup_anndata(adata, **{**keys, **setup})
    made = model(adata, n_hidden=16, n_latent=4)
    made.train(max_epochs=epochs, batch_size=32, **QUIET, **({"callbacks": list(callbacks)} if callbacks else {}))
    return made


def ask(model: Any, adata: AnnData | None = None) -> np.ndarray:
    """Latent positions, or probabilities of labels."""
    if isinstance(model, SCANVI):
        return np.asarray(model.predict(adata, soft=True))
    return np.asarray(model.get_latent_representation(adata))


@dataclass(frozen=True)
class Peer:
    """A row for the peer.

    `drive` hands over the input of the row and returns the answer; `cause` is a pattern of words that name the cause,
    in an error or a warning; `expected` gives the answer for good input, where that of the row should be the same;
    `model` is the class of the peer.
    """

    drive: Callable[[], Any]
    cause: str
    expected: Callable[[], Any] | None = None
    model: str = "SCVI"


def observed(peer: Peer) -> str:
    """What is seen, in few words."""
    scvi.settings.seed = 0
    cause = re.compile(peer.cause, re.IGNORECASE)
    with warnings.catch_warnings(record=True) as caught, tempfile.TemporaryFile("w") as nowhere:
        warnings.simplefilter("always")
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                answer = peer.drive()
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            named = "names the cause" if cause.search(str(error)) else "does not name the cause"
            return f"error: {type(error).__name__}, {named}"
    said = [one.category.__name__ for one in caught if cause.search(str(one.message))]
    if isinstance(answer, str):
        return answer
    found = "" if answer is None or np.isfinite(np.asarray(answer, dtype=float)).all() else ", NaN in the answer"
    if said:
        return f"warning: {said[0]}{found}"
    if peer.expected is not None and not found:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            good = np.asarray(peer.expected())
        return (
            "works" if good.shape == answer.shape and np.allclose(answer, good, atol=TOLERANCE) else "silent, differs"
        )
    return f"silent{found}"


# -- inputs ----------------------------------------------------------------------------------------------------


def seeded(make: Callable[[], Any]) -> Any:
    """`make` from the same state of the generators, so that two trainings can be compared."""
    scvi.settings.seed = 1
    return make()


def trained_on(change: Callable[[np.ndarray], Any], **options: Any) -> Callable[[], Any]:
    """The answer of a model trained on another matrix."""
    return lambda: seeded(lambda: ask(fitted(cells(change), **options)))


def queried(change: Callable[[AnnData], Any], *, model: Any = SCVI) -> Callable[[], Any]:
    """The answer of a trained model to a changed query."""

    def drive() -> Any:
        reference = seeded(lambda: fitted(cells(), model=model))
        query = cells()
        found = change(query)
        return ask(reference, query if found is None else found)

    return drive


def same(change: Callable[[np.ndarray], Any]) -> Peer:
    """A form of storage that should give the same answer."""
    return Peer(trained_on(change), "^$", trained_on(lambda x: sparse.csr_matrix(x, dtype=np.float32)))


def asked(model: Any = SCVI) -> Callable[[], Any]:
    """The answer to the query as it is."""
    return queried(lambda query: None, model=model)


def at(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """A change of one value."""

    def change(x: np.ndarray) -> np.ndarray:
        x[3, 2] = value
        return x

    return change


def obs(key: str, values: Any) -> Callable[[AnnData], None]:
    """A change of a column: of all cells, or of those at some positions."""

    def change(adata: AnnData) -> None:
        column = adata.obs[key].astype(str).astype(object)
        if isinstance(values, dict):
            for position, value in values.items():
                column.iloc[position] = value
        else:
            column[:] = values
        adata.obs[key] = column

    return change


def labelled(values: Any, **setup: Any) -> Callable[[], Any]:
    """SCANVI trained on other labels."""

    def drive() -> Any:
        adata = cells()
        obs("cell_type", values)(adata)
        return ask(fitted(adata, model=SCANVI, **setup))

    return drive


def renamed(rename: Callable[[str], str]) -> Callable[[AnnData], None]:
    """A change of the names of genes."""

    def change(adata: AnnData) -> None:
        adata.var_names = [rename(name) for name in adata.var_names]

    return change


def edited(model: Any, key: str) -> Callable[[], Any]:
    """The answer after a column was edited."""

    def drive() -> Any:
        adata = cells()
        made = fitted(adata, model=model)
        adata.obs[key] = adata.obs[key].astype(str).to_numpy()[::-1]
        return ask(made)

    return drive


# -- faults ----------------------------------------------------------------------------------------------------


class Spoil(Callback):
    """A fault in the second epoch."""

    def __init__(self, what: Callable[[Any], None]) -> None:
        self.what = what

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Let it happen."""
        if trainer.current_epoch == 1:
            self.what(trainer)


def spoil_weight(trainer: Any) -> None:
    """One weight becomes NaN."""
    with torch.no_grad():
        next(trainer.lightning_module.module.parameters()).view(-1)[0] = float("nan")


def interrupt(trainer: Any) -> None:
    """As the keyboard does."""
    raise KeyboardInterrupt


def interrupted() -> Any:
    """Interrupted in the second epoch, and asked afterwards."""
    adata = cells()
    SCVI.setup_anndata(adata, batch_key="batch")
    model = SCVI(adata, n_hidden=16, n_latent=4)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        model.train(max_epochs=3, batch_size=32, callbacks=[Spoil(interrupt)], **QUIET)
    return ask(model) if model.is_trained else "nothing kept: the model is untrained"


def damaged(damage: Callable[[Path], None], *, model: Any = SCVI) -> Callable[[], Any]:
    """Save, damage the file of the weights, load and ask."""

    def drive() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            seeded(lambda: fitted(cells(), model=model)).save(f"{folder}/model")
            damage(Path(folder) / "model" / "model.pt")
            return ask(model.load(f"{folder}/model", cells(), accelerator="cpu"), cells())

    return drive


def cut(path: Path) -> None:
    """Half of the file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit of the weights themselves."""
    data, weights = bytearray(path.read_bytes()), torch.load(path, weights_only=False)["model_state_dict"]
    stored = (
        next(value for name, value in weights.items() if "mean_encoder" in name and value.ndim == 2).numpy().tobytes()
    )
    place = bytes(data).find(stored[:64])
    if place < 0:
        raise AssertionError("the weights are not in the file as they are")
    # the highest bit of the exponent
    data[place + 3] ^= 64
    path.write_bytes(bytes(data))


def break_weight(path: Path) -> None:
    """One weight in the file becomes NaN."""
    content = torch.load(path, weights_only=False)
    next(iter(value for value in content["model_state_dict"].values() if value.numel() > 100))[0, 0] = float("nan")
    torch.save(content, path)


RAN: list[str] = []


def ran(name: str) -> str:
    """What an unpickled :class:`Fuse` calls."""
    RAN.append(name)
    return name


class Fuse:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ran, ("a pickle",)


def explosive() -> Any:
    """Load a file that holds a pickle of a call."""
    RAN.clear()

    def plant(path: Path) -> None:
        content = torch.load(path, weights_only=False)
        content["attr_dict"]["planted"] = Fuse()
        torch.save(content, path, pickle_module=pickle)

    try:
        damaged(plant)()
    except Exception:
        if not RAN:
            raise
    return "silent, the code ran" if RAN else "works"


def swapped_on_loading() -> Any:
    """Load with two labels swapped."""
    with tempfile.TemporaryDirectory() as folder:
        fitted(cells(), model=SCANVI).save(f"{folder}/model")
        adata = cells()
        names = adata.obs["cell_type"].astype(str)
        adata.obs["cell_type"] = names.replace({"type_1": "type_2", "type_2": "type_1"})
        return ask(SCANVI.load(f"{folder}/model", adata, accelerator="cpu"))


def untrained() -> Any:
    """Ask before training."""
    adata = cells()
    SCVI.setup_anndata(adata, batch_key="batch")
    return ask(SCVI(adata, n_hidden=16, n_latent=4))


def untrained_reference() -> Any:
    """Map a query onto an untrained model."""
    adata = cells()
    SCVI.setup_anndata(adata, batch_key="batch")
    query = cells()
    obs("batch", "new")(query)
    mapped = SCVI.load_query_data(query, SCVI(adata, n_hidden=16, n_latent=4), accelerator="cpu")
    mapped.train(max_epochs=1, batch_size=32, **QUIET)
    return ask(mapped)


def backed(kind: Callable[[Any], Any]) -> np.ndarray:
    """Train on a backed file; the answer of another model to it."""
    with tempfile.TemporaryDirectory() as folder:
        cells(lambda x: kind(x.astype(np.float32))).write_h5ad(f"{folder}/cells.h5ad")
        fitted(ad.read_h5ad(f"{folder}/cells.h5ad", backed="r"))
        return np.asarray(queried(lambda query: ad.read_h5ad(f"{folder}/cells.h5ad", backed="r"))())


def nullable() -> np.ndarray:
    """Train with batches as nullable text."""
    adata = cells()
    adata.obs["batch"] = adata.obs["batch"].astype(str).astype("string")
    return ask(fitted(adata))


def taken() -> Any:
    """Train where a reserved column holds something."""
    adata = cells()
    adata.obs["_scvi_batch"] = "mine"
    answer = ask(fitted(adata))
    return answer if (adata.obs["_scvi_batch"] == "mine").all() else "silent, overwritten"


def named_oddly() -> np.ndarray:
    """Train with batches named in other scripts."""
    adata = cells()
    adata.obs["batch"] = adata.obs["batch"].astype(str).map(lambda name: f"{name}|µ 细胞")
    return ask(fitted(adata))


def of_view() -> np.ndarray:
    """Train on a view."""
    return ask(fitted(cells()[20:]))


def without_labels(query: AnnData) -> None:
    """Drop the column of labels."""
    del query.obs["cell_type"]


def logs(x: np.ndarray) -> np.ndarray:
    """log1p CP10k."""
    return np.asarray(np.log1p(1e4 * x / x.sum(1, keepdims=True)))


def one_in_a_thousand(x: np.ndarray) -> np.ndarray:
    """One value in a thousand is a fraction."""
    rows, columns = np.nonzero(x)
    x[rows[::1000], columns[::1000]] += 0.5
    return x


def without_counts(x: np.ndarray, index: Any) -> np.ndarray:
    """No counts of some cells or genes."""
    x[index] = 0
    return x


def repeated(adata: AnnData) -> AnnData:
    """Two names of genes stand twice."""
    adata.var_names = [*adata.var_names[:-2], *adata.var_names[:2]]
    return adata
