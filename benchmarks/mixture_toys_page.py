"""The page of the toy data: Markdown tables of mean ± standard deviation over seeds."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version

import pandas as pd
from annotation_page import markdown, spread
from mixture_toys_methods import SETTINGS, TRAINING
from mixture_toys_tasks import TASKS, Kind, kind_of

PACKAGES = ("deltavi", "scvi-tools", "scikit-learn", "torch")
TITLES = {
    "kmeans": "k-means",
    "kmeans_regressed": "k-means, condition subtracted",
    "gaussian_mixture": "Gaussian mixture",
    "logistic": "logistic regression",
    "mlp": "network of one hidden layer",
    "mlp_all_labels": "the same network, all labels",
    "mixvi": "MIXVI",
    "mixvi_20": "MIXVI, 20 components",
    "kmeans_mixvi": "k-means on MIXVI's z",
}
COLUMNS = {
    "adjusted_rand": ("adjusted Rand index", 3),
    "normalised_mutual_information": ("normalised mutual information", 3),
    "accuracy": ("accuracy of matched clusters", 3),
    "purity": ("purity on other rows", 3),
    "mixing": ("mixing of conditions", 3),
    "test_accuracy": ("accuracy", 3),
    "n_clusters": ("clusters", 1),
    "seconds": ("seconds", 0),
}
ABOUT: dict[Kind, tuple[str, str]] = {
    "blobs": (
        "Blobs that move with a condition",
        "Five Gaussian classes of 350 points under either of two conditions. Means are uniform in [0, 10], standard "
        "deviations in [0, 0.5]; the condition moves every class by the mean effect plus a standard normal draw of "
        "its own, halved. All methods are told the number of classes, and none their names. Mixing is the entropy of "
        "the condition within a cluster, mean over clusters: one where both are equally frequent in each, zero where "
        "the condition decides. Gaussian mixtures have full covariances.",
    ),
    "clusters of digits": (
        "Clusters of handwritten digits",
        "8,000 of the 10,000 test images of MNIST to learn from, the other 2,000 to judge. k-means and Gaussian "
        "mixtures (one covariance for all clusters) are on 50 principal components. Purity: each cluster gets the "
        "digit that is its most frequent one among the images that were learned from. The other scores are of the "
        "2,000 images alone; with more clusters than digits accuracy counts one cluster for each digit.",
    ),
    "few labels": (
        "Digits with few labels",
        "The same images, 400 of the 8,000 with their label, 5 %. Accuracy on the other 2,000. One row is of a "
        "network that is given all 8,000 labels, as a bound.",
    ),
}


def by_method(rows: pd.DataFrame, n_seeds: int) -> pd.DataFrame:
    """Methods by the scores that they have; entries of fewer seeds than `n_seeds` say so."""
    named = rows["method"].map(TITLES)
    columns = {
        title: rows.groupby(named, sort=False)[name].apply(spread, digits=digits, n_seeds=n_seeds)
        for name, (title, digits) in COLUMNS.items()
        if name in rows and rows[name].notna().any()
    }
    return pd.DataFrame(columns).rename_axis("method")


def setting(kind: Kind) -> str:
    """What MIXVI is given, in one line."""
    parts = [f"`{name}={value!r}`" for name, value in (SETTINGS[kind] | TRAINING[kind]).items()]
    return f"MIXVI with {', '.join(parts)}; its other arguments are the defaults."


def command(records: pd.DataFrame) -> str:
    """The command that makes the page, without folders of this machine."""
    tasks = [name for name in TASKS if name in set(records["task"])]
    parts = [] if len(tasks) == len(TASKS) else [f"--tasks {','.join(tasks)}"]
    parts.append(f"--seeds {records['seed'].nunique()} --write docs/benchmarks/mixtures.md")
    return " ".join(["python benchmarks/mixture_toys.py", *parts])


def sections(records: pd.DataFrame) -> Iterator[str]:
    """Sections of the page."""
    n_seeds = records["seed"].nunique()
    yield "# Mixtures on toy data"
    yield (
        "What the mixture of MIXVI finds where the truth is known and simple methods can be hard to beat. No setting "
        "differs between the tasks of a section."
    )
    kinds = records["task"].map(kind_of)
    for kind, (title, about) in ABOUT.items():
        of_kind = records[kinds == kind]
        if of_kind.empty:
            continue
        yield f"## {title}\n\n{about}\n\n{setting(kind)}"
        for task, rows in of_kind.groupby("task", sort=False):
            name = TASKS[str(task)]
            yield f"### {name[0].upper()}{name[1:]}\n\n{markdown(by_method(rows, n_seeds))}"
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    yield (
        f"Mean ± standard deviation over seeds (n = {records['seed'].nunique()}), of which each draws other points or "
        "images to learn from. Seconds are those of the processor; those of k-means on z of MIXVI are without "
        "its training. Every run is in the table `mixtures.csv` beside this page. Made by "
        f"`{command(records)}` with {packages} on Python {platform.python_version()}, {platform.machine()}, one thread."
    )


def page(records: pd.DataFrame) -> str:
    """The whole page; `records` has one row per task, method and seed."""
    return "\n\n".join(sections(records)) + "\n"
