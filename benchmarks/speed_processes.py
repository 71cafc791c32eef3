"""The rows of the benchmark of speed that need fresh processes: peak memory and imports."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from anndata import AnnData
from scipy import sparse
from speed_pairs import Data, Line, in_turn, lines, our_training, our_vae, peer_training, peer_vae, size

# What is imported after what.
IMPORTS = {"import deltavi": ("deltavi", "scvi"), "import deltavi.model": ("deltavi.model", "scvi.model")}
GIB = 2**30
SCRIPT = Path(__file__).with_name("speed.py")


def memory(data: Data, options: argparse.Namespace) -> Iterator[list[Line]]:
    """Peak memory of a process that trains."""
    about = f"{size(data.simulated)}, {options.epochs} epochs"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "counts.npz")
        sparse.save_npz(file, data.simulated.X, compressed=False)
        for pair in range(options.pairs):
            found = {side: in_fresh_process(side, file, options) for side in in_turn({"ours": 0, "peer": 1}, pair)}
            yield lines("train(), zero-inflated NB, simulated", about, pair, found)


def in_fresh_process(side: str, file: Path, options: argparse.Namespace) -> dict[str, float]:
    """What `peak_of_training` finds there."""
    command = [sys.executable, str(SCRIPT), "--peak", side, "--file", str(file), "--epochs", str(options.epochs)]
    command += ["--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_of_training(side: str, file: Path, options: argparse.Namespace) -> dict[str, float]:
    """Peak memory of this process in GiB, and how far above that of the registered data it came to be."""
    torch.set_num_threads(options.threads)
    adata = AnnData(sparse.load_npz(file))
    model = our_vae(adata, 0) if side == "ours" else peer_vae(adata, 0)
    before = peak()
    (our_training if side == "ours" else peer_training)(model, options.epochs, options)()
    return {"peak": peak() / GIB, "peak_of_training": (peak() - before) / GIB}


def peak() -> int:
    """Bytes of the largest resident set so far.

    Linux lets a new process start with the getrusage figure of the process that started it; /proc does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = [line.split() for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        if found:
            return int(found[0][1]) * 1024
    in_bytes = sys.platform == "darwin"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if in_bytes else 1024)


def imports(data: Data, options: argparse.Namespace) -> Iterator[list[Line]]:
    """Seconds to import scvi-tools, with deltavi and without."""
    for name, (ours, peer) in IMPORTS.items():
        sides = {"ours": f"import {ours}", "peer": "pass"}
        for more in sides.values() if options.pairs else ():
            import_seconds(peer, more)
        for pair in range(options.pairs):
            found = {side: import_seconds(peer, sides[side]) for side in in_turn(sides, pair)}
            yield lines(name, f"`import {peer}, {ours}` beside `import {peer}`", pair, found)


def import_seconds(first: str, more: str) -> dict[str, float]:
    """Processor and wall seconds of both in a fresh process, and processor seconds of what comes second."""
    clocks = "*[time.process_time(), time.perf_counter()]"
    program = f"import time; a = [{clocks}]; import {first}; b = time.process_time(); {more}; print(*a, b, {clocks})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    began, clock, between, ended, stopped = (float(value) for value in done.stdout.splitlines()[-1].split())
    return {"cpu": ended - began, "wall": stopped - clock, "second": ended - between}
