"""Pages and tables from results."""

from pathlib import Path

from eclipse.errors import EclipseError
from eclipse.runs.manifest import run_json

_MANIFEST = run_json(Path("x")).name[1:]  # what the names of manifests end with


def write_report(target: Path, out: Path | None = None) -> list[Path]:
    """Write the report of whatever a path holds: results of a grid, an audit, a choice, an explanation, or a
    purified data set.

    Args:
        target: the folder of a grid, an audit, a choice or an explanation; a purified data set, or its manifest.
        out: the folder to write to; None for the usual place.

    Raises:
        EclipseError: it is none of these, or cannot be reported on.
    """
    from eclipse.jobs.audit import FINDINGS
    from eclipse.jobs.choose import CHOICE
    from eclipse.jobs.explain import FOUND
    from eclipse.report import audit, choice, explain, grid, purified

    if target.name.endswith(_MANIFEST) and target.name != _MANIFEST:
        target = target.with_name(target.name.removesuffix(_MANIFEST))
    if (target / FINDINGS).is_file():
        return audit.write_report(target, out)
    if (target / FOUND).is_file():
        return explain.write_report(target, out)
    if (target / CHOICE).is_file():
        return choice.write_report(target, out)
    if run_json(target).is_file() and not (target / "grid.json").is_file():
        return purified.write_report(target, out)
    if target.is_dir():
        return grid.write_report(target, out)
    what = f"has no {run_json(target).name} beside it" if target.exists() else "is not there"
    raise EclipseError(
        f"{str(target)!r} {what}; expected a data set that 'eclipse purify' made, or the folder given to 'eclipse "
        "bench --out'"
    )
