"""The command line: a mistake is one sentence with exit code 2 and leaves nothing; options do what they say."""

import errno
import io
import json
import os
import pickle
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from kit.commands import Command, files, refusal, write_images
from kit.golden import write_checkpoint
from kit.hostile import malicious
from kit.layouts import tree_bytes
from kit.tiny import some_images, tiny_denoiser
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from eclipse.bench.runner import CellStep
from eclipse.cli import show
from eclipse.data.imageset import ImageSet
from eclipse.data.source import load_imageset, open_source
from eclipse.diffusion.checkpoint import fingerprint_denoiser, load_denoiser, save_denoiser
from eclipse.diffusion.presets import FAST
from eclipse.diffusion.training import TrainStep
from eclipse.errors import EclipseError
from eclipse.jobs import doctor
from eclipse.jobs import purify as purify_job
from eclipse.purification import shards, stream
from eclipse.purification.arrays import purify
from eclipse.purification.compensation import once
from eclipse.purification.stream import Progress
from eclipse.runs import manifest as manifests
from eclipse.runs.files import check_name
from eclipse.runs.state import StageStep


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, denoiser_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_images(folder / "images", 20)
    write_images(folder / "trusted", 50, seed=1)
    shutil.copytree(denoiser_folder, folder / "denoiser")
    return folder


@pytest.fixture
def place(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, in which commands are given: images, trusted images, and a denoiser."""
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Bad input: each is made in the user's folder and refused in the words given


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A PNG of 3 KB that says that it is 100,000 pixels wide and high."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(3_000_000))) + chunk(b"IEND", b"")


def truncated() -> bytes:
    return Path("images/class0/000.png").read_bytes()[:70]


def first_image(content: Callable[[], bytes], folder: str = "images") -> Callable[[], object]:
    return lambda: Path(folder, "class0", "000.png").write_bytes(content())


def text() -> bytes:
    return b"I am text"


def empty() -> None:
    Path("empty").mkdir()
    Path("empty", "notes.txt").write_text("no image")


def few() -> None:
    write_images(Path("few"), 49)


def many() -> None:
    write_images(Path("many"), 200)


def flat() -> None:
    Path("flat").mkdir()
    for path in Path("images").rglob("*.png"):
        shutil.copy(path, "flat")


def table_without_images() -> None:
    pq.write_table(pa.table({"name": ["a"], "label": [1]}), "data.parquet")


def unknown_pickle() -> None:
    Path("data.pkl").write_bytes(pickle.dumps({"weights": [1, 2, 3]}))


def tar_that_leads_out() -> None:
    with tarfile.open("data.tar", "w") as tar:
        member = tarfile.TarInfo("../escaped.png")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"data"))


def denoiser_without_weights() -> None:
    Path("denoiser", "model.safetensors").unlink()


def denoiser_with_other_weights() -> None:
    torch.manual_seed(1)
    save_denoiser(tiny_denoiser(), Path("other"))
    shutil.copy("other/model.safetensors", "denoiser/model.safetensors")


def denoiser_with_a_strange_config() -> None:
    Path("denoiser", "config.json").write_text('{"architecture": "resnet"}')


def denoiser_of_one_size() -> None:
    save_denoiser(tiny_denoiser(image_size=16), Path("denoiser"))


def other_checkpoint() -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "resnet.pt")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def checkpoint_with_code() -> None:
    Path("code.pt").write_bytes(pickle.dumps(Bomb()))


def a_file() -> None:
    Path("file").write_text("I am text")


PREPARE: dict[str, Callable[[], object]] = {
    "empty": empty,
    "few": few,
    "flat": flat,
    "many": many,
    "first is text": first_image(text),
    "first trusted is text": first_image(text, "trusted"),
    "first is cut off": first_image(truncated),
    "first is a bomb": first_image(bomb),
    "table": table_without_images,
    "pickle": unknown_pickle,
    "tar": tar_that_leads_out,
    "no weights": denoiser_without_weights,
    "other weights": denoiser_with_other_weights,
    "strange config": denoiser_with_a_strange_config,
    "one size": denoiser_of_one_size,
    "resnet": other_checkpoint,
    "code": checkpoint_with_code,
    "file": a_file,
    "golden": lambda: write_checkpoint(Path("golden.pt")),
}

# What is made wrong in the folder of the user (if anything), the command, and the words of the answer.
CASES = r"""
$ eclipse purify imags --denoiser denoiser --out out
no such path: 'imags'; expected a folder of images
$ eclipse purify images --trusted trsted --out out
no such path: 'trsted'; expected a folder of images
$ eclipse purify 'shards-{000..004}.tar' --denoiser denoiser --out out
no such path: 'shards-000.tar'
$ eclipse purify images --denoiser nowhere --out out
cannot read nowhere/config\.json: No such file or directory; give a folder made by
$ eclipse denoiser import nowhere.pt --out out
cannot read nowhere\.pt: No such file or directory; give the path
$ eclipse denoiser info nowhere
cannot read nowhere/config\.json: No such file or directory; give a folder made by
$ eclipse demo --data nowhere --out out
no such path: 'nowhere'; expected a folder of images

$ [empty] eclipse purify empty --denoiser denoiser --out out
empty has no images; expected at least one
$ [empty] eclipse purify images --trusted empty --out out
empty has no images; expected at least one
$ eclipse purify 'images[5:5]' --denoiser denoiser --out out
'images\[5:5\]' is empty; expected rows .* 20
$ eclipse purify 'images[:21]' --denoiser denoiser --out out
'images\[:21\]' is out of range; expected rows .* 20

$ eclipse purify images --trusted trusted --denoiser denoiser --out out
--trusted and --denoiser; expected one
$ eclipse purify images --start general --out out
--start general is for training; give --trusted CLEAN
$ eclipse purify images --denoiser denoiser --iterations 3 --out out
--iterations 3 is for training; give --trusted CLEAN
$ eclipse purify images --preset paper --out out
--preset paper needs --trusted CLEAN
$ eclipse purify images --trusted trusted --start cold --out out
--start 'cold'; expected general or nothing
$ eclipse denoiser train trusted --preset paper --start general --out out
--start general does not fit
$ [few] eclipse purify images --trusted few --out out
few has 49 images; a denoiser needs at least 50 .*: give more images
$ [few] eclipse denoiser train few --out out
49 trusted images; a denoiser needs at least 50, .*: give more images
$ [few] eclipse denoiser train few --out out --dry-run
49 trusted images; a denoiser needs at least 50, .*: give more images

$ [first is text] eclipse purify images --denoiser denoiser --out out
images/class0/000\.png is not an image that can be read; expected one of PNG, .*; --skip-bad leaves such images out
$ [first trusted is text] eclipse purify images --trusted trusted --out out
trusted/class0/000\.png is not an image that can be read; expected one of PNG
$ [first trusted is text] eclipse denoiser train trusted --out out
trusted/class0/000\.png is not an image that can be read; expected one of PNG
$ [first is cut off] eclipse purify images --denoiser denoiser --out out
images/class0/000\.png is a damaged or truncated image .*; expected a complete one
$ [first is a bomb] eclipse purify images --denoiser denoiser --out out
images/class0/000\.png is .*, as decompression bombs are; expected at most 67,108,864 pixels

$ [table] eclipse purify data.parquet --denoiser denoiser --out out
data\.parquet has no image column; expected one .* among its columns: name \(string\), label \(int64\)
$ [table] eclipse purify data.parquet --denoiser denoiser --out out --image-column nme
unknown column of data\.parquet 'nme'; did you mean 'name'\?
$ eclipse purify images --denoiser denoiser --out out --image-column img
images is no table, so it has no column 'img'; leave the option out
$ [flat] eclipse demo --data flat --out out
the demo needs labels, and flat/000\.png lies in no folder of a class; expected each image in one

$ [one size] eclipse purify images --denoiser denoiser --out out
images/class0/000\.png: images of 8x8; this denoiser takes 16x16 only: resize the images, or train
$ eclipse purify images --trusted trusted --out out --preset paper
trusted image 0 is 8x8; this denoiser takes 32x32 only: resize the images, or use --preset fast
$ eclipse denoiser train trusted --out out --preset paper
trusted image 0 is 8x8; this denoiser takes 32x32 only: resize the images, or use --preset fast
$ [many] eclipse demo --data many --out out
images of 8x8; the demo's network takes 16x16 and up
$ eclipse demo --data images --out out
20 images; the demo needs at least 200

$ [pickle] eclipse purify data.pkl --denoiser denoiser --out out
data\.pkl is not a pickle that can be read safely
$ [tar] eclipse purify data.tar --denoiser denoiser --out out
data\.tar has the member '\.\./escaped\.png', which leads out of it; expected a path inside

$ [no weights] eclipse purify images --denoiser denoiser --out out
cannot read denoiser/model\.safetensors: No such file or directory; give a folder made by
$ [other weights] eclipse purify images --denoiser denoiser --out out
denoiser/model\.safetensors is damaged or belongs to another config\.json .*; give a folder made by
$ [strange config] eclipse purify images --denoiser denoiser --out out
denoiser/config\.json is not the config of a denoiser .*; give a folder made by
$ eclipse purify images --denoiser trusted --out out
cannot read trusted/config\.json: No such file or directory; give a folder made by
$ [resnet] eclipse denoiser import resnet.pt --out out
resnet\.pt is not an improved-diffusion checkpoint that can be imported: .*; expected the state dict of a U-Net
$ [code] eclipse denoiser import code.pt --out out
code\.pt is not .* it holds code, or is no PyTorch file; expected the state dict of a U-Net
$ [golden] eclipse denoiser import golden.pt --out images
images holds more than a denoiser; expected a new path or an older denoiser: choose another
$ eclipse denoiser train trusted --out images
images exists; choose another output

$ eclipse purify images --denoiser denoiser --out out --sigma 300
sigma 300/255 is out of range; expected .* in 8-bit levels
$ eclipse purify images --denoiser denoiser --out out --sigma 0.02
sigma 0\.02/255 is out of range; expected .* in 8-bit levels
$ eclipse purify images --denoiser denoiser --out out --sigma 60
noise level .*/255; this denoiser was trained on levels up to .*: choose a lower level
$ eclipse purify images --trusted trusted --out out --sigma nan
sigma nan/255 is out of range; expected .* in 8-bit levels
$ eclipse purify images --trusted trusted --out out --steps 5000
5000 steps from noise level .*; expected at most \d+, .*: lower --steps
$ eclipse purify images --trusted trusted --out out --steps 0 --sampler ddim
0 steps; expected at least 1
$ eclipse purify images --denoiser denoiser --out out --steps 2 --sampler one-step
2 steps of the sampler 'one-step'; expected 1, or another --sampler
$ eclipse purify images --trusted trusted --out out --iterations 0
--iterations 0; expected more than 0
$ eclipse purify images --trusted trusted --out out --minutes -1
--minutes -1; expected more than 0
$ eclipse purify images --trusted trusted --out out --iterations 5 --minutes 1
--iterations 5 and --minutes 1; expected one of them, not both
$ eclipse purify images --denoiser denoiser --out out --preset paper
--preset paper, but denoiser is of preset fast; leave --preset out
$ eclipse purify images --denoiser denoiser --out out --batch 0
--batch 0; expected at least 1
$ eclipse purify images --denoiser denoiser --out out --p 40
grayscale probability 40; expected 0 to 1
$ eclipse purify images --denoiser denoiser --out out --noise 12.8
noise 12\.8 looks like 8-bit levels; expected a value on the \[0, 1\] scale
$ eclipse purify images --denoiser denoiser --out out --compensate twice
--compensate 'twice'; expected online or once
$ eclipse purify images --denoiser denoiser --out out --sampler ancestrl
unknown sampler 'ancestrl'; did you mean 'ancestral'\?
$ eclipse purify images --trusted trusted --out out --preset fats
unknown preset 'fats'; did you mean 'fast'\?
$ eclipse purify images --denoiser denoiser --out out --preset fats
unknown preset 'fats'; did you mean 'fast'\?
$ eclipse denoiser train trusted --out out --preset papr
unknown preset 'papr'; did you mean 'paper'\?
$ eclipse purify images --denoiser denoiser --out out --format parqet
unknown format 'parqet'; did you mean 'parquet'\?
$ eclipse demo --attack lspp --out out
unknown attack 'lspp'; did you mean 'lsp'\?
$ eclipse purify images --denoiser denoiser --out out --device gpu
device 'gpu' is not one that torch knows; expected auto, cpu or cuda
$ eclipse purify images --denoiser denoiser --out out --device cuda
device 'cuda' is not here, torch sees 0 GPU\(s\); use --device cpu
$ eclipse denoiser train trusted --out out --device cuda
device 'cuda' is not here, torch sees 0 GPU\(s\); use --device cpu

$ eclipse purify images --denoiser denoiser --out images
the output images is equal to the input .*; expected a path apart from it
$ eclipse purify images --denoiser denoiser --out images/clean
the output images/clean is inside the input .*; expected a path apart from it
$ eclipse purify images/class0 --denoiser denoiser --out images
the output images is a folder around the input .*; expected a path apart from it
$ eclipse purify images --denoiser denoiser --out .
the output '\.' has no name of its own; expected a path that ends in one
$ eclipse purify images --denoiser denoiser --out images/..
the output 'images/\.\.' has no name of its own; expected a path that ends in one
$ eclipse purify images --trusted trusted --out trusted/out
the output trusted/out is inside the trusted images trusted; expected a path apart from them
$ eclipse purify images --denoiser denoiser --out trusted
trusted exists already; expected a new path: choose another one or remove it
$ [file] eclipse purify images --denoiser denoiser --out file/out
file/out cannot be made, since .*/file is not a folder that can be written; choose another path
$ eclipse purify images --denoiser denoiser --out out.npz --format parquet
out\.npz is named like npz, but would be written as parquet; expected a fitting name: add --format npz
$ eclipse purify s3://bucket/images --denoiser denoiser --out out
's3://bucket/images' is a URL; expected a path on this machine: copy the data by the tools of s3
$ eclipse purify images --denoiser denoiser --out s3://bucket/out
's3://bucket/out' is a URL; expected a path on this machine
$ eclipse purify images --trusted https://host/t-{0..9}.tar[:5] --out out
'https://host/t-\{0\.\.9\}\.tar\[:5\]' is a URL; expected a path on this machine
$ eclipse poison images --attack urp --out=file:///tmp/out
'file:///tmp/out' is a URL; expected a path on this machine
$ eclipse train images --test images --out gs://bucket/run
'gs://bucket/run' is a URL; expected a path on this machine
$ eclipse denoiser train images --out hdfs://host/out
'hdfs://host/out' is a URL; expected a path on this machine
$ eclipse bench grid.toml --out s3://bucket/results
's3://bucket/results' is a URL; expected a path on this machine
$ eclipse demo --out s3://bucket/demo
's3://bucket/demo' is a URL; expected a path on this machine
$ [many] eclipse demo --data many --out images
images is not empty; give the demo a new folder with --out, or delete it
"""


def cases() -> list[tuple[str, str]]:
    lines = [line for line in CASES.splitlines() if line]
    return [(command.removeprefix("$ "), words) for command, words in zip(lines[::2], lines[1::2], strict=True)]


@pytest.mark.parametrize(("line", "words"), cases(), ids=[line for line, _ in cases()])
def test_bad_input_is_one_sentence_and_leaves_nothing(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch, line: str, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    prepared = re.match(r"\[(.*?)\] ", line)
    if prepared:
        PREPARE[prepared[1]]()
    before = tree_bytes(place), files(place)
    sentence = refusal(command(*shlex.split(line[prepared.end() :] if prepared else line)[1:]))
    assert re.search(words, sentence), sentence
    assert (tree_bytes(place), files(place)) == before


def test_a_malicious_pickle_does_not_run(place: Path, command: Command) -> None:
    for content in malicious(place / "ran", 4):
        Path("data.pkl").write_bytes(content)
        assert "not a pickle that can be read safely" in refusal(command(*USE, "data.pkl"))
        assert "no PyTorch file" in refusal(command("denoiser", "import", "data.pkl", "--out", "out"))
        assert not Path("ran").exists() and not Path("out").exists()
    pickle.loads(content)  # the proof that it would have run
    assert Path("ran").exists()


# Errors on the way

USE = ["purify", "--denoiser", "denoiser", "--out", "out"]


def manifest(out: str = "out") -> dict[str, Any]:
    return dict(json.loads(Path(f"{out}.run.json").read_text()))


def test_one_bad_image_among_many_stops_the_run_and_may_be_left_out(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)
    Path("images", "class1", "007.png").write_bytes(b"I am text")
    said = command(*USE, "images", "--batch", 2)
    assert refusal(said).endswith("; --skip-bad leaves such images out")
    assert manifest()["status"] == "failed" and manifest()["reason"] == refusal(said)
    assert not Path("out").exists()
    assert command(*USE, "images", "--skip-bad").code == 0
    done = manifest()
    assert done["status"] == "complete" and done["counts"] == {"input": 20, "purified": 19, "skipped": 1}
    assert list(done["skipped"]) == ["images/class1/007.png"]
    assert "is not an image" in done["skipped"]["images/class1/007.png"]
    assert len(list(Path("out").rglob("*.png"))) == 19 and not Path("out", "class1", "007.png").exists()


@pytest.mark.parametrize(
    ("code", "moment"),
    [(errno.EROFS, "first"), (errno.ENOSPC, "shards"), (errno.EIO, "shards"), (errno.EACCES, "output")],
)
def test_an_error_of_the_disk_is_one_sentence_and_leaves_no_half_output(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch, code: int, moment: str
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(code, os.strerror(code), "out")

    owner, name = {
        "first": (manifests, "write_json"),
        "shards": (shards, "whole"),
        "output": (import_module("eclipse.jobs.job"), "whole"),
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        said = command(*USE, "images")
    sentence = refusal(said)
    assert "out" in sentence and re.search("choose|run the same command again", sentence), sentence
    assert not Path("out").exists() and not Path(".out.partial").exists()
    assert command(*USE, "images").code == 0
    assert manifest()["status"] == "complete" and len(list(Path("out").rglob("*.png"))) == 20


def test_a_read_only_target_is_refused_first(place: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(place)
    access = os.access  # as on a read-only disk, and so that it holds for root, too
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    sentence = refusal(command(*USE, "images"))
    assert re.search("out cannot be made, since .* is not a folder that can be written; choose", sentence), sentence
    assert files(place) == before


def test_a_source_that_vanishes_is_one_sentence_and_may_come_back(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise = stream.denoise

    def vanishing(*args: Any) -> torch.Tensor:
        if Path("images").exists():
            Path("images").rename("away")
        return denoise(*args)

    with monkeypatch.context() as patch:
        patch.setattr(stream, "denoise", vanishing)
        said = command(*USE, "images", "--batch", 1)
    assert re.search(r"images/.*: it has vanished: put it back and run the same command again", refusal(said))
    assert manifest()["status"] == "failed" and not Path("out").exists()
    Path("away").rename("images")
    assert command(*USE, "images", "--batch", 1).code == 0


def test_a_sentence_is_one_line_whatever_the_names_of_files(place: Path, command: Command) -> None:
    assert "line break" in refusal(command("denoiser", "info", "line\nbreak"))


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07\x1b[2J", "a\u202egnp", "\x9b2J\u200b"])
def test_names_of_a_data_set_cannot_steer_the_terminal(
    name: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "in", 2)
    (data / name).mkdir()
    (data / name / f"{name}.png").write_bytes(b"no image")
    bad = command("verify", data, "--clean", data)
    assert not name.isprintable() and refusal(bad).isprintable()
    show.facts(name, {name: name, "a": {name: name}})
    show.columns(("class",), [(name,)])
    with show.Show() as shown:
        shown.tell(StageStep(name, 1, 1, {name: 1.0}))
    said = capsys.readouterr()
    assert "".join((said.out + said.err).split("\n")).isprintable(), said


@pytest.mark.parametrize("words", [("doctor", "in\udcff"), ("purify", "\udcff", "--out", "o"), ("report", "\udcff")])
def test_arguments_that_are_not_utf8_are_refused(words: tuple[str, ...], command: Command) -> None:
    assert "is not UTF-8" in refusal(command(*words))


# Options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["purify", "images", "--stpes", "3"], "--steps"),
        (["purify", "images", "--trustd", "x"], "--trusted"),
        (["purfy"], "purify"),
        (["denoiser", "trian"], "train"),
        (["purify"], "IMAGES"),
        (["purify", "images"], "--out"),
        (["purify", "images", "--out", "out", "--steps", "many"], "--steps"),
        (["demo", "--seed", "-1"], "--seed"),
        (["denoiser", "import", "x.pt", "--out", "out", "--heads", "0"], "--heads"),
    ],
)
def test_a_wrong_option_is_answered_by_the_right_one(command: Command, arguments: list[str], words: str) -> None:
    said = command(*arguments)
    assert said.code == 2 and words in said.err and "Traceback" not in said.err


def test_help_is_there_for_every_command_and_loads_nothing_heavy() -> None:
    commands = ["", "purify", "poison", "verify", "attacks", "denoiser", "denoiser train", "denoiser import"]
    commands += ["denoiser info", "demo", "doctor", "audit", "choose", "detectors"]
    code = """
import sys
from eclipse.cli import main
for line in sys.argv[1].split(","):
    sys.argv = ["eclipse", *line.split(), "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
print("heavy:", *{"torch", "numpy", "PIL", "pyarrow", "diffusers", "datasets", "sklearn"} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code, ",".join(commands)], capture_output=True, text=True, check=True)
    assert run.stdout.rpartition("heavy:")[2].strip() == ""
    for line in commands:
        assert f"Usage: eclipse {line}".strip() in run.stdout
    for option in (
        "--trusted",
        "--skip-bad",
        "--compensate",
        "--dry-run",
        "--minutes",
        "--heads",
        "--attack",
        "--auto",
        "--ask",
    ):
        assert option in run.stdout


def test_the_version_is_that_of_the_package(command: Command) -> None:
    said = command("--version")
    assert (said.code, said.out) == (0, f"eclipse {metadata.version('eclipse-purify')}\n")


def test_completion_is_offered(command: Command) -> None:
    assert "--install-completion" in command("--help").out


def test_no_arguments_show_the_help(command: Command) -> None:
    said = command()
    assert "Start with: eclipse purify IMAGES --trusted CLEAN --out PURIFIED" in said.out + said.err


def test_a_dry_run_of_an_import_tells_what_it_found_and_writes_nothing(place: Path, command: Command) -> None:
    write_checkpoint(Path("golden.pt"))
    before = tree_bytes(place), files(place)
    said = command("denoiser", "import", "golden.pt", "--out", "out", "--dry-run")
    assert said.code == 0 and said.err == ""
    assert "preset" in said.out and "done" not in said.out
    assert (tree_bytes(place), files(place)) == before


@pytest.mark.usefixtures("tiny_fast")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("purify images --trusted trusted", {"denoiser", "purification"}),
        ("purify images --trusted trusted --minutes 3", {"denoiser", "purification"}),
        ("purify images --denoiser denoiser --steps 3", {"purification"}),
        ("denoiser train trusted", {"training"}),
        ("train images --test trusted --arch small --epochs 2", {"training"}),
        ("train images --test trusted --arch small --defense mixup", {"training"}),
    ],
)
def test_the_time_that_it_will_take_is_told(place: Path, command: Command, words: str, told: set[str]) -> None:
    for name in ("images", "trusted"):
        shutil.rmtree(name)
        write_images(Path(name), 50 if name == "trusted" else 20, side=16, seed=len(name))
    said = command(*words.split(), "--out", "out", "--dry-run")
    assert said.code == 0, said
    cost = said.out.partition("expected cost\n")[2].splitlines()
    lines = {line.split()[0]: line for line in cost if line.startswith("  ")}
    assert set(lines) == told
    for line in lines.values():
        assert re.search("minute.* a second, measured on two batches|3 minutes, as asked for", line), line


@pytest.mark.usefixtures("tiny_fast")
def test_commands_that_are_printed_can_be_copied(place: Path, command: Command) -> None:
    Path("trusted").rename("my trusted; images")
    Path("images").rename("it's")
    trained = command("denoiser", "train", "my trusted; images", "--out", "the denoiser")
    assert shlex.split(trained.out.partition("next ")[2]) == [
        *("eclipse", "purify", "IMAGES", "--denoiser", "the denoiser", "--out", "PURIFIED")
    ]
    poisoned = command("poison", "it's", "--attack", "urp", "--out", "a $poison")
    line = shlex.split(poisoned.out.partition("next ")[2])
    assert line == ["eclipse", "verify", "a $poison", "--clean", "it's"] and command(*line[1:]).code == 0


def test_the_settings_are_told_before_the_work_starts(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **options: object) -> None:
        raise OSError(errno.EIO, "stopped")

    monkeypatch.setattr(purify_job, "purify_rows", stop)
    said = command(*USE, "images", "--sigma", 6.4, "--seed", 5)
    assert "sigma 6.4" in said.out and re.search(r"seed +5\n", said.out)


@pytest.mark.parametrize("format", ["folder", "parquet", "npz", "webdataset"])
def test_every_format_holds_the_same_images(place: Path, command: Command, format: str) -> None:
    name = {"parquet": "out.parquet", "npz": "out.npz"}.get(format, "out")
    said = command("purify", "images", "--denoiser", "denoiser", "--out", name, "--format", format)
    assert said.code == 0, said
    assert f"20 images in {name}" in said.out and f"{name}.run.json" in said.out
    before, after = (load_imageset(open_source(spec), "a test") for spec in ("images", name))
    assert open_source(name).layout == format
    expected = purify(before.images, load_denoiser(Path("denoiser")), ids=before.ids)
    np.testing.assert_array_equal(after.images, expected)
    assert after.labels is not None and before.labels is not None and (after.labels == before.labels).all()
    assert manifest(name)["settings"]["output"]["format"] == format


@pytest.mark.parametrize(("name", "layout"), [("a.npz", "npz"), ("a.Parquet", "parquet"), ("a.tar", "webdataset")])
@pytest.mark.parametrize("words", ["purify images --denoiser denoiser", "poison images --attack urp"])
def test_the_name_of_an_output_tells_its_format(
    place: Path, command: Command, words: str, name: str, layout: str
) -> None:
    said = command(*words.split(), "--out", name)
    assert said.code == 0, said
    again = open_source(name)
    assert (again.layout, len(again)) == (layout, 20)
    assert json.loads(Path(f"{name}.run.json").read_text())["settings"]["output"]["format"] == layout
    assert "complete already" in command(*words.split(), "--out", name, "--format", layout).out


@pytest.mark.parametrize("place_of", [check_name, lambda path: open_source(str(path))])
def test_a_url_is_no_folder_in_python_either(place_of: Callable[[Path], object]) -> None:
    with pytest.raises(EclipseError, match="is a URL; expected a path on this machine"):
        place_of(Path("s3://bucket/data"))


def test_compensation_may_be_written_into_the_images(place: Path, command: Command) -> None:
    said = command(*USE, "images", "--compensate", "once", "--p", 0.5, "--noise", 0.1, "--q", 0.8, "--seed", 2)
    assert said.code == 0 and "written into the images" in said.out
    before, after = (load_imageset(open_source(spec), "a test") for spec in ("images", "out"))
    plain = purify(before.images, load_denoiser(Path("denoiser")), ids=before.ids, seed=2)
    expected = once(ImageSet(plain, before.ids), p=0.5, noise=0.1, q=0.8, seed=2)
    np.testing.assert_array_equal(after.images, expected.images)


def test_else_the_advice_is_to_compensate_in_training(place: Path, command: Command) -> None:
    assert f"train with eclipse.Compensate(p={FAST.p}, noise={FAST.noise}, q={FAST.q})" in command(*USE, "images").out


def test_sliced_tables_keep_their_columns(place: Path, command: Command) -> None:
    images = [path.read_bytes() for path in sorted(Path("images").rglob("*.png"))]
    captions = [f"no {i}" for i in range(20)]
    pq.write_table(pa.table({"photo": images, "kind": [0, 1] * 10, "caption": captions}), "data.parquet")
    columns = ["--image-column", "photo", "--label-column", "kind"]
    said = command("purify", "data.parquet[5:15]", "--denoiser", "denoiser", "--out", "out.parquet", *columns)
    assert said.code == 0, said
    table = pq.read_table("out.parquet")
    assert table.column_names == ["photo", "kind", "caption"]
    assert table["caption"].to_pylist() == captions[5:15]
    assert set(table["photo"].to_pylist()).isdisjoint(images)


@pytest.mark.usefixtures("tiny_fast")
@pytest.mark.parametrize(
    ("images", "trusted", "noted"),
    [(1099, 55, "5% of the 1099 to purify; 55 are"), (1100, 55, None), (30, 50, None), (30, 51, "170% of the 30 to")],
)
def test_more_than_five_percent_of_trusted_images_or_the_fewest_possible_are_noted(
    place: Path, command: Command, images: int, trusted: int, noted: str | None
) -> None:
    np.savez("many.npz", images=some_images(images))
    np.savez("clean.npz", images=some_images(trusted, seed=1))
    said = command("purify", "many.npz", "--trusted", "clean.npz", "--out", "out.npz", "--dry-run")
    assert said.code == 0
    assert ("note: " in said.out) == bool(noted) and (noted or "") in said.out


# Trusted images that are suspicious


def as_folder(images: NDArray[np.uint8], place: Path) -> None:
    for i, image in enumerate(images):
        path = place / f"class{i % 2}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path, compress_level=9)


def as_parquet(images: NDArray[np.uint8], place: Path) -> None:
    as_folder(images, Path("for parquet"))
    encoded = [path.read_bytes() for path in sorted(Path("for parquet").rglob("*.png"))]
    pq.write_table(pa.table({"image": encoded}), place)
    shutil.rmtree("for parquet")


FORMS: dict[str, Callable[[NDArray[np.uint8], Path], None]] = {
    "set.npz": lambda images, place: np.savez(place, images=images),
    "set": as_folder,
    "set.parquet": as_parquet,
}


@pytest.mark.usefixtures("tiny_fast")
@pytest.mark.parametrize("trusted", FORMS)
@pytest.mark.parametrize("suspicious", FORMS)
def test_trusted_images_that_are_suspicious_are_told_by_their_pixels(
    place: Path, command: Command, suspicious: str, trusted: str
) -> None:
    images, others = some_images(70, seed=3), some_images(30, seed=4)
    sets = {"suspicious": (suspicious, images), "some": (trusted, np.concatenate([images[40:], others]))}
    for folder, (form, rows) in {**sets, "all": (trusted, images[5:60])}.items():
        Path(folder).mkdir()
        FORMS[form](rows, Path(folder, form))
    options = ("purify", f"suspicious/{suspicious}", "--out", "out", "--format", "folder", "--trusted")
    whole = refusal(command(*options, f"all/{trusted}"))
    assert f"all 55 trusted images of all/{trusted} are in suspicious/{suspicious}, too" in whole
    said = command(*options, f"some/{trusted}", "--dry-run")
    assert said.code == 0 and "note: 30 of the 60 trusted images are among the suspicious ones, too" in said.out
    assert not Path("out.run.json").exists()


@pytest.mark.usefixtures("tiny_fast")
@pytest.mark.parametrize(("suspicious", "said"), [("[:100]", "all 60"), ("[30:]", "30 of the 60"), ("[60:]", "")])
def test_slices_of_one_set_that_share_rows_are_told(place: Path, command: Command, suspicious: str, said: str) -> None:
    np.savez("set.npz", images=np.zeros((1000, 8, 8, 3), np.uint8))  # by their rows: these pixels are all the same
    told = command("purify", f"set.npz{suspicious}", "--trusted", "set.npz[:60]", "--out", "out.npz", "--dry-run")
    assert said in told.out + told.err
    assert told.code == (2 if said == "all 60" else 0) and ("among the suspicious" in told.out) == ("of the" in said)


# run.json


@pytest.mark.usefixtures("tiny_fast")
def test_the_manifest_tells_what_was_done(place: Path, command: Command) -> None:
    said = command("purify", "images", "--trusted", "trusted[:50]", "--out", "out", "--seed", 3, "--device", "cpu")
    assert said.code == 0, said
    done = manifest()
    assert done["status"] == "complete" and done["command"].startswith("eclipse purify images --trusted")
    settings = done["settings"]
    assert settings["input"] == {"spec": "images", "layout": "folder", "images": 20}
    assert settings["trusted"] == {"spec": "trusted[:50]", "images": 50}
    assert settings["purification"] == {"sigma": FAST.sigma * 255, "steps": FAST.steps, "sampler": FAST.sampler}
    assert settings["compensation"] == {"mode": "online", "p": FAST.p, "noise": FAST.noise, "q": FAST.q}
    assert settings["training"]["iterations"] == 3 and settings["seed"] == 3 and settings["preset"] == "fast"
    assert settings["device"]["type"] == "cpu" and settings["precision"]
    assert done["versions"]["torch"] and done["started"] <= done["finished"]
    assert set(done["seconds"]) == {"denoiser", "purification"} and min(done["seconds"].values()) >= 0
    assert done["counts"] == {"input": 20, "purified": 20, "skipped": 0} and done["skipped"] == {}
    assert done["denoiser"]["trained"]["trusted images"] == 50
    for name in ("input fingerprint", "trusted fingerprint", "output fingerprint"):
        assert re.fullmatch("[0-9a-f]{64}", done[name])
    assert done["denoiser"]["fingerprint"] == fingerprint_denoiser(load_denoiser(Path("out.denoiser")))
    assert sorted(path.name for path in place.iterdir()) == sorted(
        ["images", "trusted", "denoiser", "out", "out.denoiser", "out.run.json"]
    )


# The other commands


@pytest.mark.usefixtures("tiny_fast")
def test_a_denoiser_is_trained_described_and_used(place: Path, command: Command) -> None:
    train = ["denoiser", "train", "trusted", "--out", "mine", "--iterations", 2, "--seed", 4]
    said = command(*train)
    assert said.code == 0 and "training the denoiser: 100%" in said.err
    assert (
        re.search(r"noise levels +up to \S+/255\n", said.out) and "None" not in said.out.partition("expected cost")[0]
    )
    facts = command("denoiser", "info", "mine").out
    assert all(line in said.out for line in facts.splitlines()[1:])
    for words in (
        r"preset +fast",
        r"trusted images +50",
        r"iterations done +2",
        r"seed +4",
        r"image size +any",
        r"noise levels +\S+/255 to ",
    ):
        assert re.search(words, facts), words
    assert command("purify", "images", "--denoiser", "mine", "--out", "out").code == 0


def test_without_trusted_images_the_general_denoiser_does_the_work(place: Path, command: Command) -> None:
    said = command("purify", "images", "--out", "out")
    assert said.code == 0 and re.search("denoiser +general, comes with eclipse", said.out)
    made = json.loads(Path("out.run.json").read_bytes())
    assert made["settings"]["denoiser"] == "general, comes with eclipse"
    assert made["denoiser"]["fingerprint"] == fingerprint_denoiser(load_denoiser())
    assert not Path("out.denoiser").exists()


def test_larger_images_are_reduced_first(place: Path, command: Command) -> None:
    Image.new("RGB", (30, 12), "gray").save(Path("images/class0/wide.png"))
    purify = ["purify", "images", "--denoiser", "denoiser", "--out", "out", "--max-side"]
    said = command(*purify, 10, "--report")
    assert said.code == 0 and "note: images are reduced to 10 pixels" in said.out
    sizes = {Image.open(path).size for path in Path("out").rglob("*.png")}
    assert sizes == {(8, 8), (10, 4)}, "smaller ones stay"
    assert json.loads(Path("out.run.json").read_bytes())["settings"]["input"]["max side"] == 10
    assert "max side" in refusal(command(*purify, 12))
    assert Path("out.report.html").exists()


def test_a_checkpoint_is_imported_described_and_used(place: Path, checkpoint: Path, command: Command) -> None:
    said = command("denoiser", "import", checkpoint, "--out", "imported", "--image-size", 8)
    assert said.code == 0, said
    facts = command("denoiser", "info", "imported").out
    assert said.out == facts
    for words in (r"preset +imported", r"image size +8x8", r"learned variance +True", r"ema_0\.9999_000100\.pt"):
        assert re.search(words, facts), words
    options = ["--steps", 2, "--sampler", "ddim"]
    assert command("purify", "images[:2]", "--denoiser", "imported", "--out", "out", *options).code == 0
    assert manifest()["settings"]["purification"]["sigma"] == pytest.approx(6.4, abs=0.05)


def test_doctor_finds_no_problem_here(command: Command) -> None:
    said = command("doctor")
    assert (said.code, said.err) == (0, "")
    assert "no problems found" in said.out
    facts = [r"torch +\d", r"precision +\w+", r"matrix product +\d+ GFLOP/s", r"preset fast +\d+ images", r"memory +\d"]
    for words in facts:
        assert re.search(words, said.out), said.out


def test_doctor_names_problems_with_their_remedies(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 2**15)  # 1 GiB
    monkeypatch.setattr(doctor, "purification_speed", lambda device: 100.0)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda module: None if module == "diffusers" else object())
    said = command("doctor")
    assert said.code == 1 and "no problems found" not in said.out
    problems = re.findall(r"^problem: (.*)$", said.out, re.MULTILINE)
    assert len(problems) == 2
    assert problems[0].endswith("use a larger machine") and problems[1].endswith("free some")
    assert re.search(r"paper .*: pip install 'eclipse-purify\[paper\]'", said.out)
    assert re.search(r"hub .*: installed", said.out)


# Progress


@pytest.mark.usefixtures("tiny_fast")
def test_progress_is_plain_lines_when_nobody_watches(place: Path, command: Command) -> None:
    said = command("purify", "images", "--trusted", "trusted", "--out", "out")
    lines = said.err.splitlines()
    assert re.fullmatch(r"training the denoiser: 100%, loss \d+\.\d+, \d+ images/s, 0 s left", lines[-3]), said.err
    assert lines[-2].startswith("canary: 100%, on your data this leaves ")
    assert re.fullmatch(r"purifying: 100%, 20 of 20, \d+ images/s, network busy \d+%, 0 s left", lines[-1]), said.err
    assert "\x1b" not in said.err + said.out


def test_plain_lines_come_every_ten_seconds_and_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = iter(np.arange(1000.0, 2000.0))
    with show.Show(lambda: float(next(clock))) as shown:
        for done in range(1, 41):
            shown.tell(Progress(done, 40, 1.0, 0.9))
    lines = capsys.readouterr().err.splitlines()
    assert [re.findall(r"(\d+) of 40, .*, (\d+) s left", line) for line in lines] == [
        [("1", "39")],
        [("11", "29")],
        [("21", "19")],
        [("31", "9")],
        [("40", "0")],
    ]


@pytest.mark.usefixtures("tiny_fast")
@pytest.mark.parametrize(
    "words",
    [
        "purify images --trusted trusted",
        "denoiser train trusted",
        "poison images --attack em --scale small --set max_rounds=1",
        "train images --test trusted --arch small --epochs 2",
    ],
)
def test_progress_for_programs_is_an_object_a_line(place: Path, command: Command, words: str) -> None:
    for name in ("images", "trusted"):
        shutil.rmtree(name)
        write_images(Path(name), 50 if name == "trusted" else 20, side=16, seed=len(name))
    said = command(*words.split(), "--out", "out", "--json")
    assert said.code == 0, said
    steps = [json.loads(line) for line in said.err.splitlines()]
    assert steps and all(set(step) == {"what", "share", "figures", "seconds_left"} for step in steps)
    assert steps[-1]["share"] == 1.0


def test_lines_for_programs_come_every_second_and_tell_the_ends_of_cells(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(np.arange(1000.0, 2000.0, 0.25))
    with show.Show(lambda: float(next(clock)), as_json=True) as shown:
        for done in range(1, 10):
            shown.tell(Progress(done, 40, 1.0, 0.9))
        shown.cell(CellStep("em-none", reason="first\nlast"), 2, 3)
    lines = list(map(json.loads, capsys.readouterr().err.splitlines()))
    assert [line.get("share") for line in lines] == [1 / 40, 5 / 40, 9 / 40, None]
    assert lines[-1] == {"cell": "em-none", "number": 2, "total": 3, "accuracy": None, "reason": "first\nlast"}


def test_progress_is_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(show, "Console", lambda **options: Console(file=screen, force_terminal=True, width=120))
    with show.Show() as shown:
        shown.tell(TrainStep(5, 0.5, 0.123, 800.0, 1.0, 1.0))
        shown.tell(Progress(30, 40, 250.0, 0.93))
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"training the denoiser [━╺╸]+ +50% loss 0\.123, 800 images/s", drawn), drawn
    assert re.search(r"purifying +[━╺╸]+ +75% 30 of 40, 250 images/s, network busy 93%", drawn), drawn
    assert "\x1b[" in screen.getvalue() and capsys.readouterr().err == ""
