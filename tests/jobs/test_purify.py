"""`eclipse purify`: what its output is tied to beside its settings, and Ctrl-C."""

import shutil
from pathlib import Path

import pytest
from kit.commands import Command, Said, write_images
from kit.kills import Killed, killing, names, refused
from kit.layouts import tree_bytes
from kit.tiny import tiny_denoiser

from eclipse.diffusion.checkpoint import save_denoiser
from eclipse.purification import shards, stream


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images", 60, seed=1)
    write_images(folder / "trusted", 50, seed=2)
    return folder


def test_another_denoiser_is_refused_by_name(data: Path, tmp_path: Path, command: Command) -> None:
    arguments = ("purify", data / "images", "--denoiser", tmp_path / "denoiser", "--out", tmp_path / "out")
    save_denoiser(tiny_denoiser(), tmp_path / "denoiser")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shards, "write_whole", killing(shards.write_whole))
        command(*arguments)
    first = tree_bytes(tmp_path / "denoiser")
    for _ in ("unfinished", "finished"):
        save_denoiser(tiny_denoiser(), tmp_path / "denoiser")
        refused(command(*arguments), "denoiser fingerprint")
        for name, content in first.items():
            (tmp_path / "denoiser" / name).write_bytes(content)
        assert command(*arguments).code == 0


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


def test_ctrl_c_says_that_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path, denoiser_folder: Path, command: Command
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    arguments = ("purify", data / "images", "--denoiser", denoiser_folder, "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(stream, "denoise", interrupt)
        said = command(*arguments)
    assert said.code == 130 and "Traceback" not in said.err
    assert said.err.splitlines()[-1] == "eclipse: interrupted; the same command goes on where it was"
    assert command(*arguments).code == 0 and len(tree_bytes(tmp_path / "out")) == 60
