"""Images per second of the presets in one run on one machine, and how busy the network is in the pipeline.

    python benchmarks/purify_speed.py --out benchmarks/results/purify_speed.json --table docs/speed.md

Weights are random: speed does not depend on them. ``paper`` in float32 is the reference code's speed. All of its
network evaluations cost the same, so a few of the 100 an image takes are timed (``--paper-evaluations``) and scaled;
``fast`` is timed whole.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from eclipse.compute.device import compute_dtype, describe_device, resolve_device
from eclipse.diffusion.checkpoint import save_denoiser
from eclipse.diffusion.denoiser import Denoiser, build_denoiser
from eclipse.diffusion.presets import FAST, PAPER
from eclipse.jobs.doctor import purification_speed
from eclipse.jobs.job import carry_out
from eclipse.jobs.purify import purify_job
from eclipse.runs.files import write_json
from eclipse.runs.manifest import command, versions


def smooth_images(count: int) -> np.ndarray:
    """Images that compress like photographs: enlarged random 8x8 ones."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(x).resize((32, 32), Image.Resampling.BICUBIC)) for x in small])


def pipeline_speed(device: str, count: int) -> dict[str, float]:
    """Purify a file of ``count`` images into another: images a second, and the network's share of the time."""
    last: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "in.npz", images=smooth_images(count))
        save_denoiser(build_denoiser(FAST.denoiser), Path(folder) / "denoiser")
        images, out = str(Path(folder) / "in.npz"), Path(folder) / "out.npz"
        job = purify_job(images, out, denoiser=Path(folder) / "denoiser", device=device)
        began = time.monotonic()
        carry_out(job, last.append)
        seconds = time.monotonic() - began
    return {"images_per_s": count / seconds, "network_busy": last[-1].busy, "images": count}


@torch.inference_mode()
def paper_speed(
    denoiser: Denoiser, device: str, dtype: torch.dtype, channels_last: bool, batch: int, evaluations: int
) -> dict[str, float]:
    """Images a second of 100 evaluations, from a few timed ones after one that warms up."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    ready = denoiser.to(device=device, dtype=dtype, memory_format=layout).eval()
    x = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=layout)
    t = torch.full((batch,), 99, device=device)
    ready(x, t).eps.sum().item()
    began = time.perf_counter()
    for _ in range(evaluations):
        ready(x, t).eps.sum().item()
    seconds = (time.perf_counter() - began) / evaluations
    return {"images_per_s": batch / (seconds * PAPER.steps), "seconds_per_evaluation": seconds, "batch": batch}


def measure(args: argparse.Namespace) -> dict[str, object]:
    device = resolve_device(args.device)
    paper = build_denoiser(PAPER.denoiser)
    fp32 = paper_speed(paper, device, torch.float32, False, args.batch, args.paper_evaluations)
    bf16 = paper_speed(paper, device, torch.bfloat16, True, args.batch, args.bf16_evaluations)
    memory = {"images_per_s": purification_speed(device, seconds=10.0)}
    pipeline = pipeline_speed(device, args.images)
    return {
        "command": command(),
        "device": describe_device(device),
        "precision of fast": compute_dtype(device)[1],
        "paper float32": fp32,
        "paper bfloat16 channels-last": bf16,
        "fast in memory": memory,
        "fast file to file": pipeline,
        "ratio fast in memory / paper float32": memory["images_per_s"] / fp32["images_per_s"],
        "ratio fast file to file / paper float32": pipeline["images_per_s"] / fp32["images_per_s"],
        "ratio paper bfloat16 / paper float32": bf16["images_per_s"] / fp32["images_per_s"],
        "versions": versions(),
    }


def render(result: dict[str, object]) -> str:
    """Render a measurement as Markdown."""
    base = result["paper float32"]["images_per_s"]
    lines = [
        "# Speed of purification",
        "",
        f"32x32 images, random weights, one run. Device: {result['device']} ({result['precision of fast']}). "
        f"Command: `{result['command']}`.",
        "",
        "| what | images/s | ratio to `paper` in float32 |",
        "|---|--:|--:|",
    ]
    for name in ("paper float32", "paper bfloat16 channels-last", "fast in memory", "fast file to file"):
        speed = result[name]["images_per_s"]
        lines.append(f"| {name} | {speed:.4g} | {speed / base:,.2f} |")
    busy = result["fast file to file"]["network_busy"]
    return "\n".join([*lines, "", f"From file to file the network is at work for {busy:.1%} of the time.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8192, help="images from file to file with fast")
    parser.add_argument("--batch", type=int, default=16, help="batch of paper")
    parser.add_argument("--paper-evaluations", type=int, default=5, help="timed of the 100 an image, float32")
    parser.add_argument("--bf16-evaluations", type=int, default=1, help="timed of the 100 an image, bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="write the measurement as JSON")
    parser.add_argument("--table", type=Path, help="write it as Markdown")
    args = parser.parse_args()
    result = measure(args)
    if args.out:
        write_json(args.out, result)
    if args.table:
        args.table.write_text(render(result))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
