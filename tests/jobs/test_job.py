"""What the one life cycle promises of each of its jobs."""

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.commands import Command, Said, refusal, write_images
from kit.kills import Killed, killed_at_the_end, manifest, names, refused
from kit.layouts import tree_bytes
from kit.tiny import tiny_denoiser

from eclipse.attacks.crafting import surrogate
from eclipse.diffusion import training
from eclipse.diffusion.checkpoint import save_denoiser
from eclipse.jobs.denoiser import TrainDenoiser
from eclipse.jobs.job import Job
from eclipse.jobs.poison import Craft
from eclipse.jobs.purify import Purify
from eclipse.jobs.train import Train
from eclipse.purification import shards
from eclipse.runs import state
from eclipse.runs.files import locked

pytestmark = pytest.mark.usefixtures("plugin", "tiny_fast")


@dataclass(frozen=True)
class Case:
    """A job as its user asks for it, in a folder with images, trusted ones, some to test on, and a denoiser.

    Attributes:
        job: which.
        line: the command without --out.
        other: options that change a setting, by its name.
        mended: those of them that unfinished work may be gone on with.
        inputs: the folders that go in, by the name of their fingerprint.
    """

    job: type[Job]
    line: str
    other: Mapping[str, str]
    inputs: Mapping[str, str]
    mended: frozenset[str] = frozenset()


CASES = {
    "purify": Case(
        Purify,
        "purify images --denoiser model --sampler ancestral --steps 3 --batch 4",
        {
            "purification sigma": "--sigma 5",
            "purification sampler": "--sampler ddim",
            "purification steps": "--steps 2",
            "seed": "--seed 1",
            "compensation mode": "--compensate once",
            "compensation p": "--p 0.123",
            "compensation noise": "--noise 0.123",
            "output format": "--format webdataset",
            "skip-bad": "--skip-bad",
        },
        {"input fingerprint": "images"},
        frozenset({"output format", "skip-bad", "input fingerprint"}),
    ),
    "poison": Case(
        Craft,
        "poison images --attack fake",
        {
            "attack name": "--attack urp",
            "seed": "--seed 1",
            "attack radius": "--set eps=4",
            "attack fields steps": "--set steps=1",
            "attack fields recipe lr": "--set recipe.lr=0.1",
            "attack scale": "--scale small",
            "output format": "--format webdataset",
        },
        {"input fingerprint": "images"},
        frozenset({"output format"}),
    ),
    "train": Case(
        Train,
        "train images --test test --arch small --epochs 2",
        {
            "seed": "--seed 1",
            "recipe epochs": "--epochs 3",
            "recipe name": "--recipe paper",
            "defense name": "--defense mixup",
            "arch": "--arch resnet18",
        },
        {"training set fingerprint": "images", "test set fingerprint": "test"},
    ),
    "denoiser train": Case(
        TrainDenoiser,
        "denoiser train trusted",
        {"iterations": "--iterations 4", "seed": "--seed 1", "noise levels": "--sigma 60"},
        {"trusted": "trusted"},
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, denoiser_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate({"images": 12, "test": 6, "trusted": 50}.items()):
        write_images(folder / name, count, side=16, seed=seed)
    shutil.copytree(denoiser_folder, folder / "model")
    return folder


@pytest.fixture
def place(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, where every part of the work is kept at once."""
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)
    monkeypatch.setattr(surrogate, "ROWS", 8)
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", 0.0)
    return tmp_path


@pytest.fixture
def run(case: Case, place: Path, command: Command) -> Callable[..., Said]:
    """Give the command, with more options."""
    return lambda *more: command(*case.line.split(), "--out", "out", *" ".join(more).split())


@contextmanager
def keeping(monkeypatch: pytest.MonkeyPatch, end: BaseException, after: int) -> Iterator[None]:
    """End the work when it has kept some parts: with an error that it may tell, or as a kill does."""
    done = itertools.count(1)

    def ending(write: Callable[..., Any]) -> Callable[..., Any]:
        def write_or_end(*args: Any) -> Any:
            if next(done) > after:
                raise end
            return write(*args)

        return write_or_end

    with monkeypatch.context() as patch:
        for module, name in ((shards, "whole"), (state, "write_whole")):
            patch.setattr(module, name, ending(getattr(module, name)))
        yield


def begin(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Said]) -> None:
    """Leave unfinished work."""
    with keeping(monkeypatch, Killed(), 1), pytest.raises(Killed):
        run()


def made(out: Path) -> dict[str, bytes]:
    """The bytes of an output, but for JSON, which tells times."""
    return {name: content for name, content in tree_bytes(out).items() if not name.endswith(".json")}


@contextmanager
def changed(folder: str) -> Iterator[None]:
    """Put another image in place of the first for a while."""
    image, aside = Path(folder, "class0", "000.png"), Path("aside")
    image.rename(aside)
    image.write_bytes(Path(folder, "class0", "002.png").read_bytes())
    yield
    aside.replace(image)


# A finished output


def test_a_finished_output_is_said_to_be_one_wherever_the_command_is_given_and_not_touched(
    case: Case, place: Path, run: Callable[..., Said], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything() -> dict[Path, tuple[int, bytes]]:
        found = {path: path.read_bytes() if path.is_file() else b"" for path in place.rglob("*")}
        return {path: (path.stat().st_mtime_ns, content) for path, content in found.items()}

    assert run().code == 0
    before, said = everything(), run()
    assert (said.code, said.err, said.out) == (0, "", "out is complete already, with the same settings\n")
    (place.parent / f"{place.name} elsewhere").mkdir()
    monkeypatch.chdir(place.parent / f"{place.name} elsewhere")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)  # another machine
    there = [str(place / word) if (place / word).exists() else word for word in case.line.split()]
    assert "complete already" in command(*there, "--out", place / "out").out
    assert everything() == before


def test_other_settings_and_inputs_on_a_finished_output_are_refused_by_name(
    case: Case, place: Path, run: Callable[..., Said]
) -> None:
    assert run().code == 0
    before = tree_bytes(place)
    for setting, options in case.other.items():
        refused(run(options), setting)
    for name, folder in case.inputs.items():
        with changed(folder):
            refused(run(), name)
    assert "complete already" in run().out
    assert tree_bytes(place) == before


def test_a_damaged_manifest_is_no_reason_to_overwrite_the_output(place: Path, run: Callable[..., Said]) -> None:
    assert run().code == 0
    before = tree_bytes(place / "out")
    for content in ("", "{}", "[]", '{"settings": 1, "input fingerprint": "", "status": ""}'):
        (place / "out.run.json").write_text(content)
        assert "is not a manifest of it; choose another output" in refusal(run())
    (place / "out.run.json").unlink()
    assert "out exists" in refusal(run())
    assert tree_bytes(place / "out") == before


# An unfinished output


def test_unfinished_work_is_gone_on_with_by_the_same_settings_and_inputs_alone(
    case: Case, place: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(monkeypatch, run)
    assert manifest(place / "out")["status"] == "started" and not (place / "out").exists()
    before = tree_bytes(place)
    for setting, options in case.other.items():
        if setting not in case.mended:
            refused(run(options), setting)
            refused(run(options, "--dry-run"), setting)
    for name, folder in case.inputs.items():
        if name not in case.mended:
            with changed(folder):
                refused(run(), name)
    assert tree_bytes(place) == before, "nothing was written"
    assert run().code == 0 and manifest(place / "out")["status"] == "complete"
    assert not list(place.glob(".out*"))
    assert run("--out undisturbed").code == 0
    assert made(place / "out") == made(place / "undisturbed")


def test_a_damaged_state_is_one_sentence_with_the_remedy(
    case: Case, place: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(monkeypatch, run)
    folder = place / f".out.{case.job.doing}"
    settings, whole = folder / "settings.json", (folder / "settings.json").read_bytes()
    for content in (whole[:-10], b"[1]"):
        settings.write_bytes(content)
        assert f"delete {folder.relative_to(place)} to begin anew" in refusal(run())
    settings.write_bytes(whole)
    assert run().code == 0


def test_ctrl_c_says_that_the_same_command_goes_on(
    place: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    with keeping(monkeypatch, KeyboardInterrupt(), 1):
        said = run()
    assert said.code == 130 and "Traceback" not in said.err
    assert said.err.splitlines()[-1] == "eclipse: interrupted; the same command goes on where it was"
    assert run().code == 0


def test_a_failed_run_says_why_and_goes_on(
    place: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    with keeping(monkeypatch, OSError(errno.ENOSPC, "No space left on device"), 1):
        said = run()
    assert said.code == 2 and "disk is full: free some space and run the same command again" in said.err
    failed = manifest(place / "out")
    assert failed["status"] == "failed" and "No space left" in failed["reason"] and not (place / "out").exists()
    assert run().code == 0
    done = manifest(place / "out")
    assert done["status"] == "complete" and "reason" not in done


def test_a_kill_between_the_output_and_its_manifest_is_made_good(
    case: Case, place: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at_the_end(monkeypatch, told=False):
        run()
    before = tree_bytes(place / "out")
    assert manifest(place / "out")["status"] == "started" and before
    with monkeypatch.context() as patch:
        patch.setattr(case.job, "work", None)  # nothing is done again
        said = run()
    assert said.code == 0 and "done\n" in said.out
    assert manifest(place / "out")["status"] == "complete" and tree_bytes(place / "out") == before
    assert not list(place.glob(".out*"))


def test_a_kill_between_the_manifest_and_the_state_is_made_good(
    case: Case, place: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at_the_end(monkeypatch, told=True):
        run()
    folder = place / f".out.{case.job.doing}"
    assert manifest(place / "out")["status"] == "complete" and folder.exists()
    assert run("--dry-run").code == 0 and folder.exists()
    assert "complete already" in run().out
    assert not list(place.glob(".out*"))


# Nothing is overwritten, and nothing is left behind


def test_what_somebody_else_put_there_is_never_overwritten(
    place: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_yet() -> None:
        pass

    def unfinished() -> None:
        begin(monkeypatch, run)

    def all_but_renamed() -> None:
        def killed() -> None:
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "sync", killed)  # comes right before
            run()

    for ours in (nothing_yet, unfinished, all_but_renamed):
        ours()
        write_images(place / "out", 2)
        before = tree_bytes(place)
        assert "out exists" in refusal(run()), ours
        assert tree_bytes(place) == before
        shutil.rmtree(place / "out")
    assert run().code == 0


def test_a_dry_run_tells_the_settings_and_writes_nothing(place: Path, run: Callable[..., Said]) -> None:
    before = tree_bytes(place)
    said = run("--dry-run")
    assert said.code == 0 and said.err == "" and "settings\n" in said.out and "done" not in said.out
    assert tree_bytes(place) == before and names(place) == ["images", "model", "test", "trusted"]


def test_two_processes_do_not_work_on_one_output(case: Case, place: Path, run: Callable[..., Said]) -> None:
    with locked(place / f".out.{case.job.doing}", place / "out"):
        assert refusal(run()).startswith("another process is working on out; wait until it has ended, or choose")
        assert not (place / "out.run.json").exists()
    assert run().code == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("purify few --denoiser model", "is not an image that can be read"),
        ("purify images --trusted few", "a denoiser needs at least 50"),
        ("poison few[1:] --attack fake", "class class0 has 2 images; Fake needs at least 3"),
        ("train images --test test --arch small --defense one-step --scale small --trusted few[1:]", "at least 50"),
        ("denoiser train few[1:]", "at least 50"),
    ],
)
def test_what_is_refused_at_once_leaves_what_was_there(place: Path, command: Command, line: str, words: str) -> None:
    write_images(place / "few", 5, side=16, seed=9)
    Path("few", "class0", "000.png").write_text("I am text")
    for kept in ({}, {"out.run.json": b"of an older run"}):
        for name, content in kept.items():
            (place / name).write_bytes(content)
        before = tree_bytes(place)
        assert words in refusal(command(*line.split(), "--out", "out"))
        assert tree_bytes(place) == before and not list(place.glob(".out*"))


# A purification is tied to its denoiser, too


def test_a_purification_by_another_denoiser_is_refused_by_name(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def purify() -> Said:
        return command("purify", "images", "--denoiser", "model", "--out", "out", "--batch", 4)

    begin(monkeypatch, purify)
    Path("model").rename("first")
    for _ in ("unfinished", "finished"):
        save_denoiser(tiny_denoiser(), Path("model"))
        refused(purify(), "denoiser fingerprint")
        shutil.rmtree("model")
        shutil.copytree("first", "model")
        assert purify().code == 0


def test_the_training_of_its_denoiser_is_part_of_the_settings_of_a_purification(place: Path, command: Command) -> None:
    def purify(trusted: str, *more: object) -> Said:
        return command("purify", "images", "--trusted", trusted, "--out", "out", *more)

    write_images(place / "others", 50, side=16, seed=5)
    assert purify("trusted").code == 0
    before = tree_bytes(place)
    refused(purify("trusted", "--iterations", 4), "training iterations")
    refused(purify("trusted", "--minutes", 1), "training iterations")
    refused(purify("others"), "trusted fingerprint")
    assert "complete already" in purify("trusted", "--iterations", 3).out
    assert tree_bytes(place) == before

    Path("out").rename("first")  # the denoiser of another run is no reason to train anew without a word, either
    Path("out.run.json").unlink()
    refused(purify("trusted", "--iterations", 4), "iterations")
    assert not list(place.glob(".out*")) and not Path("out.run.json").exists()
    assert purify("trusted").code == 0
    assert tree_bytes(place / "out") == tree_bytes(place / "first")
