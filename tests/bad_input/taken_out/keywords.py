"""Checks of keywords, splits and what training is asked for."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

WALK, SPLIT = "tests/test_keywords.py", "tests/model/test_own_split.py"
OPTIONS = "tests/model/test_training_options.py"
TRAINING, REQUEST, GIVEN = "model/_training_options.py", "model/_asked_split.py", "train/_given.py"
A_METHOD = f"{WALK}::test_a_method_of_a_model_that_is_called_with_a_keyword_it_does_not_have"

MUTATIONS: tuple[OwnTest, ...] = (
    OwnTest(
        f"{A_METHOD}[VAE.train]",
        TRAINING,
        "known_keywords(options, trainer_keywords(train), among=among",
        "dict(among=among",
    ),
    OwnTest(
        f"{WALK}::test_training_refuses_what_it_does_not_know",
        TRAINING,
        'known_keywords(plan, plan_keywords(model), among="plan_kwargs", hints=PLAN_HINTS)',
        "pass",
    ),
    OwnTest(
        f"{WALK}::test_a_model_with_mini_batches_of_its_own_says_so",
        TRAINING,
        'known_keywords(loading, known, among="datasplitter_kwargs", hints=hints)',
        "pass",
    ),
    OwnTest(
        f"{WALK}::test_a_misspelt_setting_is_answered_with_the_nearest",
        "model/_vae.py",
        "known_keywords(module_kwargs, settings_of(type(self)), among=type(self).__name__, hints=OF_DATA)",
        "pass",
    ),
    OwnTest(
        f"{WALK}::test_a_module_that_hands_keywords_on_answers_by_its_own_name[LABELVI]",
        "module/labelled_vae.py",
        "known_keywords(kwargs, init_keywords(type(self))",
        "dict(kwargs={}",
    ),
    OwnTest(
        f"{WALK}::test_a_misspelt_argument_of_a_verb_is_answered_with_the_nearest",
        "model/verbs.py",
        "known_keywords(kwargs, verb_keywords(model_class, name), among=",
        "dict(among=",
    ),
    OwnTest(
        f"{A_METHOD}[VAE.setup_anndata]", "model/_registration.py", "known_keywords(own, known, among=", "dict(among="
    ),
    OwnTest(
        f"{A_METHOD}[VAE.load]",
        "model/_base.py",
        "known_keywords(unknown, known, among=",
        "dict(among=",
    ),
    OwnTest(
        f"{WALK}::test_names_that_scvi_tools_has_for_files_are_answered",
        "model/_mapping.py",
        "known_keywords(options, known, among=",
        "dict(among=",
    ),
    OwnTest(
        f"{WALK}::test_a_plot_of_an_evaluation_hands_on_what_the_plot_takes",
        "tl/_evaluation.py",
        "known_keywords(kwargs, keywords_of(deltavi.pl.scoreboard)[1:], among=",
        "dict(among=",
    ),
    OwnTest(f"{SPLIT}::test_a_split_that_makes_no_sense_is_refused", GIVEN, "    if len(both):", "    if False:"),
    OwnTest(f"{SPLIT}::test_a_split_that_makes_no_sense_is_refused", GIVEN, "if (times > 1).any():", "if False:"),
    OwnTest(
        f"{SPLIT}::test_a_split_that_makes_no_sense_is_refused", GIVEN, "if len(train) < SMALLEST_BATCH:", "if False:"
    ),
    OwnTest(
        f"{SPLIT}::test_a_split_that_makes_no_sense_is_refused",
        REQUEST,
        "if sum(map(bool, ways.values())) > 1:",
        "if False:",
    ),
    OwnTest(
        f"{SPLIT}::test_training_cells_need_labels",
        GIVEN,
        "if (trained >= 0).sum() < min(2, len(label_names)):",
        "if False:",
    ),
    OwnTest(f"{SPLIT}::test_training_cells_need_labels", REQUEST, "    if lacking:", "    if False:"),
    OwnTest(
        f"{SPLIT}::test_mini_batches_of_a_split_grow_rather_than_leave_a_cell_alone",
        GIVEN,
        "while 0 < n_train % batch_size < SMALLEST_BATCH",
        "while False",
    ),
    OwnTest(
        f"{OPTIONS}::test_without_validation_cells_nothing_can_be_watched_on_them",
        TRAINING,
        "if held_out and not n_held_out:",
        "if False:",
    ),
    OwnTest(
        f"{OPTIONS}::test_a_metric_that_is_not_there_is_refused_before_the_first_epoch",
        TRAINING,
        "if metric not in known:",
        "if False:",
    ),
    OwnTest(
        f"{OPTIONS}::test_a_rate_falls_at_validations_only",
        "train/_plan.py",
        'plateau["frequency"] = ',
        "_ = ",
    ),
    OwnTest(f"{OPTIONS}::test_what_is_no_callback", TRAINING, "if not isinstance(callback, Callback):", "if False:"),
    OwnTest(
        f"{OPTIONS}::test_history_is_kept_beside_any_logger",
        "train/loggers.py",
        "return [SimpleLogger(save_dir=on_disk, save_log_on_disk=on_disk is not None), *loggers]",
        "return loggers",
    ),
    OwnTest(
        f"{OPTIONS}::test_options_that_leave_a_model_untrained",
        "model/_faults.py",
        "if trainer.global_step == 0:",
        "if False:",
    ),
    OwnTest(
        f"{OPTIONS}::test_options_that_leave_a_model_untrained",
        "train/runner.py",
        "except REFUSALS as error:",
        "except () as error:",
    ),
    OwnTest(
        f"{OPTIONS}::test_sigterm_leaves_the_last_good_epoch_in_the_model_and_in_the_checkpoint",
        "model/_faults.py",
        "state += checkpoint.caught_up(guard.n_epochs)",
        "pass",
    ),
    OwnTest(
        "tests/train/test_ranks.py::test_processes_of_torchrun_that_train_apart_are_warned_of",
        "train/_launch.py",
        "if n_processes > 1 and",
        "if False and",
    ),
    OwnTest(
        "tests/train/test_dealt.py::test_a_lost_process_is_told_from_other_errors",
        "train/_ranks.py",
        "if not ranks.several or not known:",
        "if False:",
    ),
    OwnTest(
        f"{OPTIONS}::test_an_error_is_not_printed_as_another",
        "train/runner.py",
        "self.muted.enter_context(redirect_stdout(io.StringIO()))",
        "pass",
    ),
    OwnTest(
        f"{OPTIONS}::test_the_seed_of_the_settings_counts_where_no_other_is_given",
        "_random.py",
        "setting = scvi.settings.seed",
        "setting = None",
    ),
    OwnTest(
        f"{WALK}::test_a_misspelt_keyword_of_a_function_is_answered_with_the_nearest",
        "_reading.py",
        "            arguments(thing, signature, args, kwargs)\n            raise",
        "            raise",
    ),
)
