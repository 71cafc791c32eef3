"""Make the golden models of the present format: ``python -m tests.golden.make``.

To be run once after `deltavi.io.FORMAT_VERSION` has risen, and committed; folders that exist are never made again,
for what they are there to show is that files of the past can be read.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from deltavi.io import FORMAT_VERSION
from tests.golden.models import GOLDEN, HERE, answers, asked, model_class, read_cells


def make(folder: Path) -> None:
    """Train a tiny model, save it to `folder`, and write down beside it what it answers."""
    golden, cls = GOLDEN[folder.name], model_class(folder)
    cells = read_cells()
    cls.setup_anndata(cells, **golden.setup)
    model = cls(cells, **golden.init)
    model.train(max_epochs=30, batch_size=16, accelerator="cpu", enable_progress_bar=False)
    model.save(folder)
    rounded = {
        # nine digits tell single-precision numbers apart
        verb: [[float(f"{x:.9g}") for x in row] for row in np.atleast_2d(values)]
        for verb, values in answers(cls.load(folder), asked()).items()
    }
    folder.with_suffix(".json").write_text(json.dumps(rounded) + "\n")


def main() -> None:
    """Make what is missing."""
    for name in GOLDEN:
        folder = HERE / f"v{FORMAT_VERSION}" / name
        if not folder.exists():
            make(folder)


if __name__ == "__main__":
    main()
