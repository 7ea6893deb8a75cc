"""Examine the machine: what the package has to work with, and what stands in its way."""

import importlib.util
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eclipse.compute.device import compute_dtype, describe_device, resolve_device
from eclipse.diffusion.denoiser import build_denoiser
from eclipse.diffusion.presets import FAST
from eclipse.purification.algorithm import absorb, denoise, prepare, purification
from eclipse.runs.manifest import versions

# The extras: what each is for, and the modules that it brings.
EXTRAS = {
    "paper": ("preset paper, imported checkpoints", ("diffusers",)),
    "defenses": ("AA, OP, DP-SGD", ("kornia", "opacus")),
    "hub": ("hf:NAME", ("datasets",)),
    "report": ("the plots of pages", ("matplotlib",)),
}


@dataclass(frozen=True)
class Report:
    """Facts by section, and problems, each one sentence with its remedy."""

    sections: Mapping[str, Mapping[str, Any]]
    problems: tuple[str, ...]


def examine() -> Report:
    """Look at versions, device, speed, memory and disk; takes about two seconds."""
    device = resolve_device()
    dtype, reason = compute_dtype(device)
    speed = purification_speed(device)
    memory, disk = _memory_gib(), shutil.disk_usage(Path.cwd()).free / 2**30
    sections = {
        "versions": versions(),
        "computing": {
            "device": describe_device(device),
            "precision": f"{str(dtype).removeprefix('torch.')}: {reason}",
            "matrix product": f"{_gflops(device, dtype):.0f} GFLOP/s",
            "preset fast": f"{speed:.0f} images of 32x32 a second: 50,000 in {50_000 / speed / 60:.1f} minutes",
        },
        "extras": {extra: _state(extra) for extra in EXTRAS},
        "room": {"memory": f"{memory:.1f} GiB", "free disk here": f"{disk:.1f} GiB"},
    }
    return Report(sections, tuple(_problems(memory, disk)))


def purification_speed(device: str, seconds: float = 1.0) -> float:
    """Images of 32x32 a second through ``fast`` in memory, with random weights."""
    torch.manual_seed(0)
    ready = prepare(build_denoiser(FAST.denoiser), device)
    how = purification(FAST, FAST.denoiser)
    ids = [str(i) for i in range(64)]
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    done, began = -len(ids), time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        if done == 0:
            began = now  # the first batch is a warm-up
        denoise(ready, absorb(ready, images, ids, how, 0).to(device), ids, how, 0)
        done += len(ids)
    return max(done, 1) / (time.perf_counter() - began)


def _gflops(device: str, dtype: torch.dtype, size: int = 2048) -> float:
    a = torch.randn(size, size, device=device).to(dtype)
    (a @ a).sum().item()
    began = time.perf_counter()
    (a @ a).sum().item()
    return 2 * size**3 / (time.perf_counter() - began) / 1e9


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _problems(memory: float, disk: float) -> list[str]:
    problems = []
    if memory < 2:
        problems.append(f"{memory:.1f} GiB of memory: 2 are needed to train a denoiser; use a larger machine")
    if disk < 1:
        problems.append(f"{disk:.1f} GiB of free disk: purified data need about the room of the input; free some")
    return problems


def _state(extra: str) -> str:
    """What an extra is for, and how to install what is missing of it."""
    purpose, modules = EXTRAS[extra]
    missing = any(importlib.util.find_spec(module) is None for module in modules)
    return f"{purpose}: " + (f"pip install 'eclipse-purify[{extra}]'" if missing else "installed")
