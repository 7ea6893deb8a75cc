import json
import math
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import golden
from kit.reference_unet import Weights, improved_unet
from torch import Tensor, nn

from eclipse.diffusion import checkpoint
from eclipse.diffusion.checkpoint import load_denoiser, save_denoiser
from eclipse.diffusion.denoiser import Denoiser, DenoiserConfig, build_denoiser, describe
from eclipse.diffusion.improved_diffusion import import_checkpoint
from eclipse.diffusion.presets import PRESETS
from eclipse.diffusion.schedule import NoiseSchedule
from eclipse.errors import EclipseError

TINY = DenoiserConfig(
    architecture="unet",
    options={"channels": 32, "multipliers": [1, 1], "blocks": 1, "attention": [1], "dropout": 0.3},
    schedule=NoiseSchedule("cosine", 4000),
    learned_variance=True,
    t_max=500,
    image_size=8,
    preset="paper",
    trained={"iterations": 3, "images": 50},
)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.target,)


class Recorder(nn.Module):
    """A network that keeps its last arguments and returns fixed numbers of channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.channels = channels

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        self.x, self.time = x, time
        return self.scale * torch.arange(self.channels).view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])


def tiny() -> Denoiser:
    """A small denoiser whose weights are all random: fresh ones are zero where it matters."""
    denoiser = build_denoiser(TINY).eval()
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    return denoiser


def predict(denoiser: Denoiser) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    with torch.inference_mode():
        x = torch.randn(2, 3, 8, 8, generator=generator)
        return torch.cat([p for p in denoiser(x, torch.tensor([0, 99])) if p is not None], 1)


# The network


def test_paper_preset_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        denoiser = build_denoiser(PRESETS["paper"].denoiser)
    assert sum(p.numel() for p in denoiser.parameters()) == 52_546_438


def test_fresh_residual_branches_and_outputs_are_zero() -> None:
    denoiser = build_denoiser(TINY)
    zero = {name for name, p in denoiser.network.named_parameters() if name.endswith("weight") and not p.any()}
    residual = [name for name in dict(denoiser.named_modules()) if name.split(".")[-1] == "conv2"]
    attention = [name for name in dict(denoiser.named_modules()) if name.endswith("to_out.0")]
    assert zero == {f"{name.removeprefix('network.')}.weight" for name in [*residual, *attention]} | {
        "unet.conv_out.weight"
    }
    assert not predict(denoiser.eval()).any()


def test_dropout_works_in_training_only() -> None:
    denoiser = tiny()
    assert torch.equal(predict(denoiser), predict(denoiser))
    denoiser.train()
    assert not torch.equal(predict(denoiser), predict(denoiser))


def test_network_sees_the_index_as_a_float_on_a_scale_of_1000() -> None:
    network = Recorder(6)
    Denoiser(TINY, network)(torch.zeros(3, 3, 8, 8), torch.tensor([99, 57, 0]))
    assert network.time.dtype == torch.float32
    assert network.time.tolist() == [24.75, 14.25, 0.0]


def test_second_half_of_the_channels_is_the_variance() -> None:
    eps, v = Denoiser(TINY, Recorder(6))(torch.zeros(1, 3, 8, 8), torch.tensor([0]))
    assert v is not None
    assert eps[0, :, 0, 0].tolist() == [0, 1, 2]
    assert v[0, :, 0, 0].tolist() == [3, 4, 5]


def test_denoiser_without_learned_variance_predicts_none() -> None:
    plain = replace(TINY, learned_variance=False)
    assert Denoiser(plain, Recorder(3))(torch.zeros(1, 3, 8, 8), torch.tensor([0])).v is None
    with pytest.raises(EclipseError, match="gives 6 channels for images of 3; expected 3"):
        Denoiser(plain, Recorder(6))(torch.zeros(1, 3, 8, 8), torch.tensor([0]))


def test_half_precision_network_predicts_in_float32() -> None:
    network = Recorder(6).bfloat16()
    prediction = Denoiser(TINY, network)(torch.zeros(1, 3, 8, 8), torch.tensor([99]))
    assert prediction.eps.dtype == torch.float32
    assert network.x.dtype == torch.bfloat16
    assert network.time.dtype == torch.float32


@pytest.mark.parametrize("size", [(8, 9), (16, 16), (1, 1)])
def test_images_of_another_size_are_refused(size: tuple[int, int]) -> None:
    message = f"images of {size[0]}x{size[1]}; this denoiser takes 8x8 only: resize the images"
    with pytest.raises(EclipseError, match=message):
        build_denoiser(TINY)(torch.zeros(1, 3, *size), torch.tensor([0]))


def test_unet_of_any_size_refuses_sizes_that_do_not_halve() -> None:
    with pytest.raises(EclipseError, match="images of 8x7; the U-Net takes multiples of 2"):
        build_denoiser(replace(TINY, image_size=None))(torch.zeros(1, 3, 8, 7), torch.tensor([0]))


def test_noise_above_the_trained_levels_is_refused() -> None:
    TINY.check_index(499)
    with pytest.raises(EclipseError, match=r"noise level 31\.\d/255; .* levels up to 26\.\d/255"):
        TINY.check_index(599)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "umet"}, "unknown architecture 'umet'; did you mean 'unet'"),
        ({"t_max": 0}, "t_max = 0; expected 1 to the schedule's T = 4000"),
        ({"t_max": 4001}, "t_max = 4001"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EclipseError, match=message):
        replace(TINY, **change)


def test_channels_that_do_not_divide_into_groups_and_heads_are_refused() -> None:
    with pytest.raises(EclipseError, match="U-Net of 48 channels; expected a multiple of 32"):
        build_denoiser(replace(TINY, options={"channels": 48}))


def test_description_tells_what_people_ask() -> None:
    facts = describe(build_denoiser(TINY))
    assert facts["parameters"] == sum(p.numel() for p in build_denoiser(TINY).parameters())
    assert facts["schedule"] == "cosine, T = 4000"
    assert facts["image size"] == "8x8"
    assert str(facts["noise levels"]).startswith("0.4/255 to 26.")
    assert facts["iterations"] == 3
    json.dumps(facts)


# Saving and loading


def test_saved_denoiser_comes_back_the_same(tmp_path: Path) -> None:
    denoiser = tiny().to(memory_format=torch.channels_last)
    save_denoiser(denoiser, tmp_path / "new" / "denoiser")
    loaded = load_denoiser(tmp_path / "new" / "denoiser")
    assert loaded.config == TINY
    assert not loaded.training
    for name, tensor in denoiser.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["denoiser"]


def test_fast_preset_comes_back_the_same(tmp_path: Path) -> None:
    denoiser = build_denoiser(PRESETS["fast"].denoiser)
    save_denoiser(denoiser, tmp_path / "d")
    loaded = load_denoiser(tmp_path / "d")
    assert loaded.config == denoiser.config
    assert torch.equal(predict(loaded), predict(denoiser.eval()))


def test_saving_replaces_an_older_denoiser(tmp_path: Path) -> None:
    save_denoiser(tiny(), tmp_path / "d")
    newer = tiny()
    save_denoiser(newer, tmp_path / "d")
    assert torch.equal(predict(load_denoiser(tmp_path / "d")), predict(newer))
    assert [f.name for f in tmp_path.iterdir()] == ["d"]


def test_a_full_disk_leaves_the_older_denoiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = tiny()
    save_denoiser(older, tmp_path / "d")

    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EclipseError, match=r"cannot write the denoiser to .*No space left on device"):
        save_denoiser(tiny(), tmp_path / "d")
    assert torch.equal(predict(load_denoiser(tmp_path / "d")), predict(older))
    assert [f.name for f in tmp_path.iterdir()] == ["d"]


def test_a_killed_save_is_cleaned_up_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    older = tiny()
    save_denoiser(older, tmp_path / "d")
    with monkeypatch.context() as patch:
        patch.setattr(os, "sync", killed)
        with pytest.raises(KeyboardInterrupt):
            save_denoiser(tiny(), tmp_path / "d")
    assert torch.equal(predict(load_denoiser(tmp_path / "d")), predict(older))
    save_denoiser(older, tmp_path / "d")
    assert [f.name for f in tmp_path.iterdir()] == ["d"]


def test_folders_and_files_of_others_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    for place in (tmp_path, tmp_path / "photo.png"):
        with pytest.raises(EclipseError, match="holds more than a denoiser"):
            save_denoiser(tiny(), place)
    with pytest.raises(EclipseError, match="cannot write the denoiser"):
        save_denoiser(tiny(), tmp_path / "photo.png" / "d")
    assert [f.name for f in tmp_path.iterdir()] == ["photo.png"]


def broken(folder: Path, change: Callable[[Path], object]) -> Path:
    save_denoiser(tiny(), folder)
    change(folder)
    return folder


def edit(**fields: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | fields
        (folder / "config.json").write_text(json.dumps(config))

    return change


def flip(folder: Path) -> None:
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)


def poke(folder: Path) -> None:
    denoiser = load_denoiser(folder)
    next(denoiser.parameters()).fill_(math.nan)
    save_denoiser(denoiser, folder)


def without(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        del config[name]
        (folder / "config.json").write_text(json.dumps(config))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.rename(d.with_name("elsewhere")), "cannot read .*config.json: No such file"),
        (lambda d: (d / "config.json").unlink(), "cannot read .*config.json: No such file"),
        (lambda d: (d / "model.safetensors").unlink(), "cannot read .*model.safetensors: No such file"),
        (lambda d: (d / "config.json").write_text("{"), "config.json is not the config of a denoiser"),
        (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), "config.json is not the config of a denoiser"),
        (lambda d: (d / "config.json").write_text("[]"), "config.json is not the config of a denoiser"),
        (without("t_max"), "config.json is not the config of a denoiser .*it has no 't_max'"),
        *((edit(image_size=size), f"image size {size}; expected 1 to 8192") for size in (10**30, -1, 0)),
        (edit(t_max="many"), "config.json is not the config of a denoiser .*'t_max' is 'many'"),
        (edit(schedule={"name": "cosine", "S": 1}), "config.json is not the config of a denoiser"),
        (edit(architecture="os:system"), "unknown architecture 'os:system'"),
        (edit(options={"channels": 64, "multipliers": [1, 1], "blocks": 1}), "is of shape .*, expected"),
        (edit(options={"channels": 32, "multipliers": [1], "blocks": 1}), "has an unknown tensor"),
        (edit(options={"channels": 32, "multipliers": [1, 1, 1], "blocks": 1}), "has no tensor"),
        (edit(options={"channels": 32, "multipliers": [1, 1], "blocks": 10**12}), "has no tensor for each parameter"),
        (edit(options={"channels": 32 * 10**4, "multipliers": [1, 1], "blocks": 1}), "is of shape .*, expected"),
        (edit(options={"channels": 32, "multipliers": [1] * 5000}), "more than 4096 characters"),
        (edit(schedule={"name": "cosine", "T": 10**9}), "T = 1000000000 steps; expected 2 to 100,000"),
        (edit(schedule={"name": "linear", "T": 4000.5}), "T = 4000.5 steps; expected"),
        (lambda d: (d / "config.json").write_text("[" * 10**5), "config.json is not the config of a denoiser"),
        (edit(options={"width": 32}), "its options do not make a 'unet' network"),
        (edit(options={"channels": "wide"}), "its options do not make a 'unet' network"),
        (lambda d: (d / "model.safetensors").write_text("hello"), "is not a safetensors file"),
        (lambda d: (d / "model.safetensors").write_bytes(b""), "is not a safetensors file"),
        (flip, "is damaged or belongs to another config.json"),
        (poke, "holds values that are not finite"),
    ],
)
def test_damaged_denoisers_are_refused(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    with pytest.raises(EclipseError, match=message) as caught:
        load_denoiser(broken(tmp_path / "d", change))
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    folder = broken(tmp_path / "d", lambda d: (d / checkpoint.WEIGHTS).write_bytes(pickle.dumps(Bomb(trace))))
    with pytest.raises(EclipseError, match="is not a safetensors file"):
        load_denoiser(folder)
    assert not trace.exists()


# Import of improved-diffusion checkpoints


def test_import_reads_the_network_off_the_weights(checkpoint: Path) -> None:
    denoiser = import_checkpoint(checkpoint)
    assert sum(p.numel() for p in denoiser.parameters()) == 1_679_782
    assert denoiser.config.image_size == 32
    assert denoiser.config.learned_variance
    assert denoiser.config.t_max == denoiser.config.schedule.T == 4000
    assert denoiser.config.options == golden.OPTIONS


def test_imported_denoiser_survives_saving(checkpoint: Path, tmp_path: Path) -> None:
    denoiser = import_checkpoint(checkpoint)
    save_denoiser(denoiser, tmp_path / "d")
    loaded = load_denoiser(tmp_path / "d")
    assert loaded.config == denoiser.config
    assert all(torch.equal(a, b) for a, b in zip(denoiser.parameters(), loaded.parameters(), strict=True))


OTHERS = [
    # widths differ between the levels with attention, as in improved-diffusion's network for 64x64
    {"channels": 32, "multipliers": [1, 2, 3], "blocks": 2, "attention": [1, 2], "heads": 4},
    # one head, attention at full resolution, gray images, no learned variance
    {"channels": 32, "multipliers": [1, 1], "blocks": 1, "attention": [0], "heads": 1, "image": (1, 1)},
]


def drawn(options: dict[str, Any]) -> tuple[Weights, dict[str, Any]]:
    """A random checkpoint of an architecture, and the full options."""
    image = options.get("image", (3, 6))
    full = {k: v for k, v in options.items() if k != "image"}
    full |= {"in_channels": image[0], "out_channels": image[1]}
    weights = Weights()
    improved_unet(weights, torch.randn(1, image[0], 16, 16), torch.zeros(1), **full)
    return weights, full


@torch.inference_mode()
def test_reference_unet_is_improved_diffusions() -> None:
    reference = golden.results()
    output = improved_unet(golden.weights(), reference["x_t"], golden.STEPS / 4, **golden.OPTIONS)
    torch.testing.assert_close(output, reference["model_output"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", OTHERS)
@torch.inference_mode()
def test_import_of_other_sizes_equals_the_reference(tmp_path: Path, options: dict[str, Any]) -> None:
    weights, full = drawn(options)
    torch.save(dict(weights), tmp_path / "ema.pt")
    denoiser = import_checkpoint(tmp_path / "ema.pt", heads=full["heads"], image_size=16)
    assert denoiser.config.options == full
    assert denoiser.config.learned_variance == (full["out_channels"] == 6)
    x, t = torch.randn(2, full["in_channels"], 16, 16), torch.tensor([99, 3])
    output = torch.cat([part for part in denoiser(x, t) if part is not None], 1)
    torch.testing.assert_close(output, improved_unet(weights, x, t / 4, **full), rtol=1e-4, atol=1e-4)


def test_half_precision_checkpoints_are_imported_in_float32(tmp_path: Path) -> None:
    torch.save({k: v.half() for k, v in golden.weights().items()}, tmp_path / "half.pt")
    denoiser = import_checkpoint(tmp_path / "half.pt")
    assert {p.dtype for p in denoiser.parameters()} == {torch.float32}


def drop(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


def put(name: str, *shape: int, value: float = 0.0) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors | {name: torch.full(shape, value)}


def wide(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Few values, of a network of petabytes."""
    empty = {f"input_blocks.{row}.0.in_layers.2.weight": torch.zeros(32 * 10**6, 0, 1, 1) for row in (1, 3, 5, 7)}
    return tensors | empty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("middle_block.1.qkv.bias"), "it has no tensor 'middle_block.1.qkv.bias'"),
        (drop("out.2.weight"), "it has no convolution 'out.2.weight'"),
        (drop("input_blocks.3.0.in_layers.2.weight"), r"the blocks of its levels have .*\[\]\]"),
        (drop("input_blocks.3.1.qkv.weight"), "it has an unknown tensor 'input_blocks.3.1.norm.bias'"),
        (put("label_emb.weight", 10, 128), "it has an unknown tensor 'label_emb.weight'"),
        (put("middle_block.1.qkv.weight", 190, 64, 1), "'middle_block.1.qkv.weight' has the wrong shape"),
        (put("input_blocks.1.0.emb_layers.1.weight", 32, 128), "'input_blocks.1.0.emb_layers.1.weight' has the wrong"),
        (put("input_blocks.0.0.weight", 0, 3, 3, 3), "its first convolution is empty"),
        (wide, "it has an unknown tensor 'input_blocks.3.0.skip_connection.bias'"),
        (put("out.2.weight", 5, 32, 3, 3), "it gives 5 channels for 3"),
        (put("out.0.bias", 32, value=math.inf), "'out.0.bias' has the wrong shape or values that are not finite"),
        (lambda tensors: {"state_dict": tensors}, "it holds something else than named tensors"),
        (lambda tensors: list(tensors.values()), "it holds something else than named tensors"),
        (lambda tensors: {}, "it has no convolution 'input_blocks.0.0.weight'"),
        (lambda tensors: TINY.options, "it holds something else than named tensors"),
    ],
)
def test_other_checkpoints_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    torch.save(change(dict(golden.weights())), tmp_path / "other.pt")
    with pytest.raises(EclipseError, match=message) as caught:
        import_checkpoint(tmp_path / "other.pt")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_checkpoints_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no tensors here")
    (tmp_path / "half.pt").write_bytes(checkpoint.read_bytes()[:1_000_000])
    for name in ("notes.txt", "half.pt"):
        with pytest.raises(EclipseError, match="it holds code, or is no PyTorch file"):
            import_checkpoint(tmp_path / name)
    for missing in (tmp_path / "missing.pt", tmp_path):
        with pytest.raises(EclipseError, match="cannot read"):
            import_checkpoint(missing)


@pytest.mark.parametrize("save", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, save: Callable[[object, Path], object]) -> None:
    trace = tmp_path / "trace"
    save({"weights": Bomb(trace)}, tmp_path / "ema.pt")
    with pytest.raises(EclipseError, match="it holds code"):
        import_checkpoint(tmp_path / "ema.pt")
    assert not trace.exists()
    with suppress(RuntimeError):  # a bare pickle is no checkpoint, which torch sees when it is too late
        torch.load(tmp_path / "ema.pt", weights_only=False)
    assert trace.exists()  # so the test could have failed


def test_wrong_heads_and_an_unknown_size_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EclipseError, match="32 channels; expected a multiple of 32 and of its 5 heads"):
        import_checkpoint(checkpoint, heads=5)
    weights, _ = drawn({"channels": 32, "multipliers": [1, 1], "blocks": 1, "attention": [], "heads": 4})
    torch.save(dict(weights), tmp_path / "ema.pt")
    with pytest.raises(EclipseError, match="give the image size"):
        import_checkpoint(tmp_path / "ema.pt")
    assert import_checkpoint(tmp_path / "ema.pt", image_size=48).config.image_size == 48
