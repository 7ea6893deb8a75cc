"""Denoisers on disk: a folder with the weights (safetensors) and, in JSON, everything else about them."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch as st
import torch
from safetensors import SafetensorError
from torch import Tensor

from eclipse.diffusion.denoiser import Denoiser, DenoiserConfig, build_denoiser, build_of_shapes
from eclipse.diffusion.schedule import NoiseSchedule
from eclipse.errors import EclipseError, reading
from eclipse.runs.files import parse_json, whole

_MOST_OPTIONS = 4096  # characters
GENERAL = Path(__file__).with_name("general")
"""The folder of the denoiser that comes with the package, trained on photographs; its README.md is its model card."""
GENERAL_NAME = "general, comes with eclipse"
"""What it is called in manifests, in place of its folder."""
WEIGHTS, CONFIG = "model.safetensors", "config.json"
REMEDY = "give a folder made by 'eclipse denoiser train' or 'eclipse denoiser import'"


def save_denoiser(denoiser: Denoiser, folder: Path) -> None:
    """Save a denoiser as a folder, whole or not at all.

    An older denoiser in the same place is replaced; a folder that holds anything else is refused.
    """
    folder = Path(folder).absolute()
    try:
        _check_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole(folder) as partial:
            write_denoiser(denoiser, partial)
    except OSError as error:
        reason = error.strerror or error
        raise EclipseError(f"cannot write the denoiser to {folder}: {reason}; choose another place") from error


def load_denoiser(folder: Path = GENERAL, device: torch.device | str = "cpu") -> Denoiser:
    """Load a denoiser that ``save_denoiser`` wrote, ready for inference; by default the general one.

    Nothing in the folder can run code. Missing, damaged and foreign files raise ``EclipseError``.
    """
    folder = Path(folder)
    with reading(folder, "a denoiser", REMEDY):
        config, checksum = _read_config(folder)
        tensors = _read_weights(folder / WEIGHTS, checksum)
        planned = build_of_shapes(config, len(tensors), lambda why: EclipseError(f"{folder}: {why}; {REMEDY}"))
        _check_tensors(folder / WEIGHTS, tensors, planned.network.state_dict())
        denoiser = build_denoiser(config)
        denoiser.network.load_state_dict(tensors)
        return denoiser.to(device).eval().requires_grad_(False)


def read_config(folder: Path) -> DenoiserConfig:
    """Read what a denoiser is, without its weights; errors as of ``load_denoiser``."""
    with reading(folder, "a denoiser", REMEDY):
        return _read_config(folder)[0]


def fingerprint_denoiser(denoiser: Denoiser) -> str:
    """SHA-256 over the names and values of a denoiser's weights."""
    digest = hashlib.sha256()
    for name, weights in sorted(denoiser.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.float().contiguous().cpu().numpy())
    return digest.hexdigest()


def write_denoiser(denoiser: Denoiser, folder: Path) -> None:
    """Write a denoiser into a new folder."""
    folder.mkdir()
    # safetensors refuses strided tensors, which channels-last leaves behind.
    weights = st.save({name: tensor.contiguous() for name, tensor in denoiser.network.state_dict().items()})
    config = dataclasses.asdict(denoiser.config) | {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    (folder / WEIGHTS).write_bytes(weights)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or {f.name for f in folder.iterdir()} - {WEIGHTS, CONFIG}):
        raise EclipseError(
            f"{folder} holds more than a denoiser; expected a new path or an older denoiser: choose another"
        )


def _read_config(folder: Path) -> tuple[DenoiserConfig, str]:
    """The config and the checksum of the weights that belong to it."""
    try:
        fields = parse_json(_read(folder / CONFIG))
        if isinstance(fields, dict) and len(json.dumps(fields.get("options"))) > _MOST_OPTIONS:
            raise ValueError(f"its 'options' have more than {_MOST_OPTIONS} characters")
        return _parse(fields), fields["weights_sha256"]
    except (ValueError, TypeError, RecursionError) as error:
        raise EclipseError(f"{folder / CONFIG} is not the config of a denoiser ({error}); {REMEDY}") from error


_TYPES: dict[str, type | tuple[type, ...]] = {
    "architecture": str,
    "options": dict,
    "schedule": dict,
    "learned_variance": bool,
    "t_max": int,
    "image_size": (int, type(None)),
    "preset": str,
    "trained": dict,
    "weights_sha256": str,
}


def _parse(fields: Mapping[str, Any]) -> DenoiserConfig:
    for name, kind in _TYPES.items():
        if name not in fields:
            raise ValueError(f"it has no {name!r}")
        if not isinstance(fields[name], kind):
            raise ValueError(f"its {name!r} is {fields[name]!r}")
    known = {name: fields[name] for name in _TYPES if name not in ("schedule", "weights_sha256")}
    return DenoiserConfig(**known, schedule=NoiseSchedule(**fields["schedule"]))


def _read_weights(path: Path, checksum: str) -> dict[str, Tensor]:
    raw = _read(path)
    try:
        tensors: dict[str, Tensor] = st.load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise EclipseError(f"{path} is not a safetensors file ({error}); {REMEDY}") from error
    if hashlib.sha256(raw).hexdigest() != checksum:
        raise EclipseError(f"{path} is damaged or belongs to another {CONFIG} (its checksum differs); {REMEDY}")
    return tensors


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EclipseError(f"cannot read {path}: {error.strerror}; {REMEDY}") from error


def _check_tensors(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuse tensors whose names, shapes or values a network cannot have."""
    for name in sorted(found.keys() | expected.keys()):
        if name not in found or name not in expected:
            state = "has no" if name not in found else "has an unknown"
            raise EclipseError(f"{path} {state} tensor {name!r}; it is of another architecture: {REMEDY}")
        if found[name].shape != expected[name].shape:
            shapes = f"{tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
            raise EclipseError(f"{path}: {name!r} is of shape {shapes}; {REMEDY}")
        if not found[name].isfinite().all():
            raise EclipseError(f"{path}: {name!r} holds values that are not finite; {REMEDY}")
