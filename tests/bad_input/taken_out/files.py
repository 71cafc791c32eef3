"""Checks of what removes and replaces files."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

EVERY = "tests/io/test_every_fault.py"
SAVING = "tests/model/test_saving.py"
FIGURES = "tests/pl/test_figure_files.py"
FAULT = f"{EVERY}::test_a_fault_anywhere_in_saving"
FILES = f"{EVERY}::test_a_fault_anywhere_in_writing_files"
EXPORT = "tests/model/test_scvi_exchange.py::test_what_was_not_exported_is_not_replaced"
PLACE, PLACES = "io/_place.py", "tests/io/test_place.py"
EVALUATION = "tests/tl/test_evaluation_resume.py::test_files_of_the_users_are_refused_before_the_first_training"

MUTATIONS: tuple[OwnTest, ...] = (
    OwnTest(f"{SAVING}::test_what_names_no_folder_is_refused", "io/_place.py", "if not text.strip() or", "if False or"),
    OwnTest(
        f"{SAVING}::test_a_folder_of_the_users_keeps_its_files", "io/_place.py", "Path(text).expanduser()", "Path(text)"
    ),
    OwnTest(
        f"{SAVING}::test_a_link_stays_a_link_and_a_model_one_stands_in_is_replaced",
        "io/_place.py",
        "if path.is_symlink() and not path.exists():",
        "if False:",
    ),
    OwnTest(
        "tests/io/test_write_faults.py::test_a_folder_with_something_else_may_be_used_and_a_file_may_not",
        "io/_place.py",
        "    if path.exists():",
        "    if False:",
    ),
    OwnTest(
        "tests/io/test_write_faults.py::test_room_is_looked_for_before_anything_is_written",
        "io/_place.py",
        "if usage.total and usage.free < n_bytes:",
        "if False:",
    ),
    OwnTest(FAULT, "io/_place.py", "                place.rmdir()", "                pass"),
    OwnTest(FAULT, "io/_folder.py", "self.left = remove_files([*self.begun, self.manifest])", "pass"),
    OwnTest(FAULT, "io/_folder.py", "            if not self.is_switched:", "            if True:"),
    OwnTest(
        "tests/io/test_write_faults.py::test_a_manifest_of_something_else_is_not_replaced",
        "io/_folder.py",
        "    if not os.path.lexists(file):",
        "    if True:",
    ),
    OwnTest(
        f"{EVERY}::test_a_file_that_was_changed_since_is_the_users",
        "io/_folder.py",
        " and is_as_described(path, described)",
        " and described",
    ),
    OwnTest(
        f"{EVERY}::test_names_that_lead_elsewhere_are_not_removed",
        "io/_manifest.py",
        "if not isinstance(name, str) or not re.fullmatch(",
        "if not isinstance(name, str) or not re.search(",
    ),
    OwnTest(
        f"{SAVING}::test_a_folder_of_the_users_keeps_its_files",
        "io/_format.py",
        'if CELLS not in manifest["parts"]:',
        "if not (path / CELLS).exists():",
    ),
    OwnTest(
        f"{SAVING}::test_keywords_that_save_does_not_have",
        "model/_saving.py",
        "    if names and not save_anndata:",
        "    if False:",
    ),
    OwnTest(
        f"{SAVING}::test_a_read_only_folder_is_refused_before_anything_is_written",
        "model/_saving.py",
        "    require_replaceable(target)",
        "    pass",
    ),
    OwnTest(
        f"{SAVING}::test_cells_that_are_not_there_or_cannot_be_written",
        "model/_saving.py",
        "    if cells is None:",
        "    if False:",
    ),
    OwnTest(
        f"{SAVING}::test_cells_that_are_read_from_the_former_model_stay",
        "io/_folder.py",
        "os.path.realpath(path) != in_use and",
        "True and",
    ),
    OwnTest(EXPORT, "io/scvi.py", 'self.mark.get("weights") == export_mark(self.weights, None)["weights"]', "True"),
    OwnTest(
        "tests/model/test_scvi_exchange.py::test_a_fault_anywhere_in_exporting",
        "io/export.py",
        "            os.replace(former_cells, cells)",
        "            pass",
    ),
    OwnTest(FILES, "io/atomic.py", "left = remove_files(part for _, part in begun.values())", "left = []"),
    OwnTest(
        f"{EVERY}::test_a_link_to_a_file_stays_a_link", "io/atomic.py", "Path(os.path.realpath(path))", "Path(path)"
    ),
    OwnTest(EVALUATION, "tl/_evaluation.py", "    if foreign:", "    if False:"),
    OwnTest(EVALUATION, "tl/_resume.py", "            for name in (RUNS, PREDICTIONS):", "            for name in ():"),
    OwnTest(
        f"{FIGURES}::test_what_cannot_be_a_figure_is_refused_before_drawing",
        "pl/_figure.py",
        "if path.suffix[1:].lower() not in known:",
        "if False:",
    ),
    OwnTest(f"{PLACES}::test_what_is_no_path", PLACE, "    if not isinstance(text, str):", "    if False:"),
    OwnTest(f"{PLACES}::test_a_home_that_is_not_known", PLACE, "except RuntimeError as", "except KeyError as"),
    OwnTest(f"{PLACES}::test_folders_and_files", PLACE, "    if not path.parent.is_dir():", "    if False:"),
    OwnTest(
        f"{FIGURES}::test_what_cannot_be_a_figure_is_refused_before_drawing",
        PLACE,
        '    if path.is_dir():\n        raise error(f"{path} is a folder',
        '    if False:\n        raise error(f"{path} is a folder',
    ),
    OwnTest(
        f"{PLACES}::test_disks_that_do_not_tell_their_room",
        PLACE,
        "    except OSError:\n        return",
        "    finally:\n        pass",
    ),
    OwnTest(
        f"{PLACES}::test_a_folder_that_was_there_stays_and_one_that_was_made_goes",
        PLACE,
        "if not os.path.lexists(place)]",
        "]",
    ),
    OwnTest(f"{PLACES}::test_files_are_removed_at_the_second_try", PLACE, "for _ in range(2):", "for _ in range(1):"),
    OwnTest(
        f"{PLACES}::test_files_are_removed_at_the_second_try", PLACE, "    if interrupt is not None:", "    if False:"
    ),
    OwnTest(
        f"{PLACES}::test_files_that_stay_are_named", PLACE, "        if os.path.lexists(path):", "        if False:"
    ),
    OwnTest(
        "tests/io/test_write_faults.py::test_a_read_only_folder",
        "io/_folder.py",
        "        require_writable(folder)",
        "        pass",
    ),
)
