"""Data sets that mean harm."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HOSTILE = "<img src=x onerror=console.error(1)>$x_1$&quot;"
"""A name that a page must show as it is."""


class Bomb:
    """Pickles to a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def malicious(trace: Path, protocol: int) -> Iterator[bytes]:
    bomb = Bomb(trace)
    yield pickle.dumps(bomb, protocol)
    yield pickle.dumps([(bytes(3072), 1), bomb], protocol)
    yield pickle.dumps([(bomb, 1)], protocol)
    yield pickle.dumps({"data": bomb, "labels": [1]}, protocol)
    yield pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1], "meta": bomb}, protocol)
