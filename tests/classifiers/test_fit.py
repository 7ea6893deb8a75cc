from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import one_sentence, some_images
from torch import Tensor, nn
from torch.nn import functional as F

from eclipse.classifiers.fit import RECIPES, SCHEDULES, Epoch, Recipe, accuracy, crop_and_flip, fit
from eclipse.classifiers.small import SmallNet
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.purification.compensation import Compensate

QUICK = Recipe(epochs=2, batch=8, lr=0.05, pad=2)


def labelled(n: int = 20, size: int = 16, channels: int = 3) -> ImageSet:
    return ImageSet.from_arrays(some_images(n, size, size)[:, :channels], np.arange(n) % 3)


def separable(n: int, seed: int) -> ImageSet:
    """Three classes of images, each with a bright quarter of its own in noise."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 120, (n, 3, 16, 16))
    labels = np.arange(n) % 3
    for label, (top, left) in enumerate([(0, 0), (0, 8), (8, 0)]):
        images[labels == label, label, top : top + 8, left : left + 8] += 100
    return ImageSet.from_arrays(images.astype(np.uint8), labels)


class Linear(nn.Module):
    """The smallest network there is, which keeps the batches that it saw."""

    def __init__(self, inputs: int = 3 * 16 * 16, num_classes: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, num_classes)
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(x.detach().clone())
        logits: Tensor = self.layer(x.flatten(1))
        return logits


def trained(seed: int = 0, recipe: Recipe = QUICK, **options: Any) -> tuple[SmallNet, list[Epoch]]:
    torch.manual_seed(0)
    network = SmallNet(3)
    return network, list(fit(network, labelled(), recipe, seed=seed, **options))


def weights(network: nn.Module) -> bytes:
    return b"".join(w.contiguous().numpy().tobytes() for w in network.state_dict().values())


# The network


@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (32, 32), (33, 17)])
def test_small_net_gives_a_logit_a_class(num_classes: int, channels: int, size: tuple[int, int]) -> None:
    network = SmallNet(num_classes, channels)
    x = torch.rand(2, channels, *size)
    assert network(x).shape == (2, num_classes)
    assert network.embed(x).shape == (2, 192)


def test_small_net_is_small() -> None:
    assert sum(p.numel() for p in SmallNet(10).parameters()) < 500_000


def test_small_net_says_which_sizes_it_takes() -> None:
    with pytest.raises(EclipseError) as caught:
        SmallNet(10)(torch.rand(1, 3, 32, 15))
    assert "images of 15 pixels a side; this network takes 16 and up" in one_sentence(caught.value)


# Training


def test_a_separable_set_is_learned() -> None:
    torch.manual_seed(0)
    network = SmallNet(3)
    recipe = Recipe(epochs=4, batch=16, lr=0.05, pad=1, flip=False)
    epochs = list(fit(network, separable(96, seed=0), recipe, seed=0))
    assert accuracy(network, separable(60, seed=1)) > 0.9
    assert epochs[-1].train_accuracy > 0.9 > epochs[0].train_accuracy
    assert epochs[-1].loss < 0.5 * epochs[0].loss


def test_the_seed_decides_the_weights_whatever_else_is_drawn() -> None:
    torch.manual_seed(0)
    network = SmallNet(3)
    for _ in fit(network, labelled(), QUICK, seed=0, augment=lambda x, y: (Compensate()(x), y)):
        torch.rand(7)  # a caller's own draws between epochs
    same, _ = trained(augment=lambda x, y: (Compensate()(x), y))
    other, _ = trained(seed=1, augment=lambda x, y: (Compensate()(x), y))
    assert weights(network) == weights(same) != weights(other)


def test_training_leaves_torchs_generator_alone() -> None:
    network, generator = SmallNet(3), torch.get_rng_state()
    list(fit(network, labelled(), QUICK, seed=0))
    assert torch.equal(torch.get_rng_state(), generator)


def test_epochs_are_told_as_they_end() -> None:
    _, epochs = trained(recipe=replace(QUICK, epochs=3))
    assert [e.epoch for e in epochs] == [1, 2, 3]
    assert all(e.loss > 0 and 0 <= e.train_accuracy <= 1 and e.images_per_s > 0 for e in epochs)


def test_loss_and_accuracy_of_an_epoch_are_means_over_its_batches() -> None:
    network, data = Linear(), labelled(24)
    (epoch,) = fit(network, data, Recipe(epochs=1, batch=8, lr=1e-12, pad=0, flip=False), seed=0)
    x = torch.from_numpy(data.images).float() / 255
    y = torch.from_numpy(data.require_labels("a test"))
    logits = network(x)
    assert epoch.loss == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-4)
    assert epoch.train_accuracy == pytest.approx((logits.argmax(1) == y).float().mean().item())


def test_the_network_is_in_evaluation_mode_whenever_the_caller_has_it() -> None:
    network = SmallNet(3).train()
    modes: list[bool] = []

    def note(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        modes.append(network.training)
        return x, y

    for _ in fit(network, labelled(), QUICK, seed=0, augment=note):
        assert not network.training
    assert modes == [True] * 4


@pytest.mark.parametrize(("batch", "sizes"), [(8, [8, 8]), (20, [20]), (64, [20]), (11, [11])])
def test_the_last_images_of_an_epoch_that_fill_no_batch_are_left_out(batch: int, sizes: list[int]) -> None:
    network, seen = Linear(), []

    def note(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(x))
        return x, y

    list(fit(network, labelled(), replace(QUICK, batch=batch), seed=0, augment=note))
    assert seen == sizes * 2
    assert [len(x) for x in network.batches] == sizes * 2


def test_an_epoch_visits_each_image_once_in_an_order_of_its_own() -> None:
    images = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None, None, None], (16, 3, 4, 4))
    network = Linear(48)
    recipe = Recipe(epochs=2, batch=8, lr=0.1, pad=0)
    list(fit(network, ImageSet.from_arrays(images, np.arange(16) % 3), recipe, seed=0))
    visited = (torch.cat(network.batches)[:, 0, 0, 0] * 255).round().int().view(2, 16)
    assert visited.sort(1).values.tolist() == [list(range(16))] * 2
    assert visited[0].tolist() != visited[1].tolist()


def test_augment_sees_every_batch_and_the_network_sees_its_result() -> None:
    network, seen = Linear(), []

    def invert(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        assert x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1
        seen.append(1 - x)
        return 1 - x, y

    list(fit(network, labelled(), QUICK, seed=0, augment=invert))
    assert len(seen) == len(network.batches) == 4
    for given, got in zip(seen, network.batches, strict=True):
        assert torch.equal(given, got)


def test_augment_may_mix_labels() -> None:
    def soften(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, 0.9 * F.one_hot(y, 3).float() + 0.1 / 3

    hard, soft = (list(fit(Linear(), labelled(), QUICK, seed=0, augment=hook)) for hook in (None, soften))
    assert all(0 <= e.train_accuracy <= 1 for e in soft)
    assert hard[0].loss != soft[0].loss


def test_learning_rate_schedules_are_what_their_names_say() -> None:
    assert {SCHEDULES["constant"](p / 10) for p in range(11)} == {1.0}
    cosine = [SCHEDULES["cosine"](p / 4) for p in range(5)]
    assert cosine == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0])
    triangle = [SCHEDULES["triangle"](p / 10) for p in range(11)]
    assert triangle == pytest.approx([0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0])


def test_the_learning_rate_follows_its_schedule_over_all_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def note(self: torch.optim.SGD, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", note)
    list(fit(Linear(), labelled(), replace(QUICK, epochs=5, schedule="triangle"), seed=0))
    assert rates == pytest.approx([0.05 * SCHEDULES["triangle"](i / 10) for i in range(10)])


def test_the_papers_recipe_is_the_papers() -> None:
    assert RECIPES["paper"] == Recipe(80, 128, 0.1, 0.9, 0.0, False, "constant", 4, True)


@pytest.mark.filterwarnings("error")
def test_training_does_not_write_into_the_data() -> None:
    data = labelled()
    for array in (data.images, data.require_labels("a test")):
        array.setflags(write=False)
    before = data.fingerprint()
    network, _ = trained()
    list(fit(network, data, QUICK, seed=0))
    accuracy(network, data)
    assert data.fingerprint() == before


# Crop and flip


def coordinates(n: int) -> Tensor:
    """Images whose pixels know their row and column, counted from 1; 0 is outside."""
    y, x = torch.meshgrid(torch.arange(1, 6), torch.arange(1, 8), indexing="ij")
    return torch.stack([y, x]).to(torch.uint8).expand(n, 2, 5, 7)


def places(images: Tensor, pad: int) -> Iterator[tuple[int, int, bool]]:
    """The shift and mirroring of each image; an image that is anything else is found out."""
    padded = F.pad(coordinates(1), (pad, pad, pad, pad))[0]
    windows = {
        (top, left, mirrored): window.flip(2) if mirrored else window
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
        for window in [padded[:, top : top + 5, left : left + 7]]
        for mirrored in (False, True)
    }
    for image in images:
        (found,) = [place for place, window in windows.items() if torch.equal(window, image)]
        yield found


@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_only_shift_into_zeros_and_mirror(pad: int, flip: bool) -> None:
    out = crop_and_flip(coordinates(1000), pad, flip)
    assert (out.dtype, out.shape) == (torch.uint8, (1000, 2, 5, 7))
    found = list(places(out, pad))
    tops, lefts, mirrored = (list(values) for values in zip(*found, strict=True))
    for shifts in (tops, lefts):
        counts = np.bincount(shifts, minlength=2 * pad + 1)
        assert counts.min() > 0.7 * 1000 / (2 * pad + 1)
    assert 0.42 < np.mean(mirrored) < 0.58 if flip else not any(mirrored)
    if pad:
        assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.15


def test_no_crop_and_no_flip_leave_images_as_they_are() -> None:
    assert torch.equal(crop_and_flip(coordinates(3), 0, False), coordinates(3))


# Measuring


class Reader(nn.Module):
    """Says the class that is written in the first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot((x[:, 0, 0, 0] * 255).round().long(), 10).float()


@pytest.mark.parametrize("batch", [1, 4, 7, 500])
def test_accuracy_is_the_share_of_hits(batch: int) -> None:
    images = np.zeros((7, 3, 4, 4), np.uint8)
    images[:, 0, 0, 0] = [0, 1, 2, 3, 4, 5, 6]
    test = ImageSet.from_arrays(images, [0, 1, 2, 9, 9, 9, 6])
    assert accuracy(Reader(), test, batch=batch) == pytest.approx(4 / 7)


@pytest.mark.parametrize("training", [True, False])
def test_accuracy_is_measured_in_evaluation_mode_and_changes_nothing(training: bool) -> None:
    network = SmallNet(3).train(training)
    before = weights(network)
    first = accuracy(network, labelled())
    assert accuracy(network, labelled(), batch=3) == first
    assert network.training is training
    assert weights(network) == before


# Mistakes


def test_labels_are_required() -> None:
    unlabelled = ImageSet.from_arrays(some_images(4, 16, 16))
    for call, words in (
        (lambda: next(fit(SmallNet(3), unlabelled, QUICK, seed=0)), "training a victim needs labels"),
        (lambda: accuracy(SmallNet(3), unlabelled), "measuring accuracy needs labels"),
    ):
        with pytest.raises(EclipseError) as caught:
            call()
        assert words in one_sentence(caught.value)


def test_one_image_is_too_few() -> None:
    with pytest.raises(EclipseError) as caught:
        next(fit(SmallNet(3), labelled(1), QUICK, seed=0))
    assert "1 training images; expected at least 2" in one_sentence(caught.value)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(EclipseError) as caught:
        replace(QUICK, schedule="triangel")
    assert "unknown learning rate schedule 'triangel'; did you mean 'triangle'?" in one_sentence(caught.value)
