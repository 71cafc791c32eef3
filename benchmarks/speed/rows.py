"""The rows of the benchmark of speed: each takes the data and the command line, and yields the lines of every pair."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import scvi
import torch
from anndata import AnnData
from scvi.distributions import NegativeBinomial as PeerNB
from scvi.distributions import ZeroInflatedNegativeBinomial as PeerZINB
from scvi.model import SCANVI

from benchmarks.harness.data import UNKNOWN
from benchmarks.speed.further import atlas, cold, few, phases, short
from benchmarks.speed.pairs import (
    ADAM,
    BATCH_SIZE,
    Case,
    Data,
    Line,
    Prepare,
    TrainingClock,
    Work,
    bounds,
    lines,
    mini_batch,
    our_training,
    our_vae,
    peer_training,
    peer_vae,
    size,
    split_of,
    timings,
    trained,
)
from deltavi.likelihood import Dispersion, NegativeBinomial, Nonzeros, ZeroInflatedNegativeBinomial
from deltavi.model import LABELVI, SCGEN
from deltavi.module.by_hand import Step

LIKELIHOODS = {"zinb": "zero-inflated NB", "nb": "NB"}
SCGEN_SETTINGS: dict[str, Any] = {
    **{"n_hidden": 800, "n_layers": 2, "n_latent": 100, "dropout_rate": 0.2},
    **{"gene_likelihood": "normal", "log_variational": False},
}
SCANVI_SIZES: dict[str, Any] = {"n_hidden": 128, "n_layers": 1, "n_latent": 10, "dropout_rate": 0.1}

Lines = Iterator[list[Line]]


def likelihood(data: Data, options: argparse.Namespace) -> Lines:
    """Log probability of a mini-batch and its gradients."""
    tensors = mini_batch(our_vae(data.simulated, 0))
    parameters, about = parameters_for(tensors["X"]), f"{BATCH_SIZE} simulated cells × {data.simulated.n_vars:,} genes"
    for kind, title in LIKELIHOODS.items():
        used = parameters if kind == "zinb" else parameters[:2]
        peer = partial(differentiated, partial(peer_log_prob, tensors["X"], *used), used)
        for found, batch in (("known", tensors), ("looked for", {"X": tensors["X"]})):
            ours = partial(differentiated, partial(our_log_prob, batch, *used), used)
            name = f"likelihood and gradients, {title}, nonzero counts {found}"
            yield from timings(Case(name, about, always(ours), always(peer), options.repeats), options)


def parameters_for(x: torch.Tensor) -> list[torch.Tensor]:
    """Rates around the mean shares of the genes, a row of theta, and dropout logits, whose gradients are wanted."""
    rng, counts = np.random.default_rng(0), x.numpy()
    shares = (counts.sum(0) + 0.1) / (counts.sum() + 0.1 * counts.shape[1])
    rate = counts.sum(1, keepdims=True) * shares * rng.gamma(2.0, 0.5, counts.shape)
    values = rate, np.exp(rng.normal(size=counts.shape[1])), rng.normal(size=counts.shape)
    return [torch.tensor(value, dtype=torch.float32, requires_grad=True) for value in values]


def our_log_prob(
    tensors: dict[str, torch.Tensor], rate: torch.Tensor, theta: torch.Tensor, *logits: torch.Tensor
) -> torch.Tensor:
    """As the module of deltavi does it: with the places of nonzero counts if the loader told them."""
    nonzeros = Nonzeros.in_batch(tensors)
    if logits:
        return ZeroInflatedNegativeBinomial(rate, Dispersion(theta), *logits).log_prob(tensors["X"], nonzeros)
    return NegativeBinomial(rate, Dispersion(theta)).log_prob(tensors["X"], nonzeros)


def peer_log_prob(x: torch.Tensor, rate: torch.Tensor, theta: torch.Tensor, *logits: Any) -> torch.Tensor:
    """As the module of scvi-tools does it."""
    found: Any = PeerZINB(mu=rate, theta=theta, zi_logits=logits[0]) if logits else PeerNB(mu=rate, theta=theta)
    log_prob: torch.Tensor = found.log_prob(x).sum(-1)
    return log_prob


def differentiated(log_prob: Callable[[], torch.Tensor], parameters: list[torch.Tensor]) -> Any:
    """Mean over cells, and its gradients."""
    for parameter in parameters:
        parameter.grad = None
    loss: Any = -log_prob().mean()
    loss.backward()
    return lambda: {"loss": loss.item(), "gradient": norm(parameters)}


def norm(parameters: Iterable[torch.Tensor]) -> float:
    """Norm of their gradients."""
    return float(torch.cat([p.grad.ravel() for p in parameters if p.grad is not None]).norm())


def always(work: Work) -> Prepare:
    """The same work in every pair."""
    return lambda pair: work


def step(data: Data, options: argparse.Namespace) -> Lines:
    """Forward, backward and Adam on one mini-batch."""
    about = f"{BATCH_SIZE} simulated cells × {data.simulated.n_vars:,} genes"
    for kind, title in LIKELIHOODS.items():
        models = [make(data.simulated, 0, gene_likelihood=kind) for make in (our_vae, peer_vae)]
        for adam, fused in (("Adam of each package", True), ("torch's default Adam in both", None)):
            ours = stepping(models[0], fused=fused)
            peer = stepping(models[1], fused=None)
            name = f"training step, {title}, {adam}"
            yield from timings(Case(name, about, always(ours), always(peer), options.repeats), options)


def stepping(model: Any, fused: bool | None) -> Work:
    """One step on the same mini-batch again and again."""
    tensors, module = mini_batch(model), model.module.train()
    known = Step.of(module)
    optimizer = torch.optim.Adam(module.parameters(), fused=fused, **ADAM)

    def work() -> None:
        optimizer.zero_grad()
        # as the plan of training does it
        found = None if known is None else known.loss(tensors, 0.5)
        (found or module(tensors, loss_kwargs={"kl_weight": 0.5})[2]).loss.backward()
        optimizer.step()

    return work


def same(data: Data, options: argparse.Namespace) -> Lines:
    """Loss and gradients of a mini-batch where both have the same weights and random numbers; not timed."""
    counts = [(f"{title}, simulated", data.simulated, {"gene_likelihood": kind}) for kind, title in LIKELIHOODS.items()]
    for name, adata, settings in (*counts, ("sizes of scGen, normal, kang", data.kang_logs, SCGEN_SETTINGS)):
        library = {"library": "observed"} if settings is SCGEN_SETTINGS else {}
        ours, peer = our_vae(adata, 0, **library, **settings), peer_vae(adata, 0, **settings)
        weights = peer.module.state_dict()
        ours.module.load_state_dict({name: weights[name] for name in ours.module.state_dict()})
        found = {side: without_dropout(model) for side, model in (("ours", ours), ("peer", peer))}
        yield lines(f"one step with the same weights, {name}", f"{BATCH_SIZE} cells", 0, found)


def without_dropout(model: Any) -> dict[str, float]:
    """Loss of a mini-batch and the norm of its gradients, with the noise of one seed."""
    for layer in model.module.train().modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = model.module(mini_batch(model), loss_kwargs={"kl_weight": 0.5})[2].loss
    loss.backward()
    return {"loss": loss.item(), "gradient": norm(model.module.parameters())}


def train(data: Data, options: argparse.Namespace) -> Lines:
    """Whole trainings of a few epochs."""
    for where in ("simulated", "kang"):
        adata = getattr(data, where)
        for kind, title in LIKELIHOODS.items():
            yield from timings(training_case(f"train(), {title}, {where}", adata, options, kind), options)


def training_case(name: str, adata: AnnData, options: argparse.Namespace, kind: str) -> Case:
    """The training of one model in both packages."""
    return Case(
        name,
        f"{size(adata)}, {options.epochs} epochs",
        lambda pair: our_training(our_vae(adata, pair, gene_likelihood=kind), options.epochs, options),
        lambda pair: peer_training(peer_vae(adata, pair, gene_likelihood=kind), options.epochs, options),
    )


def elbo(data: Data, options: argparse.Namespace) -> Lines:
    """The bound on validation cells after as many epochs with the same schedule and the same cells; not timed."""
    epochs, adata = options.elbo_epochs, data.simulated
    for seed in range(options.elbo_seeds):
        ours, peer = our_vae(adata, seed), peer_vae(adata, seed)
        torch.set_num_threads(options.threads)
        our_training(ours, epochs, options, check_val_every_n_epoch=1)()
        peer_training(peer, epochs, options, check_val_every_n_epoch=1, **split_of(ours))()
        found = {side: last_bounds(model) for side, model in (("ours", ours), ("peer", peer))}
        yield lines(f"after {epochs} epochs, zero-inflated NB, simulated", size(adata), seed, found)


def last_bounds(model: Any) -> dict[str, float]:
    """Bounds of the last epoch."""
    return {f"elbo_{part}": bounds(model, part)[-1] for part in ("train", "validation")}


def annotation(data: Data, options: argparse.Namespace) -> Lines:
    """SCANVI and LABELVI, half of the labels hidden."""
    setup: dict[str, Any] = {"labels_key": "label", "unlabeled_category": UNKNOWN}

    def ours(pair: int) -> Work:
        cells = data.kang.copy()
        LABELVI.setup_anndata(cells, **setup)
        model = LABELVI(cells, seed=pair, gene_likelihood="zinb", classifier_layers=1, **SCANVI_SIZES)
        return partial(untold, partial(trained, model, options.epochs, options))

    def peer(pair: int) -> Work:
        scvi.settings.seed = pair
        cells = data.kang.copy()
        SCANVI.setup_anndata(cells, **setup)
        return partial(untold, peer_training(SCANVI(cells, **SCANVI_SIZES), options.epochs, options))

    about = f"{size(data.kang)}, {options.epochs} epochs"
    yield from timings(Case("train(), LABELVI beside SCANVI, kang", about, ours, peer), options)


def untold(work: Work) -> None:
    """Do the work; its bound is no number to compare: SCANVI has another, a Gaussian one is noise after one epoch."""
    work()


def scgen(data: Data, options: argparse.Namespace) -> Lines:
    """The sizes of scGen with a Gaussian likelihood of log-normalised expression."""
    adata, shared = data.kang_logs, SCGEN_SETTINGS

    def ours(pair: int) -> Work:
        # SCVI multiplies shares by the total in this likelihood too
        return partial(untold, our_training(our_vae(adata, pair, library="observed", **shared), 1, options))

    def peer(pair: int) -> Work:
        return partial(untold, peer_training(peer_vae(adata, pair, **shared), 1, options))

    about = f"{size(adata)}, 1 epoch"
    yield from timings(Case("train(), sizes of scGen, normal, kang", about, ours, peer), options)

    def defaults(pair: int) -> Work:
        cells = AnnData(data.kang.X, obs=data.kang.obs[["condition", "cell_type"]].copy())
        SCGEN.setup_anndata(cells, condition_key="condition", labels_key="cell_type")
        return partial(untold, our_training(SCGEN(cells, seed=pair), 1, options))

    yield from timings(Case("train(), SCGEN's own sizes beside those of scGen, kang", about, defaults, peer), options)


def latent(data: Data, options: argparse.Namespace) -> Lines:
    """Latent positions of all cells."""
    adata = data.simulated
    ours, peer = our_vae(adata, 0), peer_vae(adata, 0)
    our_training(ours, 1, options)()
    peer_training(peer, 1, options)()
    sides = [always(partial(untold, model.get_latent_representation)) for model in (ours, peer)]
    yield from timings(Case("get_latent_representation(), simulated", size(adata), sides[0], sides[1]), options)


def predict(data: Data, options: argparse.Namespace) -> Lines:
    """Predicted responses of SCGEN, trained with its defaults; they have no peer here."""
    adata = data.kang.copy()
    SCGEN.setup_anndata(adata, condition_key="condition", labels_key="cell_type", size_factor_key="total_counts")
    model = SCGEN(adata)
    model.train(options.epochs if options.quick else None, accelerator=options.accelerator, enable_progress_bar=False)
    n_cells = int((adata.obs["condition"] == "control").sum())

    def work() -> Callable[[], dict[str, float]]:
        model.predict_perturbation(control="control", perturbation="stimulated")
        return lambda: {"cells": n_cells}

    about = f"{n_cells:,} cells × {adata.n_vars:,} genes"
    yield from timings(Case("SCGEN.predict_perturbation(), kang", about, always(work)), options)


def target(data: Data, options: argparse.Namespace) -> Lines:
    """Time until ours reaches the bound on validation cells that SCVI ends with, both with their own defaults."""
    adata, short = data.pbmc, options.target_epochs
    for make in (our_vae, peer_vae):
        make(adata, 0).train(max_epochs=1, enable_progress_bar=False, accelerator=options.accelerator)
    for seed in range(options.target_pairs):
        torch.set_num_threads(options.threads)
        ours, our_times = watched(our_vae(adata, seed), options, short if options.quick else None)
        peer, peer_times = watched(peer_vae(adata, seed), options, short, **split_of(ours))
        yield from reached(
            (bounds(ours, "validation"), our_times), (bounds(peer, "validation"), peer_times), size(adata), seed
        )


def watched(model: Any, options: argparse.Namespace, epochs: int | None, **more: Any) -> tuple[Any, np.ndarray]:
    """The trained model, and processor and wall seconds after each epoch, `(n_epochs, 2)`."""
    clock = TrainingClock()
    clock.start()
    model.train(
        max_epochs=epochs,
        accelerator=options.accelerator,
        enable_progress_bar=False,
        check_val_every_n_epoch=1,
        callbacks=[clock],
        **more,
    )
    return model, np.array(clock.times)


def reached(ours: tuple[Any, Any], peer: tuple[Any, Any], about: str, seed: int) -> Lines:
    """Seconds and epochs to the bounds that SCVI ends with and that is its lowest."""
    last, lowest = peer[0][-1], peer[0].min()
    cases = {
        "SCVI's last bound, beside all epochs of SCVI": (last, len(peer[0]) - 1),
        "SCVI's last bound, first reached by each": (last, first(peer[0], last)),
        "SCVI's lowest bound, first reached by each": (lowest, first(peer[0], lowest)),
    }
    for case, (bound, place) in cases.items():
        found = {"ours": at(ours, first(ours[0], bound)), "peer": at(peer, place)}
        yield lines(f"{case}, pbmc3k", about, seed, found)


def first(found: np.ndarray, bound: float) -> int | None:
    """First epoch at which the negative bound is no higher, if there is one."""
    places = np.flatnonzero(found <= bound)
    return int(places[0]) if len(places) else None


def at(side: tuple[np.ndarray, np.ndarray], place: int | None) -> dict[str, float]:
    """Numbers of one epoch, and the bounds that the training came to."""
    found, times = side
    cpu, wall = (np.nan, np.nan) if place is None else times[place]
    ends = {"elbo_last": found[-1], "elbo_lowest": found.min(), "epochs": len(found)}
    return {"cpu": cpu, "wall": wall, "epoch": np.nan if place is None else place + 1, **ends}


ROWS: dict[str, Callable[[Data, argparse.Namespace], Lines]] = {
    "likelihood": likelihood,
    "step": step,
    "train": train,
    "short": short,
    "phases": phases,
    "cold": cold,
    "annotation": annotation,
    "scgen": scgen,
    "latent": latent,
    "predict": predict,
    "atlas": atlas,
    "few": few,
    "same": same,
    "elbo": elbo,
    "target": target,
}
