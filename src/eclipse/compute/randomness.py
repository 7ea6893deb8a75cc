"""Randomness that belongs to an image, not to the order in which images are visited.

The numbers of an image depend on (seed, purpose, id, step) alone, so batch size, resume, sharding and the
number of workers do not change them.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def some_rows(total: int, count: int, seed: int) -> NDArray[np.intp]:
    """Some of so many rows, or all where they are no more, in order; the same for the same total and seed."""
    return np.sort(np.random.default_rng([seed, total]).permutation(total)[:count])


def stream(seed: int, id: str, step: int, purpose: str = "") -> np.random.Generator:
    """Open the random stream of one image at one step.

    The key of a Philox generator is a hash of (seed, purpose, id); the step is the top word of its counter,
    so that streams of different steps never overlap.

    Args:
        seed: any integer.
        id: the image's id.
        step: 0 or more.
        purpose: keeps the draws of different modules independent when they run with one seed; two modules
            that shared it would, for example, add the same noise twice.
    """
    name = f"{seed}\0{purpose}\0{id}".encode("utf-8", "surrogatepass")
    key = np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, step], dtype=np.uint64)))


def normal_like(
    seed: int, ids: Sequence[str], step: int, shape: tuple[int, ...], purpose: str = ""
) -> NDArray[np.float32]:
    """Draw standard normal noise for many images, each from its own stream.

    Returns:
        float32, (len(ids), *shape).
    """
    noise = np.empty((len(ids), *shape), dtype=np.float32)
    for row, id in zip(noise, ids, strict=True):
        stream(seed, id, step, purpose).standard_normal(dtype=np.float32, out=row)
    return noise
