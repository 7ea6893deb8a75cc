"""What a run writes about itself: run.json beside its output, and the settings that a resumed run must share."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from eclipse.errors import EclipseError

PACKAGES = ("eclipse-purify", "torch", "numpy", "pillow", "diffusers", "datasets", "pyarrow")


def versions() -> dict[str, str]:
    """The versions that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def run_json(out: Path) -> Path:
    """Where the manifest of an output lies: ``OUT.run.json`` beside it."""
    return out.with_name(out.name + ".run.json")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    write_whole(path, text.encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a hidden name beside it, flush it to the disk, and rename it into place.

    The hidden name is always the same, so that what a killed process leaves is overwritten by the next.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def command() -> str:
    """The command that started this process, for manifests."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def check_same_settings(made: Mapping[str, Any], asked: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on from a state made with other settings, naming the first that differs."""
    for name in sorted({*made, *asked}):
        if made.get(name) != asked.get(name):
            raise EclipseError(
                f"{path} was made with {name} = {_short(made.get(name))} and this run asks for "
                f"{_short(asked.get(name))}; resume with the same settings, choose another output, or delete it"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
