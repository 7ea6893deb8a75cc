"""What the manifest of a purification tells, in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from eclipse.diffusion.checkpoint import GENERAL_NAME
from eclipse.jobs.canary import Canary
from eclipse.runs.manifest import to_copy

_STARTS = {"general": ", fine-tuned from the general one", "nothing": ", from nothing"}


@dataclass(frozen=True)
class Step:
    """What to do next, and the command or code for it."""

    why: str
    code: str


@dataclass(frozen=True)
class Told:
    """A manifest.

    Attributes:
        spec: the data set that was purified, as it was named.
        layout: of it.
        format: of the output.
        image_column: that was asked for.
        label_column: that was asked for.
        max_side: images were reduced to, in pixels.
        fingerprint: of the data set.
        made: fingerprint of the output; empty where it is not told.
        purified: the number of images.
        skipped: why images were left out, by name.
        canary: what it measured; None where it did not.
        settings: by name, in words.
        cost: the same of time and speed.
        time: that it took, in words.
        online: compensation is left to training time.
        steps: what to do next.
    """

    spec: str
    layout: str
    format: str
    image_column: str | None
    label_column: str | None
    max_side: int | None
    fingerprint: str
    made: str
    purified: int
    skipped: Mapping[str, str]
    canary: Canary | None
    settings: tuple[tuple[str, str], ...]
    cost: tuple[tuple[str, str], ...]
    time: str
    online: bool
    steps: tuple[Step, ...]

    @property
    def warning(self) -> str | None:
        """Of the canary."""
        return None if self.canary is None else self.canary.warning()


def told(manifest: Mapping[str, Any]) -> Told:
    """Read a manifest; it raises whatever a damaged one makes it raise."""
    settings, counts = manifest["settings"], manifest.get("counts", {})
    given, online = settings["input"], settings["compensation"]["mode"] == "online"
    seconds = {str(name): float(value) for name, value in manifest.get("seconds", {}).items()}
    purified = int(counts.get("purified", 0))
    return Told(
        spec=str(given["spec"]),
        layout=str(given["layout"]),
        format=str(settings["output"]["format"]),
        image_column=_text(given.get("image column")),
        label_column=_text(given.get("label column")),
        max_side=None if given.get("max side") is None else int(given["max side"]),
        fingerprint=str(manifest["input fingerprint"]),
        made=str(manifest.get("output fingerprint", "")),
        purified=purified,
        skipped={str(name): str(why) for name, why in manifest.get("skipped", {}).items()},
        canary=_canary(manifest.get("canary")),
        settings=_settings(manifest),
        cost=_cost(manifest, seconds, purified),
        time=_duration(sum(seconds.values())),
        online=online,
        steps=_steps(settings),
    )


def _canary(found: Mapping[str, Any] | None) -> Canary | None:
    if not found:
        return None
    left, gray = ({str(name): float(share) for name, share in found.get(key, {}).items()} for key in ("left", "gray"))
    rest = {name: None if found[name] is None else float(found[name]) for name in ("gain", "error")}
    return Canary(**{**found, **rest, "left": left, "gray": gray, "psnr": float(found["psnr"])})


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _settings(manifest: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    settings = manifest["settings"]
    given, made, how = settings["input"], settings["output"], settings["purification"]
    found = {
        "data set": f"{given['spec']}: {int(given['images']):,} images, layout {given['layout']}",
        "output": f"layout {made['format']}"
        + (f", images as {made['image format']}" if "image format" in made else ""),
        "denoiser": _denoiser(settings),
        "noise": f"of {float(how['sigma']):g} levels of 255, taken away in {_steps_in_words(how)}",
        "compensation": _compensation(settings["compensation"]),
        "seed": str(settings["seed"]),
        "left out": "unreadable images" if settings.get("skip-bad") else "nothing: an unreadable image is refused",
        "command": str(manifest["command"]),
        "versions": ", ".join(f"{k} {v}" for k, v in manifest["versions"].items() if v != "not installed"),
    }
    return tuple(found.items())


def _steps_in_words(how: Mapping[str, Any]) -> str:
    steps = int(how["steps"])
    return f"{steps} step{'' if steps == 1 else 's'} ({how['sampler']})"


def _denoiser(settings: Mapping[str, Any]) -> str:
    trusted, start = settings.get("trusted"), str((settings.get("training") or {}).get("start"))
    if trusted is None:
        return str(settings["denoiser"])
    return f"trained on {int(trusted['images']):,} trusted images, {trusted['spec']}{_STARTS.get(start, '')}"


def _compensation(settings: Mapping[str, Any]) -> str:
    numbers = (
        f"gray with probability {float(settings['p']):g}, and noise of {float(settings['noise']):g} with "
        f"probability {float(settings['q']):g}"
    )
    return (
        f"left to training time: {numbers}" if settings["mode"] == "online" else f"written into the images: {numbers}"
    )


def _cost(manifest: Mapping[str, Any], seconds: Mapping[str, float], images: int) -> tuple[tuple[str, str], ...]:
    device, purifying = manifest["settings"]["device"], seconds.get("purification", 0.0)
    found = {
        "training of the denoiser": _duration(seconds.get("denoiser", 0.0)),
        "purification": f"{_duration(purifying)}"
        + (f", {images / purifying:,.3g} images a second" if purifying else ""),
        "device": f"{device['name']} ({manifest['settings']['precision']})",
        "from, to": f"{manifest['started']}, {manifest.get('finished', '')}",
    }
    return tuple(found.items())


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def _steps(settings: Mapping[str, Any]) -> tuple[Step, ...]:
    given, made = settings["input"], PurePath(str(settings["output"]["path"]))
    numbers, sigma = settings["compensation"], float(settings["purification"]["sigma"])
    values = ", ".join(f"{name}={float(numbers[name]):g}" for name in ("p", "noise", "q"))
    trusted = settings.get("trusted")
    denoiser = str(made) + ".denoiser" if trusted else str(settings["denoiser"])
    same = ("--denoiser", denoiser) if denoiser != GENERAL_NAME else ()
    found = [
        Step(
            "Train on the purified images with compensation, after crop and flip and before normalization, and keep it "
            "out of the transforms for testing.",
            f"from eclipse import Compensate\n\ncompensate = Compensate({values})",
        )
    ]
    found = found if numbers["mode"] == "online" else []
    weaker = made.with_name(f"{made.stem}-weaker{made.suffix}")
    return (
        *found,
        Step(
            "If too much of the images is gone for your purpose: less noise takes less away, of poisons, too.",
            to_copy("eclipse", "purify", given["spec"], "--out", weaker, *same, "--sigma", f"{sigma / 2:g}"),
        ),
        Step(
            "More images of the same kind: purify them with the same denoiser.",
            to_copy("eclipse", "purify", "MORE", "--out", "MORE-purified", *same),
        ),
    )
