"""Checks taken out of the source one by one, each of which a row must miss: ``python tests/bad_input/mutations.py``.

Every mutation is applied to a copy of ``src``, and its row or test is run on it in a process of its own, which has to
fail. A table says which did; the exit status is 1 where a mutant survives, or where the text to replace is not found
exactly once. Processes are forked from one that has read the libraries, which needs Linux or macOS. Rows and files can
be chosen: ``python tests/bad_input/mutations.py 1 39 62 io/_format.py``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.bad_input.mutated import SOURCE, Mutation, OwnTest  # noqa: E402
from tests.bad_input.taken_out import changed, entries, files, keywords, rows, savable, scales, tables, wishes  # noqa: E402

# what takes long to import, and is not the package
LIBRARIES = ("torch", "scvi", "scanpy", "lightning.pytorch", "sklearn.mixture", "pytest")


CHECKS, FIELDS, GENES, LABELS = (f"registry/{name}.py" for name in ("checks", "fields", "genes", "labels"))
COLUMNS = "registry/columns.py"
MATRIX, NAMES, BASE, FORMAT = "registry/matrix.py", "registry/names.py", "model/_base.py", "io/_format.py"
REGISTRATION, MAPPING, MIXTURE = "model/_registration.py", "model/_mapping.py", "model/_mixture_training.py"
TOO_FEW_GENES = "if match.overlap < min_overlap or match.overlap == 0.0:"
OF_ROWS = (
    Mutation(1, "VAE", CHECKS, "if report.n_nan + report.n_infinite == 0:", "if True:"),
    Mutation(2, "SCGEN", "registry/valid_cells.py", "good[numbers[np.unique(rows[wrong])]] = False", "pass"),
    Mutation(3, "VAE", CHECKS, 'sums["n_infinite"] += int(np.isinf(values).sum())', "pass"),
    Mutation(
        4, "VAE", CHECKS, "return self.n_negative == 0 and self.n_fractional == 0", "return not self.n_fractional"
    ),
    Mutation(5, "PPCA", CHECKS, "int((finite < -ROUNDED_ZERO).sum())", "int((finite < -ROUNDED_ZERO).any())"),
    Mutation(
        6,
        "VAE",
        CHECKS,
        "for numbers, block in stored_blocks(x, where=where):\n        scan.read",
        "for numbers, block in [next(stored_blocks(x, where=where))]:\n        scan.read",
    ),
    Mutation(5, "VAE", CHECKS, "if not (values.min() >= 0 and np.isfinite(values.max())):", "if False:"),
    Mutation(6, "VAE", CHECKS, "bool((values == np.floor(values)).all())", "True"),
    Mutation(7, "ACTINN", CHECKS, "elif report.look_log_normalised:", "elif False:"),
    Mutation(8, "PPCA", CHECKS, "elif report.look_like_counts:", "elif False:"),
    Mutation(9, "VAE", CHECKS, "elif report.look_scaled:", "elif False:"),
    Mutation(10, "VAE", CHECKS, "if report.n_empty_cells:", "if False:"),
    Mutation(
        10, "LABELVI", "model/_annotates.py", "cells.empty if reject is None", "cells.codes > 99 if reject is None"
    ),
    Mutation(11, "ACTINN", "annotation/_gene_filter.py", "np.flatnonzero(mean > 0)", "np.arange(len(mean))"),
    Mutation(12, "VAE", CHECKS, "if report.max_value > FLOAT32_EXACT:", "if False:"),
    Mutation(13, "ACTINN", "model/_actinn_training.py", "variance > SMALLEST_VARIANCE * mean**2", "variance > 0"),
    Mutation(14, "VAE", GENES, "    if names.is_unique:", "    if True:"),
    Mutation(15, "VAE", GENES, 'require_unique_genes(query_names, where="The query")', "pass"),
    Mutation(16, "VAE", GENES, "if not names.is_unique:", "if False:"),
    Mutation(17, "VAE", GENES, "query_names.get_indexer(model_names)", "np.arange(len(model_names))"),
    Mutation(18, "VAE", GENES, TOO_FEW_GENES, "if False:"),
    Mutation(19, "VAE", GENES, "if match.overlap < WARN_OVERLAP:", "if False:"),
    Mutation(20, "VAE", GENES, TOO_FEW_GENES, "if match.overlap == 0.0:"),
    Mutation(21, "VAE", GENES, TOO_FEW_GENES, "if match.overlap < min_overlap:"),
    Mutation(22, "VAE", GENES, "if match.n_extra:", "if False:"),
    Mutation(23, "VAE", GENES, "if _share(query.str.upper(), model.str.upper()) > 0.5:", "if False:"),
    Mutation(24, "VAE", "model/_files.py", "adata = in_gene_order(adata, registry, cls)", "pass"),
    Mutation(25, "VAE", COLUMNS, ".remove_unused_categories()", ""),
    Mutation(26, "SCGEN", COLUMNS, "n_missing = int(values.isna().sum())", "n_missing = 0"),
    Mutation(26, "LABELVI", LABELS, "n_missing = int(values.isna().sum())", "n_missing = 0"),
    Mutation(27, "VAE", FIELDS, "used_categories(values, key)\n            warn_unseen", "warn_unseen"),
    Mutation(28, "VAE", FIELDS, "warn_near_duplicates([as_text(category) for category in categories], key)", "pass"),
    Mutation(29, "LABELVI", LABELS, "if meant is not None:", "if False:"),
    Mutation(30, "ACTINN", LABELS, "elif unlabeled not in counts:", "elif False:"),
    Mutation(31, "LABELVI", LABELS, "if not labels:", "if False:"),
    Mutation(32, "ACTINN", LABELS, "if len(labels) == 1:", "if False:"),
    Mutation(33, "ACTINN", LABELS, "    if single:", "    if False:"),
    Mutation(
        34, "LABELVI", "train/_stratified.py", "math.ceil(train_size * n_cells)", "math.floor(train_size * n_cells)"
    ),
    Mutation(35, "ACTINN", "_text.py", "if value.is_integer():", "if False:"),
    Mutation(36, "VAE", NAMES, "if len(kinds) > 1:", "if False:"),
    Mutation(37, "ACTINN", LABELS, "        logger.info(message)", "        pass"),
    Mutation(38, "VAE", FIELDS, "if key not in adata_target.obs and self.optional_in_query:", "if False:"),
    Mutation(39, "VAE", COLUMNS, "    if len(unseen):", "    if False:"),
    Mutation(40, "VAE", COLUMNS, "    if len(unseen):", "    if any(unseen):"),
    Mutation(41, "VAE", NAMES, "if 2 * len(single) > len(cells) > 2:", "if False:"),
    Mutation(42, "VAE", "registry/_changes.py", "if changed.any():", "if False:"),
    Mutation(43, "VAE", REGISTRATION, 'transfer["attached"] = True', 'transfer["attached"] = False'),
    Mutation(43, "ACTINN", LABELS, "self._require_same(state_registry, adata_target)", "pass"),
    Mutation(45, "ACTINN", MATRIX, 'if x.format == "coo" and not quiet:', "if False:"),
    Mutation(47, "ACTINN", MATRIX, 'if dtype.kind == "b" and not quiet:', "if False:"),
    Mutation(47, "ACTINN", MATRIX, 'if dtype.kind in "OUSV":', 'if dtype.kind in "USV":'),
    Mutation(48, "ACTINN", MATRIX, 'if type(x).__module__.split(".")[0] == "zarr":', "if False:"),
    Mutation(49, "VAE", "registry/totals.py", "if isinstance(x, CSCDataset):", "if False:"),
    Mutation(49, "ACTINN", MATRIX, "if isinstance(x, CSCDataset):", "if False:"),
    Mutation(50, "ACTINN", REGISTRATION, "        make_actual(adata)", "        pass"),
    Mutation(51, "VAE", REGISTRATION, "if adata.n_obs == 0 or adata.n_vars == 0:", "if False:"),
    Mutation(52, "VAE", "train/_plan.py", "if n_train < SMALLEST_BATCH:", "if False:"),
    Mutation(53, "VAE", "train/_plan.py", "if 0 < tail < SMALLEST_BATCH <= n_train - tail:", "if False:"),
    Mutation(55, "VAE", "model/verbs.py", "self._require_trained(verb.__name__)", "pass"),
    Mutation(55, "ACTINN", BASE, "if not self.is_trained_:", "if False:"),
    Mutation(56, "SCGEN", MAPPING, '_require_trained("Query mapping")', "is_trained"),
    Mutation(57, "VAE", "model/_training.py", 'whole_number("max_epochs", max_epochs, least=1)', "max_epochs"),
    Mutation(58, "VAE", "train/_last_good.py", "if what_is_wrong is not None:", "if False:"),
    Mutation(59, "VAE", "model/_faults.py", "    guard.restore()", "    pass"),
    Mutation(
        60,
        "VAE",
        "model/_training.py",
        "[*first, guard, *saved, *users_callbacks,",
        "[*first, *(() if users_callbacks else (guard, *saved)), *users_callbacks,",
    ),
    Mutation(61, "ACTINN", FORMAT, "if found != size:", "if False:"),
    Mutation(62, "ACTINN", FORMAT, "if hashlib.sha256(data).hexdigest() != checksum:", "if False:"),
    Mutation(
        63,
        "ACTINN",
        FORMAT,
        "tensors = load_tensors(parts[TENSORS])",
        "tensors = (__import__('pickle').loads if parts[TENSORS][:1] == b'\\x80' else load_tensors)(parts[TENSORS])",
    ),
    Mutation(64, "ACTINN", "io/_manifest.py", "if version > FORMAT_VERSION:", "if False:"),
    Mutation(66, "ACTINN", FORMAT, "    if broken:", "    if False:"),
    Mutation(67, "VAE", "model/_files.py", 'torch.device("meta")', 'torch.device("cpu")'),
    Mutation(68, "ACTINN", "io/_folder.py", "remove_files([*self.begun, self.manifest])", "[]"),
    Mutation(70, "ACTINN", MAPPING, "if not is_present(wanted):", "if False:"),
    Mutation(73, "ACTINN", "registry/leftovers.py", "if name == table and not is_own]", "if False]"),
    Mutation(74, "PPCA", "latent/_factors.py", "if n_latent >= min(n_cells - 1, n_genes):", "if False:"),
    Mutation(74, "MIXVI", MIXTURE, "if model.module.n_components > len(split.train):", "if False:"),
    Mutation(75, "MIXVI", MIXTURE, "return model.usage_ is not None and n > 1", "return False and n > 1"),
    *rows.MUTATIONS,
)
# checks that have tests of their own beside the rows
OF_KINDS: tuple[OwnTest, ...] = tuple(
    mutation
    for kind in (files, changed, tables, keywords, savable, entries, scales, wishes)
    for mutation in kind.MUTATIONS
)
MUTATIONS: tuple[Mutation | OwnTest, ...] = (*OF_ROWS, *OF_KINDS)


def outcome(mutation: Mutation | OwnTest) -> str:
    """``"killed"``, ``"survived"``, or what is wrong with the mutation."""
    if (found := mutation.count()) != 1:
        return f"text found {found} times"
    status = status_of([mutation])
    # 1 is pytest's status of tests that failed; others are of tests that did not run
    return {0: "survived", 1: "killed"}.get(status, f"status {status}")


def status_of(mutations: Sequence[Mutation | OwnTest], *, apply: bool = True) -> int:
    """Exit status of pytest on the rows of the mutations, applied to a copy of the package or not."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "src" / "deltavi"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for mutation in mutations if apply else ():
            mutation.apply(copy)
        tests = dict.fromkeys(mutation.test for mutation in mutations)
        status = forked(copy.parent, Path(folder), list(tests))
        if status not in (0, 1):
            print((Path(folder) / "log").read_text(), file=sys.stderr)
    return status


def forked(source: Path, folder: Path, tests: list[str]) -> int:
    """Exit status of pytest in a process of its own, with the package in `source`."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            # in place of the folder of this script
            sys.path[0] = str(source)
            # processes that a test starts read the same package
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH"))))
            os.chdir(ROOT)
            import pytest

            import deltavi

            assert Path(deltavi.__file__).is_relative_to(source)
            options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'pytest'}"]
            # libraries that bring plugins of pytest were read before it
            status = int(pytest.main([*options, "-W", "ignore::pytest.PytestAssertRewriteWarning", *tests]))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(chosen: Iterable[str]) -> int:
    """Run the mutations of the chosen rows and files, or all; print a table, and return the exit status."""
    wanted = set(chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LIBRARIES:
            __import__(name)
    mutations = [one for one in MUTATIONS if not wanted or one.name in wanted or one.file in wanted]
    if status_of(mutations, apply=False):
        print("without any mutation a test fails already")
        return 1
    print("row  outcome   file                        check", flush=True)
    wrong = 0
    for mutation in mutations:
        found = outcome(mutation)
        wrong += found != "killed"
        line = f"{mutation.name:3}  {found:8}  {mutation.file:26}  "
        print(line + " ".join(mutation.old.split())[:60], flush=True)
    print(f"{len(mutations) - wrong} of {len(mutations)} killed")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
