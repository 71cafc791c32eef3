"""Choice of the contract that fits a model, by what its entry declares."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData

from deltavi.testing._contract import ModelContract
from deltavi.testing._count_contract import CountContract
from deltavi.testing._predict_contract import PredictContract
from deltavi.testing._small_model import SmallModel


class InClosedForm(CountContract):
    """A model without steps: what is about epochs, seeds of training and batches does not concern it."""

    test_same_seed_same_model_other_seed_another = None
    test_early_stopping_watches_the_objective_at_its_final_weight = None
    test_users_callbacks_are_kept = None
    test_a_senseless_number_of_epochs_is_refused = None
    test_query_mapping_learns_a_new_batch = None
    test_query_mapping_needs_a_trained_model = None
    test_an_unseen_batch_is_averaged_with_a_warning = None

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


def contract_of(entry: SmallModel) -> type[ModelContract]:
    """The contract that what an entry can do asks for, as a class of tests."""
    of_all = CountContract if entry.decodes else ModelContract
    of_labels = (PredictContract,) if entry.annotates else ()
    bases = (*of_labels, of_all if entry.by_epochs else InClosedForm)
    return type(f"Test{entry.name}", bases, {"entry": entry, "__module__": __name__})
