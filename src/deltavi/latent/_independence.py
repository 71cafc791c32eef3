"""Penalty on the dependence of latent positions on the condition."""

from __future__ import annotations

import torch
from torch import Tensor

# Widths of the kernels, relative to the mean squared distance in the mini-batch: several, so that none is chosen.
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def condition_mmd(z: Tensor, condition: Tensor, label: Tensor, *, n_conditions: int, n_labels: int) -> Tensor:
    """Squared maximum mean discrepancy between the conditions of a label, averaged over pairs.

    Only cells of the same label are compared: conditions may hold labels in different shares, or lack one, and that
    is not penalised. The estimate is unbiased, so that it may be negative, and the average weights a pair of
    groups of n and m cells by n m / (n + m).

    Parameters
    ----------
    z
        ``(n_cells, n_latent)`` latent positions.
    condition, label
        ``(n_cells, 1)`` codes; cells whose label is none of ``0..n_labels-1`` are left out.
    n_conditions, n_labels
        Number of conditions and of labels.

    Returns
    -------
    Mean over the kernels, without unit, from about 0 to 2; zero where no label has two cells in each of two conditions.

    References
    ----------
    Gretton et al. (2012), A kernel two-sample test, JMLR 13; Lotfollahi et al. (2020), Bioinformatics 36 (trVAE), for
    its use between conditions.
    """
    known = label.flatten() < n_labels
    group = (label.long() * n_conditions + condition.long()).flatten()[known]
    member = torch.nn.functional.one_hot(group, n_labels * n_conditions).to(z.dtype)
    similar = _kernel(z[known])
    sizes = member.sum(0)
    sums = (member.T @ similar @ member).view(n_labels, n_conditions, n_labels, n_conditions)
    # groups of the same label: (n_labels, n_conditions, n_conditions)
    sums = torch.diagonal(sums, dim1=0, dim2=2).permute(2, 0, 1)
    n = sizes.view(n_labels, n_conditions)
    within = (torch.diagonal(sums, dim1=1, dim2=2) - n) / (n * (n - 1)).clamp_min(1)
    across = sums / (n[:, :, None] * n[:, None, :]).clamp_min(1)
    discrepancy = within[:, :, None] + within[:, None, :] - 2 * across
    weight = n[:, :, None] * n[:, None, :] / (n[:, :, None] + n[:, None, :]).clamp_min(1)
    weight = weight * ((n[:, :, None] > 1) & (n[:, None, :] > 1)) * (1 - torch.eye(n_conditions, device=z.device))
    return (weight * discrepancy).sum() / weight.sum().clamp_min(1)


def _kernel(z: Tensor) -> Tensor:
    """Mean of Gaussian kernels between all cells, ``(n_cells, n_cells)``; one on the diagonal."""
    distances = torch.cdist(z, z).square()
    # widths scale with the positions and are constants to the gradient, so that they cannot lower the penalty
    typical = distances.detach().mean().clamp_min(1e-12)
    return sum(torch.exp(-distances / (width * typical)) for width in WIDTHS) / len(WIDTHS)  # type: ignore[return-value]
