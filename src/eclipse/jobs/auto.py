"""``eclipse purify --auto``: audit first; what is suspicious gets the treatment that quick victims speak for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eclipse.errors import EclipseError
from eclipse.jobs.audit import FINDINGS, audit_job
from eclipse.jobs.choose import as_purification, choose_job, next_command, read_choice
from eclipse.jobs.job import Job
from eclipse.jobs.purify import purify_job
from eclipse.runs.files import read_json
from eclipse.runs.manifest import run_json


def purify_auto(
    images: str,
    out: Path,
    trusted: str | None,
    carry_out: Callable[[Job], None],
    *,
    seed: int = 0,
    device: str = "auto",
    format: str | None = None,
    image_format: str = "png",
    batch: int = 256,
    **reading: Any,
) -> str:
    """Audit a data set, and purify it where that finds something and quick victims speak for it.

    What was found lies beside the output, as ``OUT.audit`` and ``OUT.choice``, and is not made again: a killed run goes
    on when it is called again, and a choice that was ranked anew (``eclipse choose --labels``) counts.

    Args:
        images: the data set, as a spec for ``open_source``.
        out: where the purified copy goes, if one is made.
        trusted: spec of clean images, which treatments are judged on.
        carry_out: carries a job out, and shows it.
        seed: of all parts.
        device: ``auto``, ``cpu`` or ``cuda``.
        format: as ``purify_job`` has it.
        image_format: likewise.
        batch: likewise.
        reading: how the sets are read, as all three jobs have it: ``max_side``, ``skip_bad``, and columns.

    Returns:
        What came of it and what to do next, in words.

    Raises:
        EclipseError: no trusted images, or as the three jobs.
    """
    if trusted is None:
        raise EclipseError("--auto needs --trusted CLEAN: treatments are judged on clean images")
    common: dict[str, Any] = {"seed": seed, "device": device, **reading}
    how: dict[str, Any] = {**common, "format": format, "image_format": image_format, "batch": batch}
    plain = purify_job(images, out, **how)
    if not run_json(out).exists():
        plain.check_place()  # before minutes of work
    audit = audit_job(images, beside(out, "audit"), trusted=trusted, **common)
    carry_out(audit)
    if not audit.out.exists():
        return "what follows depends on what the audit finds"
    if not read_json(audit.out / FINDINGS)["suspicious"]:
        return f"nothing found: no copy was made, train on {images} as it is"
    choice = choose_job(images, trusted, beside(out, "choice"), **common)
    carry_out(choice)
    if not choice.out.exists():
        return f"{images} is suspicious; what follows depends on the choice"
    best = read_choice(choice.out)["best"]
    options = as_purification(best)
    if options is None:
        what = "no treatment" if best == "none" else f"{best}, which is no purification"
        return f"no copy was made, for quick victims speak for {what}; next: {next_command(best, images, trusted)}"
    carry_out(purify_job(images, out, **how, **options))
    return f"{images} is suspicious; the treatment for {out}, which quick victims speak for: {best}"


def beside(out: Path, part: str) -> Path:
    """The folder of a part's result: ``OUT.audit`` or ``OUT.choice``."""
    return out.with_name(f"{out.name}.{part}")
