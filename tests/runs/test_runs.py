import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.tiny import one_sentence

from eclipse.compute import device
from eclipse.compute.device import channels_last, compute_dtype, describe_device, resolve_device, seeded
from eclipse.errors import EclipseError
from eclipse.runs import manifest
from eclipse.runs.files import write_json, write_whole
from eclipse.runs.manifest import check_same_settings, command, read_kept, run_json, versions
from eclipse.runs.state import State


@pytest.mark.parametrize("content", [None, "{", "[1]", "\udcff"])
def test_damaged_settings_of_unfinished_work_are_named_with_the_remedy(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "settings.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(EclipseError, match=r"settings.json is damaged .*; delete .* to begin anew"):
        read_kept(tmp_path / "settings.json")


# Files that are whole or absent


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"first", b"", b"\0" * 100_000):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    write_whole(tmp_path / "file", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "file")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file"
    write_whole(path, b"before")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_data_are_on_the_disk_before_the_old_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"before")
    seen: list[tuple[int, bytes]] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        sync(descriptor)
        seen.append((os.fstat(descriptor).st_size, path.read_bytes()))

    monkeypatch.setattr("os.fsync", note)
    write_whole(path, b"after")
    assert seen == [(len(b"after"), b"before")]


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    killed = (
        "import os, pathlib, sys; from eclipse.runs.files import write_whole; "
        "os.fsync = lambda descriptor: os.kill(os.getpid(), 9); "
        "write_whole(pathlib.Path(sys.argv[1]), b'half')"
    )
    assert subprocess.run([sys.executable, "-c", killed, tmp_path / "file"]).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1 and not (tmp_path / "file").exists()
    write_whole(tmp_path / "file", b"whole")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


@pytest.mark.parametrize("place", ["missing/file", "afile/file"])
def test_a_place_that_is_none_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "afile").write_bytes(b"")
    with pytest.raises(OSError):
        write_whole(tmp_path / place, b"")


def test_manifests_are_readable_json(tmp_path: Path) -> None:
    content = {"name": "Größe", "path": Path("/data"), "nested": {"sigma": 6.4}}
    write_json(tmp_path / "new" / "run.json", content)
    text = (tmp_path / "new" / "run.json").read_text(encoding="utf-8")
    assert "Größe" in text and text.endswith("}\n") and text.count("\n") > 3
    assert json.loads(text) == {"name": "Größe", "path": "/data", "nested": {"sigma": 6.4}}


def test_a_manifest_lies_beside_its_output() -> None:
    assert run_json(Path("out/purified.parquet")) == Path("out/purified.parquet.run.json")
    assert run_json(Path("folder/")) == Path("folder.run.json")


# What a run says about itself


def test_versions_name_what_results_depend_on() -> None:
    found = versions()
    assert torch.__version__.startswith(found["torch"])
    assert found["python"] == sys.version.split()[0]
    assert set(manifest.PACKAGES) < set(found)


def test_missing_packages_are_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "PACKAGES", ("no-such-package",))
    assert versions()["no-such-package"] == "not installed"


def test_command_can_be_given_to_a_shell_again(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["purify", "train.parquet[:10000]", "--out", "my folder"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/eclipse", *arguments])
    assert shlex.split(command()) == ["eclipse", *arguments]


# Settings


def test_same_settings_pass() -> None:
    check_same_settings({"seed": 0, "p": None}, {"seed": 0}, Path("out"))


@pytest.mark.parametrize(
    ("made", "asked", "words"),
    [
        ({"seed": 0, "sigma": 6.4}, {"seed": 0, "sigma": 21.6}, "sigma = 6.4 and this run asks for 21.6"),
        ({}, {"steps": 3}, "steps = null and this run asks for 3"),
        ({"minutes": 5.0}, {}, "minutes = 5.0 and this run asks for null"),
        ({"trusted": "a" * 64}, {"trusted": "b" * 64}, 'trusted = "' + "a" * 36 + "... and this run asks for"),
    ],
)
def test_other_settings_are_refused_by_name(made: dict[str, Any], asked: dict[str, Any], words: str) -> None:
    with pytest.raises(EclipseError) as caught:
        check_same_settings(made, asked, Path("some/out"))
    message = one_sentence(caught.value)
    assert message.startswith("some/out was made with ") and words in message
    assert "resume with the same settings, choose another output, or delete it" in message


# Device


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device() == "cuda"
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("asked", "gpus", "words"),
    [
        ("gpu", 1, "device 'gpu' is not one that torch knows; expected auto, cpu or cuda"),
        ("mps", 1, "device 'mps' is not supported; expected auto, cpu or cuda"),
        ("cuda", 0, "device 'cuda' is not here, torch sees 0 GPU(s); use --device cpu"),
        ("cuda:2", 2, "device 'cuda:2' is not here, torch sees 2 GPU(s)"),
    ],
)
def test_devices_that_are_not_here_are_refused(
    monkeypatch: pytest.MonkeyPatch, asked: str, gpus: int, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(EclipseError) as caught:
        resolve_device(asked)
    assert words in one_sentence(caught.value)


def test_gpus_that_are_here_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(name) for name in ("cuda", "cuda:1")] == ["cuda", "cuda:1"]


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_is_for_hardware_that_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, has: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: has)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    for where in ("cpu", "cuda"):
        chosen, reason = compute_dtype(where)
        assert chosen == dtype and reason


def test_the_processor_is_described() -> None:
    assert f"{torch.get_num_threads()} threads" in describe_device("cpu")


def test_channels_last_is_a_matter_of_layout_alone() -> None:
    network = torch.nn.Conv2d(3, 4, 3)
    before = network.weight.detach().clone()
    assert channels_last(network) is network
    assert network.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(network.weight, before)


def test_seeding_lasts_for_a_while_and_knows_its_keys() -> None:
    torch.rand(3)
    state = torch.get_rng_state()

    def draw(seed: int, purpose: str, step: int) -> float:
        with seeded(seed, purpose, step):
            return torch.rand(()).item()

    assert draw(0, "a", 0) == draw(0, "a", 0)
    assert len({draw(0, "a", 0), draw(1, "a", 0), draw(0, "b", 0), draw(0, "a", 1), draw(-1, "a", 0)}) == 5
    assert torch.equal(torch.get_rng_state(), state)


def test_an_error_ends_seeding_too() -> None:
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(0, "a"):
        torch.rand(5)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stage_whose_name_has_a_path_in_it_stays_in_its_folder(tmp_path: Path) -> None:
    state = State(tmp_path / "work")
    state.save("avatar denoiser=../a/b 0", {"x": torch.ones(2)}, {})
    assert state.load("avatar denoiser=../a/b 0") is not None
    assert [path.parent for path in tmp_path.rglob("*.safetensors")] == [tmp_path / "work"]
