"""Choice of the contract that fits a model, by what its entry declares."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData

from deltavi.testing._bad_input_contract import BadInputContract
from deltavi.testing._contract import ModelContract
from deltavi.testing._count_contract import CountContract
from deltavi.testing._predict_contract import PredictContract
from deltavi.testing._small_model import SmallModel


class InClosedForm(CountContract):
    """Tests of a model that is fitted in closed form: without epochs, seeds of training and new batches."""

    test_same_seed_same_model_other_seed_another = None  # type: ignore[assignment]
    test_early_stopping_watches_the_objective_at_its_final_weight = None  # type: ignore[assignment]
    test_users_callbacks_are_kept = None  # type: ignore[assignment]
    test_a_senseless_number_of_epochs_is_refused = None
    test_query_mapping_learns_a_new_batch = None  # type: ignore[assignment]
    test_query_mapping_needs_a_trained_model = None  # type: ignore[assignment]
    test_an_unseen_batch_is_averaged_with_a_warning = None  # type: ignore[assignment]

    def test_training_keeps_a_history_under_scvi_names(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        assert model.is_trained
        assert model.history["train_loss"].shape == (1, 1)

    def test_a_tail_of_one_cell_trains(self) -> None:
        model = self.fitted(self.data()[:33].copy())
        assert len(model.train_indices) == 33
        assert len(model.validation_indices) == 0

    def test_the_same_cells_give_the_same_model(self) -> None:
        latents = [self.fitted(self.data(), seed=seed).get_latent_representation() for seed in (3, 4)]
        np.testing.assert_array_equal(*latents)


def contract_of(entry: SmallModel, *, bad_input: bool = True) -> type[ModelContract]:
    """Class of the tests that concern a model, to be collected by pytest under a name that begins with ``Test``.

    Parameters
    ----------
    entry
        The model, and what it can do.
    bad_input
        Whether the tests of bad input are among them.

    Examples
    --------
    >>> entry = SmallModel(name="Mine", model_class=Mine)  # doctest: +SKIP
    >>> TestMine = contract_of(entry)  # doctest: +SKIP
    """
    of_all = CountContract if entry.decodes else ModelContract
    of_labels = (PredictContract,) if entry.annotates else ()
    of_input = (BadInputContract,) if bad_input else ()
    bases = (*of_labels, of_all if entry.by_epochs else InClosedForm, *of_input)
    return type(f"Test{entry.name}", bases, {"entry": entry, "__module__": __name__})
