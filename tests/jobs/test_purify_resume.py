"""Killed at any moment, the same command goes on and ends with the same bytes; other settings are refused."""

import errno
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.commands import Command, Said, refusal, write_images
from kit.kills import Killed, killed_at_the_end, killing, manifest, names, refused
from kit.layouts import tree_bytes
from kit.small_run import Kill, ended
from kit.streams import shard_folder
from kit.tiny import tiny_denoiser

from eclipse.diffusion.checkpoint import save_denoiser
from eclipse.purification import shards, stream


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images", 60, seed=1)
    write_images(folder / "trusted", 50, seed=2)
    return folder


# Real processes


def ended_as(folder: Path) -> dict[str, Any]:
    """What must not depend on what happened on the way."""
    done = manifest(folder / "out.parquet")
    return {
        "files": [name for name in names(folder) if name != "log"],
        "output": tree_bytes(folder / "out.parquet"),
        "weights": (folder / "out.parquet.denoiser" / "model.safetensors").read_bytes(),
        "manifest": [done["status"], done["output fingerprint"], done["counts"], done["denoiser"]["fingerprint"]],
    }


def test_killed_at_any_moment_it_ends_with_the_same_bytes(data: Path, tmp_path: Path) -> None:
    options = ["--trusted", f"{data}/trusted", "--format", "parquet", "--batch", "4", "--iterations", "30"]

    def go(folder: Path, kill: Kill | None = None) -> int:
        folder.mkdir(exist_ok=True)
        return ended(["purify", f"{data}/images", "--out", f"{folder}/out.parquet", *options], folder / "log", kill)

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert go(undisturbed) == 0, (undisturbed / "log").read_text()

    state, stored_in = killed / ".out.parquet.denoiser.training", shard_folder(killed / "out.parquet")
    kills = [
        Kill("training step", 1),
        Kill("training step", 5, 0.017),
        Kill("training step", 9, 0.003),
        Kill("denoised batch", 1),  # nothing is stored then
        Kill("shard", 1),
        Kill("denoised batch", 3, 0.013),
        Kill("shard", 3, 0.004),
        Kill("shard", 3),
    ]
    steps, rows = [], []
    for kill in kills:
        assert go(killed, kill) == -signal.SIGKILL, (killed / "log").read_text()
        steps.append(state.exists())
        rows.append(len(list(stored_in.glob("shard-*.arrow"))))
    assert steps[1:3] == [True, True] and rows[:5] == [0, 0, 0, 0, 1], (steps, rows)
    # Those that were waited for: 1, 3 and 3. The three batches that were only denoised may not be stored yet.
    assert rows == sorted(rows) and 7 <= rows[-1] < 15, rows

    assert go(killed) == 0, (killed / "log").read_text()
    assert ended_as(killed) == ended_as(undisturbed)
    assert ended_as(killed)["files"] == ["out.parquet", "out.parquet.denoiser", "out.parquet.run.json"]


# The last moments, and settings, in this process


@pytest.fixture
def purify(data: Path, tmp_path: Path, denoiser_folder: Path, command: Command) -> Command:
    """Give the same command, with more options."""
    return lambda *more: command(
        "purify", data / "images", "--denoiser", denoiser_folder, "--out", tmp_path / "out", *more
    )


def killed_after(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, purify: Command, *more: object) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, killing(getattr(owner, name)))
        purify(*more)


def test_a_kill_between_the_output_and_its_manifest_is_made_good(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, purify: Command
) -> None:
    with killed_at_the_end(monkeypatch, told=False):
        purify()
    before = tree_bytes(tmp_path / "out")
    assert manifest(tmp_path / "out")["status"] == "started" and len(before) == 60
    assert purify().code == 0
    done = manifest(tmp_path / "out")
    assert done["status"] == "complete" and done["counts"] == {"input": 60, "purified": 60, "skipped": 0}
    assert tree_bytes(tmp_path / "out") == before
    assert names(tmp_path) == ["out", "out.run.json"]


def test_a_kill_between_the_manifest_and_the_shards_is_made_good(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, purify: Command
) -> None:
    with killed_at_the_end(monkeypatch, told=True):
        purify()
    assert manifest(tmp_path / "out")["status"] == "complete" and shard_folder(tmp_path / "out").exists()
    assert purify("--dry-run").code == 0 and shard_folder(tmp_path / "out").exists()
    assert "complete already" in purify().out
    assert names(tmp_path) == ["out", "out.run.json"]


def test_a_complete_output_is_said_to_be_so_wherever_the_command_is_given(
    monkeypatch: pytest.MonkeyPatch,
    data: Path,
    tmp_path: Path,
    denoiser_folder: Path,
    purify: Command,
    command: Command,
) -> None:
    assert purify().code == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    said = purify()
    assert (said.code, said.err) == (0, "")
    assert said.out == f"{tmp_path / 'out'} is complete already, with the same settings\n"
    monkeypatch.chdir(data / "images")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    relative = command("purify", ".", "--denoiser", denoiser_folder, "--out", tmp_path / "out", "--batch", 7)
    torch.set_num_threads(threads)
    assert relative.code == 0 and relative.out == said.out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


BASE: dict[str, object] = {"--sampler": "ancestral", "--steps": 3}
OTHER: dict[str, dict[str, object]] = {
    "purification sigma": {"--sigma": 5},
    "purification sampler": {"--sampler": "ddim"},
    "purification steps": {"--steps": 2},
    "seed": {"--seed": 1},
    "compensation mode": {"--compensate": "once"},
    "compensation p": {"--p": 0.123},
    "compensation noise": {"--noise": 0.123},
    "output format": {"--format": "webdataset"},
    "skip-bad": {"--skip-bad": None},
}


def options(changes: dict[str, object]) -> list[object]:
    pairs = ([name] if value is None else [name, value] for name, value in {**BASE, **changes}.items())
    return [part for pair in pairs for part in pair]


def test_other_settings_on_a_complete_output_are_refused_by_name(purify: Command, tmp_path: Path) -> None:
    assert purify(*options({})).code == 0
    before = tree_bytes(tmp_path)
    for setting, changes in OTHER.items():
        refused(purify(*options(changes)), setting)
    assert purify(*options({})).code == 0
    assert tree_bytes(tmp_path) == before


def test_other_settings_on_an_unfinished_output_are_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, purify: Command, tmp_path: Path
) -> None:
    killed_after(monkeypatch, shards.Shards, "add", purify, *options({}))
    before = tree_bytes(tmp_path)
    for setting in OTHER.keys() - {"output format", "skip-bad"}:
        refused(purify(*options(OTHER[setting])), setting)
        refused(purify(*options(OTHER[setting]), "--dry-run"), setting)
    assert tree_bytes(tmp_path) == before
    assert purify(*options({})).code == 0


def test_another_input_or_denoiser_on_a_complete_output_is_refused_by_name(
    data: Path, tmp_path: Path, denoiser_folder: Path, command: Command
) -> None:
    shutil.copytree(data / "images", tmp_path / "images")
    shutil.copytree(denoiser_folder, tmp_path / "denoiser")
    arguments = ("purify", tmp_path / "images", "--denoiser", tmp_path / "denoiser", "--out", tmp_path / "out")
    assert command(*arguments).code == 0
    save_denoiser(tiny_denoiser(), tmp_path / "denoiser")
    refused(command(*arguments), "denoiser fingerprint")
    shutil.rmtree(tmp_path / "denoiser")
    shutil.copytree(denoiser_folder, tmp_path / "denoiser")
    assert command(*arguments).code == 0
    (tmp_path / "images" / "notes.txt").write_text("new")
    refused(command(*arguments), "input fingerprint")


@pytest.mark.usefixtures("tiny_fast")
def test_the_denoisers_training_is_part_of_the_settings(data: Path, tmp_path: Path, command: Command) -> None:
    def purify(trusted: str, *more: object) -> Said:
        return command("purify", data / "images", "--trusted", f"{data}/{trusted}", "--out", tmp_path / "out", *more)

    assert purify("trusted").code == 0
    before = tree_bytes(tmp_path)
    refused(purify("trusted", "--iterations", 4), "training iterations")
    refused(purify("trusted", "--minutes", 1), "training iterations")
    refused(purify("images"), "trusted fingerprint")
    assert "complete already" in purify("trusted", "--iterations", 3).out
    assert tree_bytes(tmp_path) == before

    shutil.rmtree(tmp_path / "out")  # the denoiser of another run is no reason to train anew without a word, either
    (tmp_path / "out.run.json").unlink()
    refused(purify("trusted", "--iterations", 4), "iterations")
    assert names(tmp_path) == ["out.denoiser"]
    assert purify("trusted").code == 0
    assert tree_bytes(tmp_path / "out") == {
        name.removeprefix("out/"): content for name, content in before.items() if name.startswith("out/")
    }


def test_a_failed_run_says_why_and_may_be_repaired(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, purify: Command
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_whole", full)
        said = purify()
    assert said.code == 2
    assert said.err.endswith(
        "eclipse: the disk is full: free some space and run the same command again, it goes on where it was\n"
    )
    failed = manifest(tmp_path / "out")
    assert failed["status"] == "failed" and "No space left" in failed["reason"] and not (tmp_path / "out").exists()
    assert purify("--seed", 1).code == 0  # nothing was done that would tie it to the settings of before
    done = manifest(tmp_path / "out")
    assert done["status"] == "complete" and "reason" not in done and done["settings"]["seed"] == 1


@pytest.mark.parametrize("folder", [True, False])
def test_a_run_that_goes_on_keeps_its_first_start_and_adds_up_its_times(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, purify: Command, folder: bool
) -> None:
    """What is kept is replaced by what no run could measure; where it is damaged, the times are those of the rest."""
    killed_after(monkeypatch, shards.Shards, "add", purify)
    kept, began = shard_folder(tmp_path / "out") / "times.json", tmp_path / "out.run.json"
    assert set(json.loads(kept.read_text())) == {"denoiser", "purification"}
    kept.write_text('{"denoiser": 1000, "purification": 2000}' if folder else '{"denoiser": [')
    began.write_text(json.dumps({**manifest(tmp_path / "out"), "started": "long ago"}))
    for _ in range(2):  # stopped once more before the end
        killed_after(monkeypatch, shards.Shards, "pictures", purify)
    assert purify().code == 0
    done = manifest(tmp_path / "out")
    assert done["started"] == "long ago" and done["status"] == "complete"
    assert [value // 1000 for value in done["seconds"].values()] == ([1, 2] if folder else [0, 0])
    assert names(tmp_path) == ["out", "out.run.json"]


def test_a_run_with_other_settings_starts_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, purify: Command
) -> None:
    killed_after(monkeypatch, stream, "denoise", purify)
    (tmp_path / "out.run.json").write_text(json.dumps({**manifest(tmp_path / "out"), "started": "long ago"}))
    (shard_folder(tmp_path / "out") / "times.json").write_text('{"purification": 1000}')
    assert purify("--seed", 1).code == 0
    done = manifest(tmp_path / "out")
    assert done["started"] != "long ago" and done["seconds"]["purification"] < 1000


def test_a_damaged_manifest_is_no_reason_to_overwrite_the_output(purify: Command, tmp_path: Path) -> None:
    assert purify().code == 0
    before = tree_bytes(tmp_path / "out")
    for content in (
        "",
        "{}",
        "[]",
        '{"settings": 1, "input fingerprint": "", "trusted fingerprint": "", "status": ""}',
    ):
        (tmp_path / "out.run.json").write_text(content)
        assert "is not a manifest of it; choose another output" in refusal(purify())
    (tmp_path / "out.run.json").unlink()
    assert "out exists already" in refusal(purify())
    assert tree_bytes(tmp_path / "out") == before


def test_ctrl_c_says_that_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, purify: Command, tmp_path: Path
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stream, "denoise", interrupt)
        said = purify()
    assert (said.code, said.err.splitlines()[-1]) == (
        130,
        "eclipse: interrupted; the same command goes on where it was",
    )
    assert "Traceback" not in said.err
    assert purify().code == 0 and len(tree_bytes(tmp_path / "out")) == 60
