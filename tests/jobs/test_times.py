"""A run that was stopped keeps its first start and adds up its times."""

import json
from pathlib import Path

import pytest
from kit.commands import Command, write_images
from kit.kills import Killed, killing, manifest, names
from kit.streams import shard_folder

from eclipse.purification import shards, stream


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images", 60, seed=1)
    write_images(folder / "trusted", 50, seed=2)
    return folder


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
