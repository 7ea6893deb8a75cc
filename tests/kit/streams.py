"""A purification of opened sources and a denoiser in memory."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from eclipse.data.encoding import PNG, Encoding
from eclipse.data.store import Source
from eclipse.diffusion.denoiser import Denoiser
from eclipse.diffusion.presets import preset_of
from eclipse.jobs import purify
from eclipse.jobs.job import carry_out
from eclipse.jobs.purify import Purify
from eclipse.purification.stream import Treatment


def purify_source(
    source: Source,
    denoiser: Denoiser,
    out: Path,
    treatment: Treatment,
    *,
    format: str | None = None,
    batch: int = 256,
    encoding: Encoding = PNG,
    tell: Callable[[Any], None] = lambda event: None,
) -> Mapping[str, Any]:
    """Purify a data set into ``out`` as the command does, but for the canary, which reads and tells for itself."""
    compensate = "once" if treatment.once else "online"
    preset, folder = preset_of(denoiser.config), out.with_name("denoiser")
    job = Purify(source, out, format, treatment, preset, compensate, denoiser, None, None, folder, batch, {}, encoding)
    with patch.object(purify, "sample", lambda *_: None):
        return carry_out(job, tell)


def shard_folder(out: Path) -> Path:
    """Where the shards of an unfinished output lie."""
    return out.with_name(f".{out.name}.purifying")


def craft_folder(out: Path) -> Path:
    """Where the state of an unfinished crafting lies."""
    return out.with_name(f".{out.name}.poisoning")


def assemble(
    source: Source, pictures: Any, out: Path, format: str | None, skipped: frozenset[str], encoding: Encoding = PNG
) -> str:
    """Check a place, and write an output whole."""
    from eclipse.data.output import check_output, write_output
    from eclipse.runs.files import whole

    check_output(source, out, format, encoding)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as place:
        return write_output(source, pictures, place, format, skipped, encoding.suffix)
