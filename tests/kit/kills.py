"""Kills in this process, and what they leave."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kit.commands import Said, refusal

from eclipse.runs import manifest as manifests


def manifest(out: Path) -> dict[str, Any]:
    return dict(json.loads(out.with_name(f"{out.name}.run.json").read_text()))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Killed(BaseException):
    """Ends a run as a kill does: nothing may catch it."""


@contextmanager
def killed_at_the_end(monkeypatch: pytest.MonkeyPatch, told: bool) -> Iterator[None]:
    """Kill what runs inside when its output is there: before, or right after, its manifest says that it is complete."""
    write = manifests.write_json

    def killed(path: Path, content: Mapping[str, Any]) -> None:
        ends = content.get("status") == "complete"
        if told or not ends:
            write(path, content)
        if ends:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(manifests, "write_json", killed)
        yield


def killing(work: Callable[..., Any]) -> Callable[..., Any]:
    def then_killed(*args: Any, **options: Any) -> Any:
        work(*args, **options)
        raise Killed

    return then_killed


def refused(said: Said, setting: str) -> None:
    """Check that a command was refused for a setting, and named it."""
    sentence = refusal(said)
    assert f"was made with {setting} = " in sentence and "resume with the same settings" in sentence
