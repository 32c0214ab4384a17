"""Dice plus cross-entropy in which a class that nobody looked for is never punished."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0  # In voxels; a class absent from batch and prediction has no loss and no gradient.


def annotated_classes(annotated: Iterable[frozenset[int]], num_classes: int) -> Tensor:
    """(N, K) booleans: which classes are annotated per sample; the background always is."""
    rows = [[k == 0 or k in classes for k in range(num_classes)] for classes in annotated]
    return torch.tensor(rows, dtype=torch.bool).reshape(-1, num_classes)


def merge_unknown(logits: Tensor, known: Tensor) -> Tensor:
    """Logits in which the probability of unannotated classes has moved into the background.

    Args:
        logits: (B, K, *spatial).
        known: (B, K), True where a class is annotated; the background is.

    Returns:
        (B, K, *spatial); unannotated classes have the probability 0.

    Source: marginal loss, Shi et al., Medical Image Analysis 70:101979, 2021, Eq. 4.
    """
    shape = (*known.shape, *([1] * (logits.ndim - 2)))
    unknown = ~known.reshape(shape)
    lowest = torch.finfo(logits.dtype).min / 4
    joined = unknown.clone()
    joined[:, 0] = True
    background = logits.masked_fill(~joined, lowest).logsumexp(1, keepdim=True)
    rest = logits.masked_fill(unknown, lowest)[:, 1:]
    return torch.cat([background, rest], dim=1)


def dice_ce(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """The mean of cross-entropy and 1 - soft Dice of the foreground classes, pooled by batch.

    Args:
        logits: (B, K, *spatial), float32.
        target: (B, *spatial) class index; a class that is unannotated there counts as background.
        known: (B, K), True where a class is annotated.
    """
    num_classes = logits.shape[1]
    if not bool(known.all()):
        logits = merge_unknown(logits, known)
        samples = torch.arange(len(target), device=target.device)
        samples = samples.reshape(-1, *([1] * (target.ndim - 1)))
        target = torch.where(known[samples, target], target, 0)
    log_probability = logits.log_softmax(1)
    cross_entropy = F.nll_loss(log_probability, target)
    one_hot = F.one_hot(target, num_classes).movedim(-1, 1).to(logits.dtype)
    axes = tuple(range(2, logits.ndim))
    counted = known.to(logits.dtype)
    probability = log_probability.exp()
    overlap = ((probability * one_hot).sum(axes) * counted).sum(0)
    total = ((probability.sum(axes) + one_hot.sum(axes)) * counted).sum(0)
    dice = (2 * overlap + SMOOTH) / (total + SMOOTH)
    present = known[:, 1:].any(0)
    # A product instead of an index: no synchronisation with the GPU.
    dice_loss = ((1 - dice[1:]) * present).sum() / present.sum().clamp_min(1)
    return (cross_entropy + dice_loss) / 2
