"""Kills in this process, and what they leave."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.commands import Said, refusal


def manifest(out: Path) -> dict[str, Any]:
    return dict(json.loads(out.with_name(f"{out.name}.run.json").read_text()))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Killed(BaseException):
    """Ends a run as a kill does: nothing may catch it."""


def killing(work: Callable[..., Any]) -> Callable[..., Any]:
    def then_killed(*args: Any, **options: Any) -> Any:
        work(*args, **options)
        raise Killed

    return then_killed


def refused(said: Said, setting: str) -> None:
    """Check that a command was refused for a setting, and named it."""
    sentence = refusal(said)
    assert f"was made with {setting} = " in sentence and "resume with the same settings" in sentence
