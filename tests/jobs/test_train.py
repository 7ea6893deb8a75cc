"""`eclipse train`: a victim under a defense, measured after every epoch, and gone on with after a kill."""

import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from kit.commands import Command, refusal, write_images
from kit.kills import Killed
from kit.tiny import some_images
from safetensors.torch import load_file
from torch import Tensor, nn

from eclipse.classifiers.fit import RECIPES, Recipe
from eclipse.data.imageset import ImageSet
from eclipse.defenses import DEFENSES, make_defense, victim
from eclipse.defenses.defense import Defense
from eclipse.defenses.victim import check_sets, train_victim
from eclipse.errors import EclipseError
from eclipse.runs.state import StageStep, State, Work

QUICK = Recipe(epochs=4, batch=16, lr=0.05, pad=1)


def labelled(count: int = 48, side: int = 16, seed: int = 0, channels: int = 3) -> ImageSet:
    """Images that a network can tell apart: the second class is darker."""
    labels = np.arange(count) % 2
    images = some_images(count, side, side, seed)[:, :channels] // (1 + labels)[:, None, None, None]
    return ImageSet.from_arrays(images.astype(np.uint8), labels)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for seed, (name, count) in enumerate({"train": 40, "test": 10, "trusted": 50}.items()):
        write_images(tmp_path / name, count, side=16, seed=seed)
    return tmp_path


def test_columns_are_those_that_are_named(data: Path, command: Command) -> None:
    for name in ("train", "test"):
        rows = [(path.read_bytes(), path.parent.name) for path in sorted((data / name).rglob("*.png"))]
        photo, kind = zip(*rows, strict=True)
        pq.write_table(pa.table({"photo": photo, "icon": photo, "kind": kind}), data / f"{name}.parquet")
    sets = ("train", data / "train.parquet", "--test", data / "test.parquet", "--out", data / "run", "--dry-run")
    assert "--image-column" in refusal(command(*sets))
    assert "--label-column" in refusal(command(*sets, "--image-column", "photo"))
    said = command(*sets, "--image-column", "photo", "--label-column", "kind", "--arch", "small")
    assert said.code == 0 and "2 classes" in said.out


def options(data: Path, *more: object) -> tuple[object, ...]:
    sets = ("train", data / "train", "--test", data / "test", "--out", data / "run")
    return (*sets, "--arch", "small", "--epochs", "2", *more)


# The training


def test_accuracy_is_that_of_the_test_images_after_each_epoch() -> None:
    trained = train_victim(labelled(), labelled(20, seed=1), Defense(), "small", replace(QUICK, epochs=12), Work())
    assert [epoch["epoch"] for epoch in trained.epochs] == list(range(1, 13))
    assert trained.accuracy == trained.epochs[-1]["accuracy"] >= 0.9
    assert trained.accuracy == victim.accuracy(trained.network, labelled(20, seed=1))
    assert not trained.network.training and trained.parameters > 1000


def test_the_last_epoch_counts_even_where_another_was_better() -> None:
    epochs = tuple({"epoch": float(i), "accuracy": share} for i, share in enumerate((0.2, 0.9, 0.5), 1))
    assert victim.Trained(nn.Identity(), epochs, 1.0).accuracy == 0.5


@dataclass(frozen=True)
class Noted(Defense):
    """Notes where it was asked to act."""

    title: ClassVar[str] = "a note"
    notes: Any = None

    def adapt(self, network: Any) -> nn.Module:
        self.notes.append("adapt")
        return nn.Sequential(network)

    def optimizer(self, network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
        assert isinstance(network, nn.Sequential)
        self.notes.append("optimizer")
        return super().optimizer(network, recipe)

    def augment(self, x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        self.notes.append(("augment", len(x), num_classes))
        return torch.zeros_like(x), y

    def adversary(self, network: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
        assert not x.any() and not network.training
        self.notes.append(("adversary", progress))
        return x


def test_a_defense_acts_on_network_steps_and_batches_in_this_order() -> None:
    defense = Noted(notes=[])
    train_victim(labelled(32), labelled(8), defense, "small", replace(QUICK, epochs=2), Work())
    batch = ("augment", 16, 2)
    first, second = ("adversary", 0.0), ("adversary", 0.5)
    assert defense.notes == ["adapt", "optimizer", *[batch, first] * 2, *[batch, second] * 2]


@pytest.mark.parametrize("name", ["none", "mixup", "at", "dp-sgd"])
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path, name: str) -> None:
    defense = make_defense(name, scale="small")

    def go(state: State) -> victim.Trained:
        recipe = replace(QUICK, epochs=3)
        return train_victim(labelled(32), labelled(8, seed=1), defense, "small", recipe, Work(3, state=state))

    def die(step: StageStep) -> None:
        if step.done == 2:
            raise Killed

    whole = go(State())
    with pytest.raises(Killed):
        go(State(tmp_path, die))
    told: list[int] = []
    rest = go(State(tmp_path, lambda step: told.append(step.done)))
    assert told == [3]
    weights, same = (trained.network.state_dict() for trained in (whole, rest))
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert [(e["loss"], e["accuracy"]) for e in whole.epochs] == [(e["loss"], e["accuracy"]) for e in rest.epochs]


def test_the_seed_decides_weights_and_training() -> None:
    def losses(seed: int) -> list[float]:
        trained = train_victim(labelled(), labelled(8), Defense(), "small", replace(QUICK, epochs=1), Work(seed))
        return [epoch["loss"] for epoch in trained.epochs]

    assert losses(0) == losses(0) != losses(1)


def test_a_compiled_network_is_trained_by_the_same_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda network: asked.append(network) or network)
    sets, recipe = (labelled(), labelled(8)), replace(QUICK, epochs=1)
    plain, compiled = (train_victim(*sets, Defense(), "small", recipe, Work(), compiled=c) for c in (False, True))
    assert asked == [compiled.network] and plain.epochs[0]["loss"] == compiled.epochs[0]["loss"]


@pytest.mark.parametrize("name", [name for name in DEFENSES.names() if make_defense(name).needs() == "nothing"])
def test_every_defense_that_needs_nothing_joins_the_training_on_gray_images(name: str) -> None:
    quick = {"d-vae": {"epochs": 1}, "op": {"epochs": 1}, "op-plain": {"epochs": 1}}.get(name, {})
    defense = make_defense(name, scale="small", **quick)
    prepared = defense.prepare(labelled(32, channels=1), None, Work())
    trained = train_victim(prepared, labelled(8, channels=1), defense, "small", replace(QUICK, epochs=1), Work())
    assert math.isfinite(trained.epochs[0]["loss"]) and 0 <= trained.accuracy <= 1


def test_sets_that_do_not_fit_each_other_are_refused() -> None:
    train = labelled()
    names = replace(train, class_names=("cat", "dog"))
    for test, said in (
        (labelled(8, side=24), "test images of 3x24x24 and training images of 3x16x16"),
        (labelled(8, channels=1), "test images of 1x16x16"),
        (replace(labelled(8), labels=np.full(8, 2)), "test label 2; expected less than 2"),
        (replace(labelled(8), labels=None), "measuring accuracy needs labels"),
    ):
        with pytest.raises(EclipseError, match=said):
            check_sets(train, test)
    with pytest.raises(EclipseError, match="has the class 'dog' where the test set has 'cow'"):
        check_sets(names, replace(labelled(8), class_names=("cat", "cow")))
    with pytest.raises(EclipseError, match="single class"):
        check_sets(replace(train, labels=np.zeros(48, np.int64)), labelled(8))
    assert check_sets(names, labelled(8)) == 2


@pytest.mark.parametrize("where", ["fit", "new_victim"])
def test_too_little_memory_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(victim, where, full)
    with pytest.raises(EclipseError, match="cpu has too little memory to train small with batches of 16; expected"):
        train_victim(labelled(), labelled(8), Defense(), "small", QUICK, Work())


def test_a_training_that_diverges_is_said() -> None:
    with pytest.raises(EclipseError, match="the loss of small is nan after epoch 1: its training diverged; expected"):
        train_victim(labelled(), labelled(8), Defense(), "small", replace(QUICK, lr=1e30), Work())


def test_too_little_memory_for_a_defense_is_said_with_the_remedy(
    data: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("eclipse.defenses.iss.ISSG.prepare", full)
    assert "cpu has too little memory for the defense iss-g" in refusal(command(*options(data, "--defense", "iss-g")))


# The command


def test_the_command_writes_result_and_weights(data: Path, command: Command) -> None:
    said = command(*options(data, "--defense", "mixup", "--set", "alpha=0.5", "--seed", "3"))
    assert said.code == 0 and "on the test images after epoch 2, the last" in said.out, said
    result = json.loads((data / "run" / "result.json").read_text())
    assert len(result["epochs"]) == 2 and result["accuracy"] == result["epochs"][-1]["accuracy"]
    assert result["defense"]["name"] == "mixup" and result["defense"]["alpha"] == 0.5 and result["seed"] == 3
    assert sum(tensor.numel() for tensor in load_file(data / "run" / "model.safetensors").values()) > 100_000
    manifest = json.loads((data / "run.run.json").read_text())
    assert manifest["status"] == "complete" and manifest["accuracy"] == result["accuracy"]
    assert sorted(path.name for path in data.iterdir()) == ["run", "run.run.json", "test", "train", "trusted"]
    assert "complete already" in command(*options(data, "--defense", "mixup", "--set", "alpha=0.5", "--seed", "3")).out
    assert "was made with seed = 3 and this run asks for 0" in refusal(
        command(*options(data, "--defense", "mixup", "--set", "alpha=0.5"))
    )


def test_levels_of_a_defense_that_differ_are_told_as_they_are_given(data: Path, command: Command) -> None:
    def asked(eps: str) -> tuple[object, ...]:
        steps = ("--set", "steps=1", "--epochs", "1", "--set", f"eps={eps}")
        return options(data, "--defense", "at", *steps)

    assert command(*asked("4")).code == 0
    assert "radius = 4/255 and this run asks for 2/255" in refusal(command(*asked("2")))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--defense", "mixupp"], "unknown defense 'mixupp'; did you mean 'mixup'?"),
        (["--defense", "mixup", "--set", "alfa=1"], "unknown parameter of mixup 'alfa'; did you mean 'alpha'?"),
        (["--defense", "dilution"], "the defense dilution needs labelled images: name a clean data set with --trusted"),
        (["--trusted", "{data}/trusted"], "the defense none needs no trusted images; leave --trusted out"),
        (["--arch", "resnet19"], "unknown classifier 'resnet19'; did you mean 'resnet18'?"),
        (["--recipe", "papr"], "unknown recipe 'papr'; did you mean 'paper'?"),
        (["--scale", "tiny", "--defense", "at"], "unknown scale 'tiny'"),
        (["--compile", "--defense", "dp-sgd"], "changes the network, which then does not compile; leave --compile out"),
        (["--epochs", "0"], "0 epochs; expected at least 1"),
        (["--test", "{data}/none"], "no such path"),
        (["--test", "{data}/train[5:9]"], "4 rows of"),
        (["--defense", "one-step", "--trusted", "{data}/test"], "(trusted), too; choose other slices"),
        (["--defense", "one-step", "--trusted", "{data}/train"], "all 40 trusted images of"),
        (["--defense", "dilution", "--trusted", "{data}/train[3:20]"], "all 17 trusted images of"),
        (["--device", "cuda:9"], "is not here"),
        (["--out", "{data}/train"], "exists; choose another output"),
        (["--out", "{data}/no/run"], "no such folder"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_is_written(
    data: Path, command: Command, more: list[str], said: str
) -> None:
    before = sorted(data.rglob("*"))
    given = [word.format(data=data) for word in more]
    assert said in refusal(command(*options(data, *given)))
    assert sorted(data.rglob("*")) == before


def test_trusted_images_among_the_training_images_are_noted(data: Path, command: Command) -> None:
    for path in (data / "train").rglob("00*.png"):
        path.rename(data / "trusted" / path.parent.name / f"copy-{path.name}")
        shutil.copy(data / "trusted" / path.parent.name / f"copy-{path.name}", path)
    said = command(*options(data, "--defense", "dilution", "--trusted", data / "trusted", "--dry-run"))
    assert said.code == 0 and "note: 10 of the 60 trusted images are among the suspicious ones, too" in said.out


def test_images_of_many_sizes_are_trained_on_when_the_command_names_one(data: Path, command: Command) -> None:
    write_images(data / "train", 4, side=40)
    write_images(data / "test", 2, side=24)
    given = options(data, "--defense", "eclipse-a", "--trusted", data / "trusted", "--set", "iterations=2")
    sentence = refusal(command(*given))
    assert "16x16" in sentence and "40x40" in sentence and "name it, such as --resize 64" in sentence
    assert "expected 1 to 8192" in refusal(command(*given, "--resize", 0))
    said = command(*given, "--resize", 20)
    assert said.code == 0, said
    result = json.loads((data / "run" / "result.json").read_text())
    assert result["image"] == [3, 20, 20] and result["resize"] == 20
    assert "was made with resize = 20" in refusal(command(*given, "--resize", 16))


def test_a_label_that_is_no_class_is_refused(data: Path, command: Command) -> None:
    images = some_images(8, 16, 16).transpose(0, 2, 3, 1)
    np.savez(data / "huge.npz", images=images, labels=np.array([0, 1] * 3 + [0, 2**40]))
    said = refusal(command("train", data / "huge.npz", *options(data)[2:]))
    assert "label 1099511627776; expected less than 65,536" in said


def test_the_list_of_defenses_is_whole_and_each_is_described(command: Command) -> None:
    listed = command("defenses").out
    for name in DEFENSES.names():
        assert f"\n{name} " in listed
    said = command("defenses", "at")
    assert said.code == 0 and "Tao" in said.out and "eps" in said.out and "cost" in said.out
    assert "unknown defense 'att'; did you mean 'at'?" in refusal(command("defenses", "att"))


def test_recipes_are_as_the_paper_says() -> None:
    paper = RECIPES["paper"]
    assert (paper.epochs, paper.batch, paper.lr, paper.momentum, paper.weight_decay) == (80, 128, 0.1, 0.9, 0.0)
    assert paper.rate(0.0) == paper.rate(0.99) == 0.1
