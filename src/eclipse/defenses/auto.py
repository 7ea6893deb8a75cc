"""Auto: a set in which nothing is found stays as it is, any other gets the treatment that quick victims speak for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from eclipse.data.imageset import ImageSet
from eclipse.defenses.choice import CANDIDATES, FEWEST_LABELS, choose, treatment
from eclipse.defenses.defense import Defense, need
from eclipse.detectors.audit import audit
from eclipse.errors import EclipseError
from eclipse.runs.state import State, Work


@dataclass(frozen=True)
class Auto(Defense):
    """Audit first, then choose.

    Where the audit finds nothing, the images stay as they are. Else each candidate treatment is tried with quick
    victims on a part of the set, and the one whose victims are most accurate on trusted images is applied, grayscale
    and noise written into the images.

    Attributes:
        labels: how many labels of trusted images it may use; 0 for none.
    """

    title: ClassVar[str] = "audit, then the treatment that quick victims speak for"
    acts: ClassVar[str] = "data"
    trusted: ClassVar[str] = "images"
    labels: int = 0

    def __post_init__(self) -> None:
        if self.labels and self.labels < FEWEST_LABELS:
            raise EclipseError(f"{self.labels} labels for auto; expected 0, or at least {FEWEST_LABELS}, such as 200")

    def needs(self) -> str:
        """Labelled images where labels may be used."""
        return "labelled images" if self.labels else "images"

    def prepare(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Audit, choose, and apply what was chosen."""
        words = self.chosen(data, need(trusted, "auto", "a few images"), work)
        if words is None:
            return data
        chosen = treatment(words)
        return chosen.prepare(data, trusted if chosen.needs() != "nothing" else None, work)

    def chosen(self, data: ImageSet, trusted: ImageSet, work: Work) -> str | None:
        """The words of the treatment; None where nothing was found."""
        found = audit(data, trusted=replace(trusted, labels=None), work=_part(work, "audit"))
        if not found.suspicious:
            return None
        clean = trusted if self.labels else replace(trusted, labels=None)
        candidates = tuple(map(_written, CANDIDATES))
        return choose(data, clean, _part(work, "choice"), candidates=candidates, labels=self.labels).best.words

    def settings(self) -> dict[str, Any]:
        """With the candidates."""
        return {**super().settings(), "candidates": list(CANDIDATES)}

    def preparation(self) -> Mapping[str, Any]:
        """All of it decides the images."""
        return {"defense": "Auto", **self.settings()}

    def cost(self) -> float:
        """Of audit and choice, some 30 quick victims, beside one of a ResNet-18."""
        return 1.1


def _written(words: str) -> str:
    """A candidate with its grayscale and noise, if any, written into the images: nothing is left to training time."""
    return f"{words} compensation=once" if words.startswith("eclipse") and "parts=A" not in words.split() else words


def _part(work: Work, name: str) -> Work:
    folder = None if work.state.folder is None else work.state.folder / name
    return replace(work, state=State(folder, work.state.on_step, work.state.shared))
