"""Checks of answers that mean something else than was asked, and common wishes."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest
from tests.bad_input.taken_out import answers

OF_COMMANDS: tuple[OwnTest, ...] = (
    OwnTest(
        "tests/cli/test_options.py::test_wrong_options",
        "cli/_options.py",
        "    if unknown:\n",
        "    if unknown and unknown[0] == '':\n",
    ),
    OwnTest(
        "tests/cli/test_options.py::test_wrong_options",
        "cli/_options.py",
        "    require_consistent(options)\n",
        "    pass\n",
    ),
    OwnTest(
        "tests/cli/test_reading.py::test_files_of_tenx_are_read_whatever_their_name",
        "cli/_reading.py",
        'if "matrix" in names or versions:',
        'if "matrix" in names:',
    ),
    OwnTest(
        "tests/cli/test_reading.py::test_other_files_are_refused",
        "cli/_reading.py",
        "    except Exception as error:",
        "    except OSError as error:",
    ),
    OwnTest(
        "tests/cli/test_reading.py::test_unknown_names_come_before_the_work",
        "cli/_demo.py",
        "        if getattr(options, option) not in known:",
        "        if False:",
    ),
    OwnTest(
        "tests/cli/test_reading.py::test_tables_that_do_not_fit",
        "cli/_reading.py",
        "    if not known.all():",
        "    if not known.any():",
    ),
    OwnTest(
        "tests/cli/test_output.py::test_folders_that_cannot_be_made",
        "cli/_output.py",
        "        except (OSError, ValueError) as error:",
        "        except PermissionError as error:",
    ),
    OwnTest(
        "tests/cli/test_output.py::test_files_of_others_are_in_the_way",
        "cli/_output.py",
        "if not self._is_replaceable(name)]",
        "if False]",
    ),
    OwnTest(
        "tests/cli/test_output.py::test_own_files_are_replaced_and_changed_ones_are_not",
        "cli/_output.py",
        "bool(ours) and _digest(place) in ours",
        "bool(ours)",
    ),
    OwnTest(
        "tests/cli/test_output.py::test_both_versions_are_ours_while_a_file_is_replaced",
        "cli/_output.py",
        "[*self._ours.get(name, []), _digest(part)]",
        "[_digest(part)]",
    ),
    OwnTest(
        "tests/cli/test_output.py::test_room_is_asked_for",
        "cli/_output.py",
        "        if free < needed:",
        "        if False:",
    ),
    OwnTest(
        "tests/cli/test_output.py::test_a_folder_is_made_and_removed_again_where_nothing_was_written",
        "cli/_output.py",
        "        _remove_empty(absent)",
        "        pass",
    ),
    OwnTest(
        "tests/cli/test_console.py::test_warnings_are_one_line_each_and_come_once",
        "cli/_console.py",
        "        if line not in self._shown:",
        "        if True:",
    ),
    OwnTest(
        "tests/cli/test_console.py::test_a_reader_who_leaves_does_not_stop_the_work",
        "cli/_console.py",
        "        except OSError as error:",
        "        except TimeoutError as error:",
    ),
    OwnTest(
        "tests/train/test_progress.py::test_no_bar_without_a_terminal",
        "train/progress.py",
        "wanted and (in_notebook or is_terminal(sys.stderr))",
        "wanted",
    ),
    OwnTest(
        "tests/tl/test_demo.py::test_settings_are_checked_before_anything_is_trained",
        "tl/_methods.py",
        "        self._require_known_arguments()\n",
        "        pass\n",
    ),
    OwnTest(
        "tests/tl/test_demo.py::test_settings_are_checked_before_anything_is_trained",
        "tl/_methods.py",
        "            _check_values(setting)\n",
        "            pass\n",
    ),
    OwnTest(
        "tests/tl/test_demo.py::test_settings_are_checked_before_anything_is_trained",
        "tl/_held_out.py",
        "    if len(question.perturbations) != 1:",
        "    if not question.perturbations:",
    ),
    OwnTest(
        "tests/datasets/test_kang.py::TestFromAPath::test_a_file_that_holds_something_else",
        "datasets/_kang.py",
        "    except Exception as error:",
        "    except KeyError as error:",
    ),
    OwnTest(
        "tests/train/test_progress.py::test_a_model_is_described_and_nothing_printed",
        "model/_base.py",
        "    def __repr__(self) -> str:",
        "    def _unused(self) -> str:",
    ),
    OwnTest(
        "tests/cli/test_reading.py::test_many_names_are_not_all_listed",
        "_errors.py",
        "examples(names, MOST_LISTED)",
        "examples(names, len(names))",
    ),
)
MUTATIONS: tuple[OwnTest, ...] = (*OF_COMMANDS, *answers.MUTATIONS)
