"""Toy data whose classes are known: Gaussian blobs under two conditions, and handwritten digits.

The digits are the 10,000 test images of MNIST, in `mnist_t10k.npz` with arrays x (images) and y (digits).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.model_selection import train_test_split

Kind = Literal["blobs", "clusters of digits", "few labels"]

N_CLASSES, N_CONDITIONS, N_OF_EACH = 5, 2, 350
# Features of the blobs, and mean effect of the condition on each of them.
BLOBS = {"blobs_easy": (16, 1.7), "blobs_hard": (2, 1.5)}
BOX, LARGEST_SD, OWN_EFFECT_SD = 10.0, 0.5, 0.5
# Clusters to be found among digits.
DIGITS = {"digits_10": 10, "digits_20": 20, "digits_30": 30}
FEW_LABELS = "digits_few_labels"
N_TO_LEARN, N_LABELLED = 8_000, 400
TASKS: dict[str, str] = {
    "blobs_easy": "blobs, 16 features, mean effect 1.7",
    "blobs_hard": "blobs, 2 features, mean effect 1.5",
    "digits_10": "digits, 10 clusters",
    "digits_20": "digits, 20 clusters",
    "digits_30": "digits, 30 clusters",
    FEW_LABELS: f"digits, {N_LABELLED} of {N_TO_LEARN:,} with a label",
}
UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Toy:
    """One draw of a task; of the classes a method may only know those of `is_labelled`.

    `x` is (n, features), `truth`, `condition`, `is_learned` (what may be learned from) and `is_labelled` are (n,).
    """

    task: str
    seed: int
    x: np.ndarray
    truth: np.ndarray
    condition: np.ndarray
    is_learned: np.ndarray
    is_labelled: np.ndarray
    n_clusters: int

    @property
    def kind(self) -> Kind:
        """Which methods and scores it has."""
        return kind_of(self.task)

    @property
    def known(self) -> np.ndarray:
        """Classes as far as a method may know them."""
        return np.where(self.is_labelled, self.truth, UNKNOWN)

    def annotated(self) -> AnnData:
        """All rows, as a model takes them."""
        obs = pd.DataFrame({"condition": self.condition, "label": self.known}).rename(str)
        return AnnData(self.x.astype(np.float32), obs=obs)


def kind_of(name: str) -> Kind:
    """What sort of task `name` is."""
    if name in BLOBS:
        return "blobs"
    return "clusters of digits" if name in DIGITS else "few labels"


def build(name: str, folder: Path, seed: int) -> Toy:
    """Task `name`, drawn with `seed`."""
    return blobs(name, seed) if name in BLOBS else digits(name, folder, seed)


def blobs(name: str, seed: int) -> Toy:
    """Gaussian classes of which each moves with the condition in a way of its own."""
    n_features, effect = BLOBS[name]
    rng = np.random.default_rng(seed)
    means = rng.uniform(0, BOX, (N_CLASSES, n_features))
    sds = rng.uniform(0, LARGEST_SD, (N_CLASSES, n_features))
    shifts = effect + OWN_EFFECT_SD * rng.normal(size=(N_CLASSES, n_features))
    truth = np.repeat(np.arange(N_CLASSES), N_CONDITIONS * N_OF_EACH)
    condition = np.tile(np.repeat(np.arange(N_CONDITIONS), N_OF_EACH), N_CLASSES)
    noise = sds[truth] * rng.normal(size=(len(truth), n_features))
    x = means[truth] + condition[:, None] * shifts[truth] + noise
    everything = np.ones(len(truth), dtype=bool)
    return Toy(name, seed, x, text(truth), text(condition), everything, ~everything, N_CLASSES)


def digits(name: str, folder: Path, seed: int) -> Toy:
    """Images as shares of white, one row each; `seed` decides which are learned from, and which have a label."""
    with np.load(folder / "mnist_t10k.npz") as file:
        x, truth = file["x"].reshape(len(file["x"]), -1) / 255, text(file["y"])
    learned = np.zeros(len(x), dtype=bool)
    learned[some(np.arange(len(x)), N_TO_LEARN, truth, seed)] = True
    labelled = np.zeros(len(x), dtype=bool)
    if name == FEW_LABELS:
        labelled[some(np.flatnonzero(learned), N_LABELLED, truth, seed)] = True
    one_condition = np.zeros(len(x), dtype=int).astype(str)
    return Toy(name, seed, x, truth, one_condition, learned, labelled, DIGITS.get(name, len(np.unique(truth))))


def some(rows: np.ndarray, n: int, truth: np.ndarray, seed: int) -> np.ndarray:
    """`n` of the rows, of every class alike."""
    return np.asarray(train_test_split(rows, train_size=n, stratify=truth[rows], random_state=seed)[0])


def text(codes: np.ndarray) -> np.ndarray:
    """Class names."""
    return codes.astype(int).astype(str).astype(object)
