"""Peak memory and seconds of ``eclipse purify`` for inputs of odd sizes: many files, large images, one large row group.

    python benchmarks/memory.py --out benchmarks/results/memory.json

Each command runs in a process of its own, of which the kernel tells the most memory that it ever had (VmHWM, Linux).
The network is tiny: what it needs for a tile of a large image depends on its widths, and comes on top. A measurement
that was interrupted goes on with the inputs that are missing in its file.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from eclipse.compute.device import describe_device
from eclipse.diffusion.checkpoint import save_denoiser
from eclipse.diffusion.denoiser import build_denoiser
from eclipse.diffusion.presets import FAST
from eclipse.runs.files import write_json
from eclipse.runs.manifest import command, versions

TINY = {"widths": [4, 4], "blocks": [1, 1]}
PEAKS = "peaks"  # what the process of a command leaves


def noise(side: int, format: str = "PNG") -> bytes:
    """An image that no format makes smaller."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, format)
    return buffer.getvalue()


def many_files(root: Path, count: int = 100_000) -> str:
    """Images of 8x8 in a hundred folders."""
    png = noise(8)
    for label in range(100):
        (root / "many" / f"class{label:02d}").mkdir(parents=True)
        for i in range(count // 100):
            (root / "many" / f"class{label:02d}" / f"{i:04d}.png").write_bytes(png)
    return "many"


def large_images(root: Path, side: int = 8000) -> str:
    """Eight images of the largest kind."""
    (root / "large").mkdir()
    (root / "large" / "0.jpg").write_bytes(noise(side, "JPEG"))
    for i in range(1, 8):
        os.link(root / "large" / "0.jpg", root / "large" / f"{i}.jpg")
    return "large"


def large_row_group(root: Path, megabytes: int = 500) -> str:
    """A file of one row group."""
    png = noise(256)
    count = megabytes * 10**6 // len(png)
    table = pa.table({"image": [png] * count, "label": [0] * count})
    pq.write_table(table, root / "in.parquet", row_group_size=count, compression="none", use_dictionary=False)
    assert pq.ParquetFile(root / "in.parquet").num_row_groups == 1
    return "in.parquet"


INPUTS: dict[str, Callable[[Path], str]] = {
    "a folder of 100,000 images of 8x8": many_files,
    "a folder of 8 images of 8000x8000": large_images,
    "a Parquet file with one row group of 500 MB": large_row_group,
}


# In the process of a command


def peak_mib() -> int:
    """The most memory that this process ever had."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def be_the_command(arguments: list[str]) -> None:
    from eclipse.cli import main
    from eclipse.jobs import purify

    assert purify, "what the command imports in any case"
    before = peak_mib()
    sys.argv = ["eclipse", *arguments]
    try:
        main()
    finally:
        Path(PEAKS).write_text(json.dumps([before, peak_mib()]))


# Around it


def measure(root: Path, name: str) -> dict[str, Any]:
    given = INPUTS[name](root)
    arguments = ["purify", given, "--denoiser", "denoiser", "--out", f"purified-{given}", "--device", "cpu", "--json"]
    began, first, said = time.monotonic(), None, list[str]()
    line = [sys.executable, str(Path(__file__).resolve()), "--child", *arguments]
    with subprocess.Popen(line, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for said_now in process.stderr:
            said.append(said_now)
            if first is None and said_now.startswith('{"what": "purifying"'):
                first = time.monotonic() - began
    if process.returncode or first is None:
        raise SystemExit(f"{arguments} ended with {process.returncode}:\n{''.join(said[-20:])}")
    before, peak = json.loads((root / PEAKS).read_text())
    return {
        "peak MiB": peak,
        "before the work MiB": before,
        "seconds": round(time.monotonic() - began, 1),
        "seconds to the first images": round(first, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the file to keep the figures in")
    parser.add_argument("--only", action="append", choices=list(INPUTS), help="this input; repeatable")
    args = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    if args.out and args.out.exists():
        found = json.loads(args.out.read_text())["inputs"]
    for name in args.only or INPUTS:
        if name in found:
            continue
        with tempfile.TemporaryDirectory() as folder:
            save_denoiser(build_denoiser(replace(FAST.denoiser, options=TINY)), Path(folder) / "denoiser")
            found[name] = measure(Path(folder), name)
        if args.out:
            kept = {"command": command(), "device": describe_device("cpu"), "inputs": found, "versions": versions()}
            write_json(args.out, kept)
        print(name, found[name], flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        be_the_command(sys.argv[2:])
    else:
        main()
