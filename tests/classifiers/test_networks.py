"""The networks that attacks, defenses and victims share."""

import pytest
import torch
from kit.tiny import one_sentence
from torch import nn

from eclipse.classifiers.classifier import CLASSIFIERS, Classifier, make_classifier
from eclipse.classifiers.densenet import densenet121
from eclipse.classifiers.resnet import BasicBlock, Bottleneck, ResNet, resnet18, resnet50
from eclipse.classifiers.vgg import vgg16, vgg19
from eclipse.errors import EclipseError


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_resnet18_has_the_published_parameters() -> None:
    assert parameters(resnet18(10)) == 11_173_962
    assert parameters(resnet18(100)) == 11_173_962 + 90 * 513
    assert parameters(resnet18(10, channels=1)) == 11_173_962 - 2 * 64 * 9


@pytest.mark.parametrize(
    ("build", "count"), [(resnet50, 23_520_842), (vgg16, 14_728_266), (vgg19, 20_040_522), (densenet121, 6_956_298)]
)
def test_the_other_networks_have_the_parameters_of_their_cifar_forms(build, count: int) -> None:  # type: ignore[no-untyped-def]
    with torch.device("meta"):
        assert parameters(build(10)) == count
        head = build(10).head.in_features
        assert parameters(build(100)) == count + 90 * (head + 1)


@pytest.mark.parametrize(("name", "count"), [("resnet18", 11_181_642), ("resnet50", 23_528_522)])
def test_large_images_meet_the_stem_of_imagenet(name: str, count: int) -> None:
    network = make_classifier(name, 10, side=224).eval()
    assert parameters(network) == count, "a 7x7 convolution in place of a 3x3 one"
    assert network.stem(torch.rand(1, 3, 96, 128)).shape == (1, 64, 24, 32)


def test_densenet_has_the_stem_of_imagenet_for_large_images() -> None:
    large, small = (make_classifier("densenet121", 10, side=side).layers[0].eval() for side in (96, 95))
    assert large(torch.rand(1, 3, 96, 96)).shape == (1, 64, 24, 24)
    assert small(torch.rand(1, 3, 95, 95)).shape == (1, 64, 95, 95)


def test_a_bottleneck_adds_its_shortcut() -> None:
    block = Bottleneck(16, 4, stride=1).eval()
    nn.init.zeros_(block.third[1].weight)
    x = torch.randn(2, 16, 6, 6)
    assert torch.equal(block(x), x.relu())
    assert Bottleneck(16, 8, stride=2)(x).shape == (2, 32, 3, 3)


@pytest.mark.parametrize(("name", "least"), [("small", 16), ("vgg16", 32), ("vgg19", 32)])
def test_images_that_are_too_small_are_refused(name: str, least: int) -> None:
    with pytest.raises(EclipseError) as caught:
        make_classifier(name, 10, side=least - 1)
    assert f"images of {least - 1} pixels a side" in one_sentence(caught.value)


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
    network = ResNet(BasicBlock, (1, 1, 1, 1), 10, 3, 32).eval()
    maps: list[torch.Tensor] = []
    network.layers.register_forward_hook(lambda module, inputs, output: maps.append(output))
    embedding = network.embed(torch.rand(2, 3, 17, 32))
    assert torch.allclose(embedding, maps[0].flatten(2).mean(2))
    assert maps[0].shape == (2, 512, 3, 4)


@pytest.mark.parametrize("name", CLASSIFIERS.names())
@pytest.mark.parametrize(("num_classes", "channels"), [(2, 4), (100, 1)])
def test_every_classifier_has_the_logits_and_channels_that_it_is_asked_for(
    name: str, num_classes: int, channels: int
) -> None:
    network = make_classifier(name, num_classes, channels).eval()
    assert isinstance(network, Classifier)
    x = torch.rand(1, channels, 32, 32)
    embedding = network.embed(x)
    assert embedding.shape == (1, network.head.in_features)
    logits = network(x)
    assert torch.equal(logits, network.head(embedding)) and logits.shape == (1, num_classes)


@pytest.mark.parametrize("name", CLASSIFIERS.names())
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
