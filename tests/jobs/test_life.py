"""The life of a job: killed at any operation on files it goes on to the same end, and it takes nobody's place."""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import torch
from kit.commands import Command, refusal, write_images
from kit.kills import Killed, killing, manifest, names
from kit.tiny import one_sentence, some_images

from eclipse.diffusion import presets
from eclipse.diffusion.trusted import check_trusted, denoiser_in, plan_denoiser
from eclipse.errors import EclipseError
from eclipse.jobs.job import Job, Tell, carry_out, check, tidy
from eclipse.purification import shards
from eclipse.runs.files import locked
from eclipse.runs.state import StageStep, State, Work


@dataclass(frozen=True, eq=False)
class Writing(Job):
    """Writes a folder; half of the work is kept on the way."""

    out: Path
    meanwhile: Callable[[], object] = lambda: None

    doing: ClassVar[str] = "writing"
    settings: ClassVar[Mapping[str, Any]] = {"seed": 0}
    inputs: ClassVar[Mapping[str, str]] = {"input fingerprint": "abc"}

    def work(self, state: State, tell: Tell, place: Path) -> dict[str, Any]:
        if not state.load("half"):
            state.save("half", {"x": torch.ones(2)}, {})
            tell(StageStep("half", 1, 2))
        place.mkdir()
        (place / "file").write_bytes(b"whole")
        self.meanwhile()
        return {"images": 1}

    def closing(self, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
        return outcome


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """Kill what runs inside after so many operations on files: none is done any more."""
    done = 0

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **options: Any) -> Any:
            nonlocal done
            if done == after:
                raise Killed
            done += 1
            return operation(*args, **options)

        return counting

    with monkeypatch.context() as patch:
        for name in ("mkdir", "write_bytes", "write_text", "replace", "rename", "unlink", "rmdir"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        yield


def train(folder: Path) -> None:
    planned = plan_denoiser(presets.PRESETS["fast"])
    trusted = check_trusted(some_images(50), planned.config)
    denoiser_in(folder, planned, trusted, Work(), on_step=lambda step: None)


def write(out: Path) -> None:
    job = Writing(out)
    if check(job) == "finished":
        tidy(job)
    else:
        carry_out(job)
    assert manifest(out)["status"] == "complete" and manifest(out)["images"] == 1


@pytest.mark.usefixtures("tiny_fast")
@pytest.mark.parametrize(
    ("work", "whole", "left"),
    [
        (write, {"file"}, ["out", "out.run.json"]),
        (train, {"config.json", "model.safetensors"}, ["out"]),
    ],
)
def test_killed_after_any_operation_on_files_it_goes_on_and_leaves_nothing(
    work: Callable[[Path], None], whole: set[str], left: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sync", lambda: None)  # a busy machine takes seconds for it
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for after in range(1000):
        place = tmp_path / str(after)
        place.mkdir()
        try:
            with dying(monkeypatch, after):
                work(place / "out")
            break
        except Killed:
            gc.collect()  # the lock of a process ends with it
        assert not (place / "out").exists() or set(names(place / "out")) == whole
        work(place / "out")
        assert names(place) == left and set(names(place / "out")) == whole, after
    assert after > 10


def test_what_others_put_in_the_place_of_an_output_during_the_work_stays(tmp_path: Path) -> None:
    def theirs() -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_bytes(b"dear")

    with pytest.raises(EclipseError, match="out exists; choose another output"):
        carry_out(Writing(tmp_path / "out", theirs))
    assert names(tmp_path / "out") == ["theirs"] and manifest(tmp_path / "out")["status"] == "failed"
    with pytest.raises(EclipseError, match="out exists; choose another output"):
        carry_out(Writing(tmp_path / "out"))
    shutil.rmtree(tmp_path / "out")
    assert check(Writing(tmp_path / "out")) == "resumable"
    write(tmp_path / "out")


def test_a_link_that_leads_nowhere_is_in_the_way_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(EclipseError, match="out exists; choose another output"):
        check(Writing(tmp_path / "out"))


def test_a_link_in_the_place_of_unfinished_work_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "dear").mkdir()
    (tmp_path / "dear" / "file").write_bytes(b"")
    job = Writing(tmp_path / "out")
    write(job.out)
    job.folder.symlink_to(tmp_path / "dear")
    tidy(job)
    with pytest.raises(EclipseError, match="is no folder but a link or file"), locked(job.folder, job.out):
        pass
    assert names(tmp_path / "dear") == ["file"]


def test_a_finished_output_that_another_process_tidies_is_finished(tmp_path: Path) -> None:
    job = Writing(tmp_path / "out")
    write(job.out)
    with locked(job.folder, job.out):
        tidy(job)
        assert check(job) == "finished"


@pytest.mark.parametrize("content", ["[" * 100_000, '{"settings": ' + '{"a": ' * 900 + "0" + "}" * 901, "{", "[]"])
def test_a_hostile_manifest_or_record_of_settings_is_one_sentence(tmp_path: Path, content: str) -> None:
    job = Writing(tmp_path / "out")
    with pytest.raises(Killed):
        carry_out(Writing(job.out, killing(lambda: None)))
    (job.folder / "settings.json").write_text(content)
    with pytest.raises(EclipseError) as said:
        check(job)
    one_sentence(said.value)
    shutil.rmtree(job.folder)
    write(job.out)
    (tmp_path / "out.run.json").write_text(content)
    with pytest.raises(EclipseError) as said:
        check(job)
    one_sentence(said.value)


def test_a_missing_package_is_told_before_any_work(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path / "images", 50, side=32)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    asked = ("purify", images, "--trusted", images, "--out", tmp_path / "out", "--preset", "paper", "--dry-run")
    assert "needs the package 'diffusers', which is not installed" in refusal(command(*asked))


def linked_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("place", ["out", "out.run.json", ".out.poisoning", ".out.poisoning/settings.json", "images"])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, linked_to_itself])
def test_what_is_no_file_in_a_place_of_a_job_ends_in_one_sentence(
    make: Callable[[Path], None], place: str, tmp_path: Path, command: Command
) -> None:
    images = tmp_path / "images"
    if place != "images":
        write_images(images, 4)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    make(tmp_path / place)
    said = command("poison", images, "--attack", "urp", "--out", tmp_path / "out")
    if said.code:
        refusal(said)
    else:
        assert len(list((tmp_path / "out").rglob("*.png"))) == 4


def flipped(data: bytes) -> bytes:
    """One bit of a pixel is another."""
    place = data.index(b"IDAT") + 60
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def foreign(data: bytes) -> bytes:
    """A table of other columns, of which all bytes are there."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([("id", pa.string())])):
        pass
    table = sink.getvalue().to_pybytes()
    return table + shards.checksum([table])


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", flipped, foreign])
def test_damaged_rows_are_one_sentence(
    damage: Callable[[bytes], bytes],
    tmp_path: Path,
    command: Command,
    denoiser_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ("purify", write_images(tmp_path / "images", 4), "--denoiser", denoiser_folder, "--out", tmp_path / "out")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shards.Shards, "pictures", killing(lambda self, source: None))
        command(*asked)
    (shard,) = (tmp_path / ".out.purifying").glob("shard-*")
    shard.write_bytes(damage(shard.read_bytes()))
    assert f"{shard} cannot be read as finished rows" in refusal(command(*asked))
