"""The machine: where to compute, in which precision and memory layout, torch's own randomness."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from eclipse.compute.randomness import stream
from eclipse.errors import EclipseError

Module = TypeVar("Module", bound=nn.Module)


def resolve_device(device: str = "auto") -> str:
    """Turn ``auto`` into the best device here, and refuse one that is not."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise EclipseError(f"device {device!r} is not one that torch knows; expected auto, cpu or cuda") from error
    if asked.type not in ("cpu", "cuda"):
        raise EclipseError(f"device {device!r} is not supported; expected auto, cpu or cuda")
    if asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise EclipseError(f"device {device!r} is not here, torch sees {count} GPU(s); use --device cpu")
    return device


def compute_dtype(device: str) -> tuple[torch.dtype, str]:
    """The precision for network passes on a device, and why.

    bfloat16 only where the hardware multiplies it; elsewhere torch emulates it, many times slower than float32.
    """
    if torch.device(device).type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "the GPU multiplies bfloat16"
        return torch.float32, "the GPU has no bfloat16"
    if cpu_has_bf16():
        return torch.bfloat16, "the processor multiplies bfloat16 (AVX512-BF16 or AMX)"
    return torch.float32, "the processor has no bfloat16 instructions"


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def autocast(device: torch.device) -> torch.autocast:
    """Run the operations inside in the precision of ``compute_dtype`` where that is safe; elsewhere change nothing."""
    dtype, _ = compute_dtype(str(device))
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@contextmanager
def enough_memory(device: str, work: str) -> Iterator[None]:
    """Word what torch raises when a GPU is too small; ``work`` goes on after "too little memory"."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EclipseError(
            f"{device} has too little memory {work}; expected a larger GPU: choose a smaller network or batch, or "
            "--device cpu"
        ) from error


def describe_device(device: str) -> str:
    """A device in words, for manifests."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return f"{torch.backends.cpu.get_cpu_capability()} processor, {torch.get_num_threads()} threads"


def channels_last(network: Module) -> Module:
    """Bring a network, in place, into the memory layout in which convolutions are fast."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@contextmanager
def seeded(seed: int, purpose: str, step: int = 0, device: str = "cpu") -> Iterator[None]:
    """Seed torch's global generators with (seed, purpose, step) for a while; afterwards they are as they were.

    For what draws from them without being asked: fresh weights, dropout, augmentations.
    """
    number = int(stream(seed, purpose, step, "torch").integers(2**63))
    gpus = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(number)  # torch.manual_seed takes 0.3 ms, which a training step feels
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(number)
        yield
