"""Whether two sets share images: test images that play another part make every score worthless."""

import hashlib

from eclipse.data.imageset import ImageSet
from eclipse.data.source import split_slice
from eclipse.data.store import Source
from eclipse.errors import EclipseError

_CHANCE = 0.01  # the share of equal images that sets may have by themselves, by having some twice; one in any case


def check_apart_from_test(
    test: Source, test_images: ImageSet, other: Source, images: ImageSet, what: str, remedy: str = "choose other slices"
) -> None:
    """Refuse a set that shares rows, or more than a few equal images, with the test images.

    Raises:
        EclipseError: says how many, with ``what`` the other set is for and the remedy.
    """
    same = split_slice(test.spec)[0] == split_slice(other.spec)[0]
    rows = len(set(test_images.ids) & set(images.ids)) if same else 0
    if rows:
        raise EclipseError(f"{rows} rows of {test.spec} are in {other.spec} ({what}), too; {remedy}")
    equal = len(_digests(test_images) & _digests(images))
    if equal > max(1, _CHANCE * min(len(test_images), len(images))):
        raise EclipseError(f"{equal} test images of {test.spec} are in {other.spec} ({what}), too; {remedy}")


def _digests(images: ImageSet) -> set[bytes]:
    return {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.images}
