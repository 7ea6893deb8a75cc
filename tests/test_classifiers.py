"""The networks that attacks, defenses and victims share."""

import pytest
import torch
from tiny import one_sentence
from torch import nn

from eclipse.errors import EclipseError
from eclipse.victims.classifier import CLASSIFIERS, Classifier, make_classifier
from eclipse.victims.resnet import BasicBlock, ResNet, resnet18


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_resnet18_has_the_published_parameters() -> None:
    assert parameters(resnet18(10)) == 11_173_962
    assert parameters(resnet18(100)) == 11_173_962 + 90 * 513
    assert parameters(resnet18(10, channels=1)) == 11_173_962 - 2 * 64 * 9


def test_resnet18_keeps_full_resolution_until_its_second_stage() -> None:
    sizes: list[tuple[int, ...]] = []
    network = resnet18(10).eval()
    for block in network.layers:
        block.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[1:])))
    network(torch.rand(1, 3, 32, 32))
    assert sizes == [(64, 32, 32)] * 2 + [(128, 16, 16)] * 2 + [(256, 8, 8)] * 2 + [(512, 4, 4)] * 2


def test_a_block_adds_its_shortcut() -> None:
    block = BasicBlock(4, 4, stride=1).eval()
    nn.init.zeros_(block.second[1].weight)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x.relu()), "a silent path leaves the shortcut"
    assert isinstance(block.shortcut, nn.Identity)
    assert BasicBlock(4, 8, stride=1)(x).shape == (2, 8, 6, 6)
    assert BasicBlock(4, 4, stride=2)(x).shape == (2, 4, 3, 3)


def test_the_embedding_of_a_resnet_is_the_mean_over_places() -> None:
    network = ResNet((1, 1, 1, 1), 10).eval()
    maps: list[torch.Tensor] = []
    network.layers.register_forward_hook(lambda module, inputs, output: maps.append(output))
    embedding = network.embed(torch.rand(2, 3, 17, 32))
    assert torch.allclose(embedding, maps[0].flatten(2).mean(2))
    assert maps[0].shape == (2, 512, 3, 4)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("num_classes", [2, 100])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_classifier_has_the_logits_and_channels_that_it_is_asked_for(
    name: str, num_classes: int, channels: int
) -> None:
    network = make_classifier(name, num_classes, channels).eval()
    assert isinstance(network, Classifier)
    x = torch.rand(2, channels, 16, 16)
    embedding = network.embed(x)
    assert embedding.shape == (2, network.head.in_features)
    assert torch.equal(network(x), network.head(embedding)) and network(x).shape == (2, num_classes)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_weights_of_a_classifier_come_from_torchs_generator(name: str) -> None:
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(torch.cat([p.detach().flatten() for p in make_classifier(name, 3).parameters()]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_an_unknown_classifier_is_refused() -> None:
    with pytest.raises(EclipseError) as caught:
        make_classifier("resnet-18", 10)
    assert "unknown classifier 'resnet-18'; did you mean 'resnet18'?" in one_sentence(caught.value)
