"""Damage small valid inputs of every reader at random, and count how reading them ends.

    python benchmarks/fuzz.py --count 10000

An input is right if it is read, or refused by an EclipseError. Anything else is wrong: another exception, more than 5
seconds, more than 1 GiB of memory beside what the process had, a crash, a file written outside, a process started. Each
input depends on the reader and its number alone (--only READER --first N --count 1 repeats one). A second run goes on
where the first one was stopped, as long as nothing is --fresh. Results: benchmarks/results/fuzz.json.
"""

import argparse
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from eclipse.attacks.imported import open_imported
from eclipse.bench.grid import read_grid
from eclipse.data.output import check_output, write_output
from eclipse.data.picture import encode_png
from eclipse.data.source import load_imageset, open_source
from eclipse.diffusion.checkpoint import CONFIG, WEIGHTS, load_denoiser, save_denoiser
from eclipse.diffusion.denoiser import DenoiserConfig, build_denoiser
from eclipse.diffusion.improved_diffusion import import_checkpoint
from eclipse.diffusion.schedule import NoiseSchedule
from eclipse.errors import EclipseError
from eclipse.purification.shards import Item, Shards, checksum, digest_of
from eclipse.report.grid import write_report
from eclipse.runs.files import write_json
from eclipse.runs.manifest import check_same_settings, flat, read_kept, read_manifest, run_json, versions
from eclipse.runs.state import State

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent / "tests"))
from kit.reference_unet import Weights, improved_unet  # noqa: E402

SECONDS, MEMORY = 5, 2**30
RIGHT = ("read", "refused")


# ---- valid inputs, and how they are read


def image(number: int, side: int = 32) -> np.ndarray:
    """A different image for each number, (side, side, 3)."""
    return np.random.default_rng(number).integers(0, 200, (side, side, 3), dtype=np.uint8)


def encoded(number: int, kind: str = "PNG") -> bytes:
    """An encoded image."""
    buffer = io.BytesIO()
    Image.fromarray(image(number, 8)).save(buffer, kind)
    return buffer.getvalue()


def make_folder(root: Path) -> None:
    """Images of many formats in two classes, and files beside them."""
    for number, kind in enumerate(("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")):
        place = root / "in" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.{kind.lower()}").write_bytes(encoded(number, kind))
    (root / "in" / "notes.txt").write_text("notes")
    (root / "in" / "metadata.jsonl").write_text('{"file_name": "a/0.png", "text": "one"}\n{"file_name": "b/1.jpeg"}\n')
    (root / "in" / "a" / "metadata.csv").write_text('file_name,text\n0.png,"one, two"\n')


def table() -> pa.Table:
    """Images as ``datasets`` keeps them, with labels and other columns."""
    images = [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(6)]
    features = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}
    columns = {
        "caption": pa.array([f"no {i % 2}" for i in range(6)]),
        "image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "label": [i % 2 for i in range(6)],
        "boxes": [[i, i + 1] for i in range(6)],
    }
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def make_parquet(root: Path) -> None:
    """Two row groups."""
    pq.write_table(table(), root / "in.parquet", row_group_size=4)


def make_arrow(root: Path) -> None:
    """A folder as ``datasets`` saves it."""
    (root / "in").mkdir()
    with pa.OSFile(str(root / "in" / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table().schema) as writer:
        writer.write_table(table(), 4)
    state = {"_data_files": [{"filename": "data.arrow"}], "_fingerprint": "0", "_format_type": None, "_split": "train"}
    (root / "in" / "state.json").write_text(json.dumps(state))
    (root / "in" / "dataset_info.json").write_text("{}")


def make_webdataset(root: Path) -> None:
    """Two shards with names of classes, one of them with extended headers."""
    (root / "in").mkdir()
    for shard, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(root / "in" / f"{shard}.tar", "w", format=form) as tar:
            for i in range(3):
                name = f"{'long' * 30 if i == 2 else 'part'}/{i}"
                for ending, data in (("png", encoded(i)), ("cls", b"%d" % (i % 2)), ("json", b'{"a": [1]}')):
                    member = tarfile.TarInfo(f"{name}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    (root / "in" / "classnames.txt").write_text("ant\nbee\n")


def make_npz(root: Path) -> None:
    """Deflated arrays."""
    images = np.stack([image(i, 8) for i in range(6)])
    names = np.array(["ant", "bee"])
    np.savez_compressed(root / "in.npz", images=images, labels=np.arange(6) % 2, class_names=names, index=np.arange(6))


def make_cifar(root: Path) -> None:
    """Two batches and the names of classes, of protocols 2 and 4."""
    (root / "in").mkdir()
    for number in (1, 2):
        pixels = np.stack([image(i).reshape(-1) for i in range(2)])
        batch = {"data": pixels, "labels": [0, 1], "filenames": ["a.png", "b.png"]}
        (root / "in" / f"data_batch_{number}").write_bytes(pickle.dumps(batch, 2 * number))
    (root / "in" / "batches.meta").write_bytes(pickle.dumps({"label_names": ["ant", "bee"]}, 2))


def make_pickle(root: Path) -> None:
    """The list of the ECLIPSE authors."""
    (root / "in.pkl").write_bytes(pickle.dumps([(image(i).tobytes(), i % 2) for i in range(2)], 3))


def read_set(root: Path) -> None:
    """Open a set, decode each image, load it whole, and write it in its own layout and in another."""
    path = next(path for path in root.iterdir() if path.name.startswith("in"))
    source = open_source(path)
    rows = list(source.rows())
    pictures = [(row.id, encode_png(row.picture())) for row in rows]
    source.fingerprint()
    for name, format in (("own", None), ("other", "parquet" if source.layout == "webdataset" else "webdataset")):
        out = root / "out" / name
        check_output(source, out, format)
        write_output(source, iter(pictures), out, format, frozenset())
    load_imageset(source, "this")


def tiny() -> DenoiserConfig:
    """A denoiser of a few thousand weights."""
    options = {"widths": [4, 8], "blocks": [1, 1]}
    schedule = NoiseSchedule("cosine", 4000)
    return DenoiserConfig("compact", options, schedule, False, 650, None, "fast", {"iterations": 1})


def make_denoiser(root: Path) -> None:
    """A folder of a denoiser."""
    save_denoiser(build_denoiser(tiny()), root / "in")


def read_denoiser(root: Path) -> None:
    """Load a denoiser and ask it."""
    denoiser = load_denoiser(root / "in")
    size = denoiser.config.image_size or 8
    denoiser(torch.zeros(1, 3, min(size, 64), min(size, 64)), torch.tensor([0]))


def make_checkpoint(root: Path) -> None:
    """A whole checkpoint of a small network, in improved-diffusion's names."""
    weights = Weights()
    options = {"multipliers": [1, 1], "blocks": 1, "attention": [1], "heads": 4, "in_channels": 3, "out_channels": 6}
    improved_unet(weights, torch.zeros(1, 3, 8, 8), torch.zeros(1), channels=32, **options)
    torch.save(dict(weights), root / "in.pt")
    read_checkpoint(root)  # here, since diffusers opens a socket when it is imported


def read_checkpoint(root: Path) -> None:
    """Import a checkpoint."""
    import_checkpoint(root / "in.pt")


def make_shards(root: Path) -> None:
    """Finished rows of an unfinished purification, and the set that they are of."""
    make_npz(root)
    (root / "in.npz").rename(root / "clean.npz")
    (root / "in").mkdir()
    shards = Shards(root / "in", "0")
    rows = list(open_source(root / "clean.npz").rows())
    for part in (rows[:4], rows[4:]):
        shards.add([Item(row.id, row.name, digest_of(row), row.picture()) for row in part])


def read_shards(root: Path) -> None:
    """Go on with them, and put the output together."""
    source = open_source(root / "clean.npz")
    shards = Shards(root / "in", "0")
    shards.check(source, skip_bad=True)
    write_output(source, shards.pictures(source), root / "out" / "out.npz", None, frozenset(shards.skipped()))


def make_state(root: Path) -> None:
    """What a run keeps of itself: a manifest, settings, an outcome, tensors."""
    settings = {"seed": 0, "attack": {"name": "urp", "norm": "Linf", "radius": 0.03}}
    write_json(run_json(root / "in"), {"status": "started", "settings": settings})
    write_json(root / "settings.json", flat(settings))
    write_json(root / "outcome.json", {"images": 6, "skipped": []})
    State(root).save("noise", {"noise": torch.zeros(2, 3, 4, 4)}, {"done": 1, "facts": [1, 2.5]})


def read_state(root: Path) -> None:
    """Read all of it."""
    made = flat(read_manifest(root / "in")["settings"])
    check_same_settings(read_kept(root / "settings.json"), made, root)
    read_kept(root / "outcome.json")
    State(root).load("noise")


def make_grid(root: Path) -> None:
    """A grid with most of what a grid can have."""
    shutil.copy(ROOT / "smoke.toml", root / "in.toml")


def read_the_grid(root: Path) -> None:
    """Read it and name its cells."""
    list(read_grid(root / "in.toml").cells())


def make_cells(root: Path) -> None:
    """Results of five cells."""
    asked = json.loads((ROOT / "results" / "cpu" / "grid.json").read_bytes())
    with (ROOT / "results" / "cpu" / "cells.jsonl").open("rb") as file:
        lines = list(itertools.islice(file, 5))
    names = {json.loads(line)["cell"] for line in lines}
    asked["cells"] = [cell for cell in asked["cells"] if cell["cell"] in names]
    write_json(root / "grid.json", asked)
    (root / "cells.jsonl").write_bytes(b"".join(lines))


def read_cells(root: Path) -> None:
    """Write the reports."""
    write_report(root, root / "out")


def make_perturbation(root: Path) -> None:
    """A clean set, and perturbations of it in three forms."""
    make_npz(root)
    (root / "in.npz").rename(root / "clean.npz")
    noise = np.random.default_rng(0).normal(0, 4, (6, 3, 8, 8)).astype(np.float32)
    np.save(root / "noise.npy", noise)
    np.savez_compressed(root / "noise.npz", noise=noise)
    torch.save({"noise": torch.from_numpy(noise)}, root / "noise.pt")


def read_perturbation(root: Path) -> None:
    """Add each to the set; a refusal of one does not hide the others."""
    refused = None
    for kind in ("npy", "npz", "pt"):
        try:
            clean = open_source(root / "clean.npz")
            list(open_imported(str(root / f"noise.{kind}"), clean, 1, "levels").rows(clean))
        except EclipseError as error:
            refused = error
    if refused:
        raise refused


READERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "folder": (make_folder, read_set),
    "parquet": (make_parquet, read_set),
    "arrow": (make_arrow, read_set),
    "webdataset": (make_webdataset, read_set),
    "npz": (make_npz, read_set),
    "cifar": (make_cifar, read_set),
    "pickle": (make_pickle, read_set),
    "denoiser": (make_denoiser, read_denoiser),
    "checkpoint": (make_checkpoint, read_checkpoint),
    "shards": (make_shards, read_shards),
    "state": (make_state, read_state),
    "grid": (make_grid, read_the_grid),
    "cells": (make_cells, read_cells),
    "perturbation": (make_perturbation, read_perturbation),
}
"""What makes a valid input in a folder, and what reads it."""


# ---- damage

BYTES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff\xff\xff\x7f", b"\r\n")
WORDS = (
    b"null", b"-1", b"0", b"1e999", b"NaN", b"true", b'""', b"[]", b"{}", b"9" * 30, b"9" * 5000, b'"\\ud800"',
    b'"\\u0000"', b'"../../x"', b'"\x1b[2J"', b"[" * 2000, b"[" * 100 + b"]" * 100, b'{"a":' * 100 + b"1" + b"}" * 100,
    b'"' + b"x" * 70000 + b'"', b"4294967296", b"2147483648", b"1.5", b"\xff\xfe", b"-9223372036854775809",
)  # fmt: skip


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The bytes with one to four faults of any kind."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = draw.choice(FAULTS)(data, draw)
    return data


def _place(data: bytes, draw: random.Random) -> int:
    """Often near an end, where formats have their headers."""
    near = min(len(data), 512)
    return draw.choice((draw.randrange(len(data) + 1), draw.randrange(near + 1), len(data) - draw.randrange(near + 1)))


def _bits(data: bytes, draw: random.Random) -> bytes:
    at = _place(data, draw)
    return data[:at] + bytes(byte ^ (1 << draw.randrange(8)) for byte in data[at : at + 1]) + data[at + 1 :]


def _over(data: bytes, draw: random.Random) -> bytes:
    at, new = _place(data, draw), draw.choice((draw.choice(BYTES), draw.randbytes(draw.randrange(1, 9))))
    return data[:at] + new + data[at + len(new) :]


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: _place(data, draw)]


def _without(data: bytes, draw: random.Random) -> bytes:
    at = _place(data, draw)
    return data[:at] + data[at + draw.choice((1, 4, 64, 512)) :]


def _twice(data: bytes, draw: random.Random) -> bytes:
    at, size = _place(data, draw), draw.choice((1, 16, 512, 4096))
    return data[: at + size] + data[at : at + size] * draw.choice((1, 1, 50)) + data[at + size :]


def _more(data: bytes, draw: random.Random) -> bytes:
    at = _place(data, draw)
    return data[:at] + draw.choice((*BYTES, *WORDS, draw.randbytes(16))) + data[at:]


def _word(data: bytes, draw: random.Random) -> bytes:
    """Another value where text has one: numbers and quoted words, in JSON, TOML, headers of arrays."""
    found = list(
        itertools.islice(re.finditer(rb'-?\d+(?:\.\d+)?|"[^"\n]{0,80}"|true|false|null', data[:200_000]), 2000)
    )
    if not found:
        return _over(data, draw)
    chosen = draw.choice(found)
    return data[: chosen.start()] + draw.choice(WORDS) + data[chosen.end() :]


FAULTS = (_bits, _over, _cut, _without, _twice, _more, _word, _word)


def damage(reader: str, root: Path, draw: random.Random) -> None:
    """Damage one file of an input; half of the time behind its checksums."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "clean.npz")
    path = draw.choice(files)
    behind = draw.random() < 0.5
    if behind and path.suffix == ".npz":
        _damage_array(path, draw)
        return
    data = damaged(path.read_bytes(), draw)
    if behind and path.suffix == ".tar":
        data = _with_checksums(data)
    if behind and reader == "shards":
        data = data[:-16] + checksum([data[:-16]])
    path.write_bytes(data)
    if reader == "denoiser" and path.name == WEIGHTS and behind:
        config = json.loads((root / "in" / CONFIG).read_bytes())
        config["weights_sha256"] = hashlib.sha256(data).hexdigest()
        (root / "in" / CONFIG).write_text(json.dumps(config))


def _damage_array(path: Path, draw: random.Random) -> None:
    """Damage an array in a whole archive."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(list(members))
    members[name] = damaged(members[name], draw)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _with_checksums(data: bytes) -> bytes:
    """A tar file in which each block that looks like a header has a right checksum."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    for number, block in enumerate(blocks):
        if len(block) == 512 and block[257:262] == b"ustar":
            total = sum(block[:148]) + 8 * 32 + sum(block[156:])
            blocks[number] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)


# ---- a process that reads damaged inputs


class TooLong(BaseException):
    """The time of an input is over."""


class Forbidden(BaseException):
    """A process was started, or a file opened for writing elsewhere."""


def guard(scratch: Path) -> None:
    """Bound the memory of this process, and raise for what no reader may do."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    allowed = str(scratch)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in (
            "os.system",
            "subprocess.Popen",
            "os.exec",
            "os.posix_spawn",
            "os.fork",
            "os.forkpty",
            "pty.spawn",
        ):
            raise Forbidden(f"{event} {arguments[:1]}")
        if event in ("socket.connect", "socket.bind"):
            raise Forbidden(event)
        writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (
            writes or event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "shutil.rmtree")
        ) and not isinstance(arguments[0], int):
            place = os.path.realpath(os.fsdecode(arguments[0]))
            if not place.startswith(allowed) and place != "/dev/null":
                raise Forbidden(f"{event} {place}")

    sys.addaudithook(audit)


def outcome(reader: str, number: int, scratch: Path, valid: Path) -> tuple[str, str]:
    """How the reading of one damaged input ends, and what was raised where that is wrong."""
    root = scratch / "case"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(valid, root)
    (root / "out").mkdir(exist_ok=True)
    draw = random.Random(f"{reader} {number}")
    (root / "out").rmdir()
    damage(reader, root, draw)
    (root / "out").mkdir()

    def alarm(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        READERS[reader][1](root)
        return "read", ""
    except EclipseError as error:
        text = str(error)
        return ("refused", "") if "\n" not in text else ("more than a line", text)
    except TooLong:
        return "more than 5 s", traceback.format_exc()
    except Forbidden:
        return "forbidden", traceback.format_exc()
    except OSError as error:
        if error.errno in (36, 20, 21, 17, 2):  # the command line words these: a long name, a file for a folder
            return "refused", ""
        return "OSError", traceback.format_exc()
    except BaseException as error:
        return type(error).__name__, traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def work(reader: str, numbers: range, scratch: Path, valid: Path, told: Connection) -> None:
    """Read damaged inputs one after the other, in a process of its own."""
    os.chdir(scratch)
    for stream in (1, 2):  # libraries of C print what they like
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    guard(scratch)
    for number in numbers:
        told.send((number, "crash", ""))
        told.send((number, *outcome(reader, number, scratch, valid)))


def outcomes(reader: str, numbers: range, scratch: Path) -> Iterator[tuple[int, str, str]]:
    """(number, how it ended, what was raised) of each damaged input; a process that dies is begun anew."""
    valid = scratch / "valid"
    shutil.rmtree(scratch, ignore_errors=True)
    valid.mkdir(parents=True)
    torch.manual_seed(0)
    READERS[reader][0](valid)
    before = sorted(path.name for path in scratch.parent.iterdir())
    fork = multiprocessing.get_context("fork")
    while numbers:
        mine, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=work, args=(reader, numbers, scratch, valid, theirs))
        process.start()
        theirs.close()
        last = None
        while mine.poll(SECONDS * 4):
            try:
                number, how, why = mine.recv()
            except EOFError:
                break
            last = number
            if how != "crash":
                yield number, how, why
                last = None
                numbers = range(number + 1, numbers.stop)
        process.kill()
        process.join()
        if last is not None:
            yield last, "crash", f"exit code {process.exitcode}"
            numbers = range(last + 1, numbers.stop)
    if sorted(path.name for path in scratch.parent.iterdir()) != before:
        yield -1, "forbidden", "a file beside the folder of the inputs"


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="inputs a reader")
    parser.add_argument("--first", type=int, help="number of the first input; nothing is kept")
    parser.add_argument("--only", choices=READERS, help="one reader")
    parser.add_argument("--fresh", action="store_true", help="forget what was done")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "fuzz.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep = options.first is None
    found: dict[str, Any] = {}
    if keep and options.out.exists() and not options.fresh:
        found = json.loads(options.out.read_bytes())["readers"]
    with tempfile.TemporaryDirectory() as scratch:
        for reader in [options.only] if options.only else READERS:
            now = found.setdefault(reader, {"inputs": 0, "seconds": 0.0, "outcomes": {}, "wrong": {}})
            first = now["inputs"] if keep else options.first
            numbers, began = range(first, options.count if keep else first + options.count), time.monotonic()
            counts, before = Counter(now["outcomes"]), now["seconds"]
            for number, how, why in outcomes(reader, numbers, Path(scratch) / reader):
                counts[how] += 1
                if how not in RIGHT:
                    now["wrong"][str(number)] = f"{how}: {' '.join(why.split()[-12:])}"
                    if not keep:
                        print(why)
                now["inputs"] = max(now["inputs"], number + 1)
                now["outcomes"], now["seconds"] = dict(counts), round(before + time.monotonic() - began, 1)
                if keep and number % 100 == 99:
                    write_json(options.out, {"readers": found, "versions": versions()})
            print(f"{reader:<13} {now['inputs']:>6} inputs, {dict(counts)}", flush=True)
            if keep:
                write_json(options.out, {"readers": found, "versions": versions()})
    wrong = sum(len(now["wrong"]) for now in found.values())
    print(f"{wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
