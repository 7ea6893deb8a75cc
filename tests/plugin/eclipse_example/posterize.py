"""A defense: few levels of each color are left."""

from dataclasses import dataclass
from typing import ClassVar

from eclipse.defenses import Defense, EclipseError, ImageSet, Work


@dataclass(frozen=True)
class Posterize(Defense):
    """Keep the highest bits of every pixel."""

    title: ClassVar[str] = "posterize"
    acts: ClassVar[str] = "data"
    bits: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise EclipseError(f"{self.bits} bits of Posterize; expected 1 to 8")

    def prepare(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        step = 2 ** (8 - self.bits)
        return data.with_images(data.images // step * step + step // 2)
