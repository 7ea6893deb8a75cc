"""Finished audits and choices, made without any network, of data with hostile names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from kit.hostile import HOSTILE
from kit.tiny import some_images

from eclipse.data.imageset import ImageSet
from eclipse.defenses.choice import CANDIDATES, rank
from eclipse.detectors.audit import Audit
from eclipse.detectors.detector import Finding
from eclipse.jobs.audit import FINDINGS, SUSPECTS
from eclipse.jobs.choose import CHOICE
from eclipse.runs.files import write_json

IDS = tuple(f"{i} {HOSTILE}" for i in range(6))


def found(suspicious: bool) -> Audit:
    """An audit in which a shortcut was seen, or not, and images of another origin."""
    words = f"class {HOSTILE}: read better than the content by 85%"
    return Audit(
        600,
        IDS,
        {
            "shortcut": Finding(float(suspicious), (0.03, 0.02), words, "class-wise", np.linspace(0, 1, 6), (0.4, 0.6)),
            "two-sample": Finding(0.9, (0.5, 0.02), "a linear model tells suspicious from trusted images"),
        },
        {"harm-trusted": "needs trusted"},
        notes=(f"note of {HOSTILE}",),
    )


def write_audit(folder: Path, suspicious: bool = True, **changes: Any) -> Path:
    """The folder of an audit, whose findings may be changed by name."""
    folder.mkdir()
    write_json(folder / FINDINGS, {**found(suspicious).to_dict(), **changes})
    data = ImageSet(some_images(6, 16, 16), IDS, np.arange(6) % 2, (HOSTILE, "b"))
    data.save(folder / f"{SUSPECTS}.npz")
    data.with_images(some_images(6, 16, 16, seed=1)).save(folder / f"{SUSPECTS}-purified.npz")
    _manifest(folder, {"dataset": {"spec": HOSTILE}, "trusted": {"spec": "trusted"}})
    return folder


def write_choice(folder: Path, labels: int = 200) -> Path:
    """The folder of a choice, measured with labels or, with 0, estimated."""
    folder.mkdir()
    votes = np.random.default_rng(0).integers(0, 4, (2 * len(CANDIDATES), 400))
    known = (np.arange(labels), votes[0, :labels]) if labels else (None, None)
    made = rank(votes, CANDIDATES, 4, *known).to_dict()
    write_json(folder / CHOICE, {**made, "notes": [f"note of {HOSTILE}"], "classes": list("abcd")})
    _manifest(folder, {"dataset": {"spec": HOSTILE}, "trusted": {"spec": "trusted"}})
    return folder


def _manifest(folder: Path, settings: Mapping[str, Any]) -> None:
    write_json(folder.with_name(f"{folder.name}.run.json"), {"status": "complete", "settings": settings})
