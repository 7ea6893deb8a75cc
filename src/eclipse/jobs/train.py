"""``eclipse train``: prepare a data set with a defense, train a victim on it, and keep what came out in a folder."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eclipse.classifiers.classifier import CLASSIFIERS
from eclipse.classifiers.fit import Recipe, recipe_with
from eclipse.compute.device import compute_dtype, describe_device, enough_memory, resolve_device
from eclipse.data.imageset import ImageSet
from eclipse.data.overlap import check_apart_from_test
from eclipse.data.source import load_imageset, open_source
from eclipse.defenses import DEFENSES
from eclipse.defenses.defense import Defense
from eclipse.defenses.victim import Trained, check_sets, new_victim, train_victim
from eclipse.errors import EclipseError
from eclipse.runs.files import check_name, clear, locked, write_json, write_whole
from eclipse.runs.manifest import check_made, check_same_settings, flat, read_settings, recorded, run_json
from eclipse.runs.state import StageStep, State

RESULT, WEIGHTS = "result.json", "model.safetensors"
_WORDS = ("dataset", "test set", "trusted set", "device name")  # other words for the same thing, or another machine


@dataclass(frozen=True)
class Request:
    """What a user asks for; see ``eclipse train --help``."""

    dataset: str
    test: str
    out: Path
    arch: str = "resnet18"
    recipe: str = "fast"
    epochs: int | None = None
    defense: str = "none"
    scale: str = "paper"
    settings: tuple[str, ...] = ()
    trusted: str | None = None
    seed: int = 0
    device: str = "auto"
    compiled: bool = False


@dataclass(frozen=True)
class Plan:
    """A request that was checked; ``finished`` where its output is there already."""

    request: Request
    data: ImageSet
    test: ImageSet
    trusted: ImageSet | None
    defense: Defense
    recipe: Recipe
    device: str
    finished: bool = False

    def settings(self) -> dict[str, Any]:
        """What decides the result, for the manifest."""
        asked = self.request
        return {
            "dataset": asked.dataset,
            "test set": asked.test,
            "trusted set": asked.trusted,
            "arch": asked.arch,
            **{f"arch {word}": value for word, value in CLASSIFIERS.code(asked.arch).items()},
            "recipe": {"name": asked.recipe, **asdict(self.recipe)},
            "defense": {
                **{"name": asked.defense, "scale": asked.scale},
                **DEFENSES.code(asked.defense),
                **self.defense.settings(),
            },
            "seed": asked.seed,
            "compiled": asked.compiled,
            "device": {"type": self.device.partition(":")[0], "name": describe_device(self.device)},
        }

    def fingerprints(self) -> dict[str, str]:
        """Of the sets."""
        sets = {"training set": self.data, "test set": self.test, "trusted set": self.trusted}
        return {f"{name} fingerprint": images.fingerprint() for name, images in sets.items() if images is not None}

    def in_words(self) -> dict[str, Any]:
        """What to tell the user before work starts."""
        asked, (_, why) = self.request, compute_dtype(self.device)
        return {
            "training set": f"{asked.dataset}, {len(self.data):,} images",
            "test set": f"{asked.test}, {len(self.test):,} images",
            "defense": f"{asked.defense} ({self.defense.title})",
            "cost": f"about {self.defense.cost():.3g} times the work, for a ResNet-18 and 50,000 images",
            "victim": f"{asked.arch}, {self.data.num_classes} classes",
            "recipe": f"{asked.recipe}: {self.recipe.epochs} epochs, batch {self.recipe.batch}, lr {self.recipe.lr:g}",
            "device": f"{describe_device(self.device)} ({why})",
            "output": asked.out,
        }


def state_folder(out: Path) -> Path:
    """Where an unfinished training keeps its state: hidden, beside the output."""
    return out.with_name(f".{out.name}.training")


def plan(request: Request) -> Plan:
    """Resolve and check a request, before anything is written.

    Raises:
        EclipseError: a request that cannot be carried out.
    """
    check_name(request.out)
    device = resolve_device(request.device)
    defense = DEFENSES.asked(request.defense, request.scale, request.settings)
    recipe = recipe_with(request.recipe, request.epochs)
    if request.trusted is None and defense.needs() != "nothing":
        raise EclipseError(
            f"the defense {request.defense} needs {defense.needs()}: name a clean data set with --trusted"
        )
    if request.trusted is not None and defense.needs() == "nothing":
        raise EclipseError(f"the defense {request.defense} needs no trusted images; leave --trusted out")
    if request.compiled and type(defense).adapt is not Defense.adapt:
        raise EclipseError(
            f"the defense {request.defense} changes the network, which then does not compile; leave --compile out"
        )
    sets = _load(request)
    data, test, trusted = sets["training"], sets["test"], sets.get("trusted")
    made = Plan(request, data, test, trusted, defense, recipe, device)
    new_victim(request.arch, data, check_sets(data, test), defense, request.seed, "cpu")  # refuses what does not fit
    if not request.out.parent.is_dir():
        raise EclipseError(f"no such folder {request.out.parent}; expected an existing one to write the output into")
    if request.out.exists() and not run_json(request.out).exists():
        raise EclipseError(f"{request.out} exists; choose another output")
    _check_resumable(made)
    return replace(made, finished=_finished(made)) if request.out.exists() else made


def _load(request: Request) -> dict[str, ImageSet]:
    """The sets by their parts; none may share images with the test images."""
    specs = {"training": request.dataset, "test": request.test, "trusted": request.trusted}
    sources = {part: open_source(spec) for part, spec in specs.items() if spec is not None}
    sets = {part: load_imageset(source, "training a victim") for part, source in sources.items()}
    for part in sets.keys() - {"test"}:
        check_apart_from_test(sources["test"], sets["test"], sources[part], sets[part], part)
    return sets


def _finished(made: Plan) -> bool:
    known = made.fingerprints()

    def recorded_ones(manifest: dict[str, Any]) -> Mapping[str, Any]:
        return {name: manifest[name] for name in known}

    return check_made(made.request.out, made.settings(), _WORDS, recorded_ones, known)


def _state(made: Plan) -> dict[str, Any]:
    settings = {name: value for name, value in flat(made.settings()).items() if name not in _WORDS}
    return dict(json.loads(json.dumps({**settings, **made.fingerprints()}, default=str)))


def _check_resumable(made: Plan) -> None:
    """Refuse settings other than those of the unfinished training of the same output, if there is one."""
    folder = state_folder(made.request.out)
    if (folder / "settings.json").exists():
        check_same_settings(read_settings(folder), _state(made), folder)


def run(made: Plan, *, on_step: Callable[[StageStep], None] = lambda step: None) -> dict[str, Any]:
    """Carry a plan out and return the result, as it stands in ``OUT/result.json``.

    An interrupted run goes on after its last epoch when it is carried out again, and ends with the same result.
    """
    asked, folder = made.request, state_folder(made.request.out)
    with locked(folder, asked.out):
        _check_resumable(made)
        write_json(folder / "settings.json", _state(made))
        with recorded(asked.out, made.settings(), **made.fingerprints()) as found:
            began = time.monotonic()
            preparing = State(folder / "prepare", on_step)
            data = _prepared(made, preparing)
            prepared_s = time.monotonic() - began
            trained = train_victim(
                data,
                made.test,
                made.defense,
                asked.arch,
                made.recipe,
                seed=asked.seed,
                device=made.device,
                stages=State(folder, on_step),
                compiled=asked.compiled,
            )
            seconds = {"prepare": round(prepared_s, 2), "train": round(trained.seconds, 2)}
            result = _result(made, data, trained, seconds)
            _write(asked.out, folder, trained, result)
            found |= {"accuracy": trained.accuracy, "seconds": seconds, "counts": result["counts"]}
        clear(folder)
    return result


def _prepared(made: Plan, stages: State) -> ImageSet:
    """What the defense makes of the images; where it refuses them at once, no state is left to bind the next run."""
    asked, folder = made.request, state_folder(made.request.out)
    try:
        with enough_memory(made.device, f"for the defense {asked.defense}"):
            return made.defense.prepare(made.data, made.trusted, seed=asked.seed, device=made.device, stages=stages)
    except EclipseError:
        if not any(path.is_file() for path in (folder / "prepare").rglob("*")):
            shutil.rmtree(folder / "prepare", ignore_errors=True)
            (folder / "settings.json").unlink()
        raise


def _result(made: Plan, data: ImageSet, trained: Trained, seconds: Mapping[str, float]) -> dict[str, Any]:
    return {
        **made.settings(),
        **made.fingerprints(),
        "prepared fingerprint": data.fingerprint(),
        "counts": {"training images": len(made.data), "prepared images": len(data), "test images": len(made.test)},
        "image": list(made.data.images.shape[1:]),
        "classes": made.data.num_classes,
        "parameters": trained.parameters,
        "accuracy": trained.accuracy,
        "epochs": list(trained.epochs),
        "seconds": dict(seconds),
    }


def _write(out: Path, folder: Path, trained: Trained, result: Mapping[str, Any]) -> None:
    """Write the output under a hidden name and give it its name at once."""
    from safetensors.torch import save

    made = folder / "output"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    state = trained.network.state_dict()  # opacus puts a word before every name
    tensors = {name.removeprefix("_module."): value.detach().cpu().contiguous() for name, value in state.items()}
    write_whole(made / WEIGHTS, save(tensors))
    write_json(made / RESULT, result)
    shutil.rmtree(out, ignore_errors=True)  # the same, from a run that was killed before its manifest said complete
    os.replace(made, out)
