"""What attacks want a trained surrogate to say or to see, and the crafting of all rows towards it."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eclipse.attacks.crafting.surrogate import craft_rows, row_groups
from eclipse.classifiers.classifier import Classifier
from eclipse.classifiers.fit import unit_rows
from eclipse.classifiers.pgd import PGD, Loss, Transform, pgd
from eclipse.data.imageset import ImageSet
from eclipse.runs.state import Work


def feature_distance(network: Classifier, goals: Tensor) -> Loss:
    """The mean squared distance of each image's embedding to its goal, (B, F)."""
    return lambda x: (network.embed(x) - goals).square().mean(1)


def present_classes(clean: ImageSet, device: str) -> tuple[Tensor, Tensor]:
    """The labels that occur in a set, in order, and the position of each row's label among them, (N,).

    A slice of a data set may lack classes; a surrogate knows nothing of them, so they are no targets.
    """
    labels = torch.tensor(clean.require_labels("an attack"), device=device)
    classes, own = torch.unique(labels, return_inverse=True)
    return classes, own


@torch.no_grad()
def centroids(network: Classifier, clean: ImageSet, device: str) -> Tensor:
    """The mean embedding of each class that the set has, (classes, F); the network should be in evaluation mode."""
    classes, own = present_classes(clean, device)
    member = F.one_hot(own, len(classes)).double()
    sums = torch.zeros(len(classes), network.head.in_features, dtype=torch.float64, device=device)
    for rows in row_groups(clean):
        # A product of matrices, because index_add is not deterministic on a GPU.
        sums += member[rows].T @ network.embed(unit_rows(clean, rows, device)).double()
    return (sums / member.sum(0)[:, None]).float()


def craft_pgd(
    clean: ImageSet,
    work: Work,
    objective: Callable[[slice], Loss],
    how: PGD,
    *,
    transform: Transform | None = None,
    stage: str = "noise",
) -> NDArray[np.float16]:
    """Optimize the noise of all images by PGD, from a slice of the rows to their loss; see ``craft_rows``."""

    def craft(rows: slice) -> Tensor:
        return pgd(unit_rows(clean, rows, work.device), objective(rows), how, transform=transform)

    return craft_rows(clean, work, craft, stage=stage)
