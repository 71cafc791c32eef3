"""Run one study: `python -m benchmarks STUDY`, from the root of the repository; `--help` behind it has its options."""

from __future__ import annotations

import os
import sys
from importlib import import_module

STUDIES = {
    "all-genes": "perturbation.all_genes",
    "annotation": "annotation.study",
    "annotation-settings": "annotation.study",
    "transfer": "annotation.study",
    "clustering": "clustering.study",
    "few-treated": "perturbation.few",
    "imputation": "imputation",
    "metrics": "metrics",
    "perturbation": "perturbation.study",
    "perturbation-pairs": "perturbation.pairs",
    "prior": "prior",
    "response-networks": "perturbation.networks",
    "responses": "perturbation.responses",
    "scale": "scale.study",
    "speed": "speed.study",
    "speed-gpu": "speed.gpu",
    "speed-linear": "speed.linear",
    "speed-responses": "speed.responses",
    "trust": "trust.study",
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def main(arguments: list[str]) -> None:
    """Run the study that is named first, one thread per process, with the rest of the arguments."""
    if not arguments or arguments[0] not in STUDIES:
        raise SystemExit(f"{__doc__}\nStudies: {', '.join(STUDIES)}")
    for name in THREADS:  # before NumPy is loaded, which reads them once
        os.environ.setdefault(name, "1")
    study, *rest = arguments
    import_module(f"benchmarks.{STUDIES[study]}").main(study, rest)


if __name__ == "__main__":
    main(sys.argv[1:])
