"""Whether two sets share images.

Test images that play another part make every score worthless, and a denoiser that learns from suspicious images learns
their poison.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from eclipse.data.imageset import ImageSet
from eclipse.data.picture import Pixels
from eclipse.data.source import split_slice
from eclipse.data.store import Row, Source
from eclipse.errors import EclipseError

_CHANCE = 0.01  # the share of equal images that sets may have by themselves, by having some twice; one in any case
_DECODED = 1 << 30  # pixels that are decoded for a comparison, some 20 seconds; after them only what is stored counts


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


def shared_with(suspicious: Source, trusted: Source) -> int:
    """How many trusted images are among the suspicious ones, by their pixels, however these are stored.

    Reads each set once and keeps digests of the trusted images alone; slices of one path are not read. Images that
    cannot be read are in no other set.

    Raises:
        EclipseError: all of them are.
    """
    if split_slice(suspicious.spec)[0] == split_slice(trusted.spec)[0]:
        first, last = (pick(suspicious.span[end], trusted.span[end]) for pick, end in ((max, 0), (min, -1)))
        shared = max(0, last - first + 1)
    else:
        wanted = [{_stored(row), _decoded(row)[0]} - {b""} for row in trusted.rows()]
        known, found, pixels = set[bytes]().union(*wanted), set[bytes](), 0
        for row in suspicious.rows():
            digest, size = _stored(row), 0
            if digest not in known and pixels < _DECODED:
                digest, size = _decoded(row)
            found |= known & {digest}
            pixels += size
        shared = sum(bool(digests & found) for digests in wanted)
    refuse_if_all(shared, len(trusted), suspicious.spec, trusted.spec)
    return shared


def refuse_if_all(shared: int, trusted: int, suspicious_spec: str, trusted_spec: str) -> None:
    """Refuse trusted images that are all suspicious."""
    if shared == trusted:
        raise EclipseError(
            f"all {trusted} trusted images of {trusted_spec} are in {suspicious_spec}, too, and what learns from them "
            "would learn the poison; expected clean images from elsewhere, or slices that share no rows"
        )


def rows_shared(suspicious: ImageSet, trusted: ImageSet) -> NDArray[np.bool_]:
    """Which trusted images in memory are among the suspicious ones."""
    known = _digests(suspicious)
    return np.array([digest in known for digest in map(_digest, trusted.images)], bool)


def note_of_shared(shared: int, trusted: int) -> list[str]:
    """What to tell the user of shared images, where there are any."""
    if not shared:
        return []
    return [
        f"{shared} of the {trusted} trusted images are among the suspicious ones, too; leave out what may be poisoned"
    ]


def _digests(images: ImageSet) -> set[bytes]:
    return set(map(_digest, images.images))


def _digest(pixels: Pixels) -> bytes:
    return hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).digest()


def _stored(row: Row) -> bytes:
    return hashlib.blake2b(row.data, digest_size=16).digest() if isinstance(row.data, bytes) else b""


def _decoded(row: Row) -> tuple[bytes, int]:
    """A digest of an image, nothing of one that cannot be read, and how many pixels it has."""
    try:
        pixels = row.picture().rgb
    except EclipseError:
        return b"", 0
    return _digest(pixels), pixels[0].size
