"""Metrics of an epoch, summed as it runs and read once at its end.

Lightning processes every logged value at every step, which on a small model takes as long as the model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scvi.module.base import LossOutput
from torch import Tensor


class EpochMeans:
    """Means per cell of what scvi-tools records of every mini-batch, under its names.

    Parameters
    ----------
    mode
        ``"train"`` or ``"validation"``, the end of each name.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._sums: dict[str, Tensor] = {}
        self._n_cells = 0
        self._n_batches = 0

    def add(self, output: LossOutput) -> None:
        """Add the losses of a mini-batch."""
        n_cells = output.n_obs_minibatch
        # the length of the reconstruction loss, if the module does not record it
        assert n_cells is not None
        sums: dict[str, Tensor | float] = {
            f"{self.mode}_loss": output.loss.detach() * n_cells,
            f"reconstruction_loss_{self.mode}": output.reconstruction_loss_sum,
            f"kl_local_{self.mode}": output.kl_local_sum,
            f"kl_global_{self.mode}": output.kl_global_sum,
            **{f"{key}_{self.mode}": output.extra_metrics[key] * n_cells for key in output.extra_metrics_keys},
        }
        for name, value in sums.items():
            value = value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._n_cells += n_cells
        self._n_batches += 1

    def take(
        self, n_cells_in_all: int | None, *, summed: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the means, and the bound that they sum to, and start again; empty if no mini-batch was added.

        Parameters
        ----------
        n_cells_in_all
            Cells over which a KL term of the whole data set is spread.
        summed
            Sum over processes that share an epoch; the means are then those of all of their cells.
        """
        if not self._n_batches:
            return {}
        if summed is not None:
            self._share(summed)
        of_batches = f"kl_global_{self.mode}"
        means = {
            name: value / (self._n_batches if name == of_batches else self._n_cells)
            for name, value in self._sums.items()
        }
        local = means[f"reconstruction_loss_{self.mode}"] + means[f"kl_local_{self.mode}"]
        means[f"elbo_{self.mode}"] = local + means[of_batches] / (n_cells_in_all or 1)
        self._sums, self._n_cells, self._n_batches = {}, 0, 0
        return means

    def _share(self, summed: Callable[[Tensor], Tensor]) -> None:
        """Replace sums and numbers by those of all processes."""
        counts = [self._n_cells, self._n_batches]
        mine = [*self._sums.values(), *(torch.tensor(float(count)) for count in counts)]
        device = mine[0].device
        total = summed(torch.stack([value.reshape(()).to(device, torch.float64) for value in mine]))
        *sums, n_cells, n_batches = total.unbind()
        self._sums = {
            name: value.to(before.dtype) for (name, before), value in zip(self._sums.items(), sums, strict=True)
        }
        self._n_cells, self._n_batches = int(n_cells), int(n_batches)
