"""``eclipse train``: prepare a data set with a defense, train a victim on it, and keep what came out in a folder."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from eclipse.attacks.crafting.cost import passes_per_s
from eclipse.classifiers.classifier import CLASSIFIERS
from eclipse.classifiers.fit import Recipe, recipe_with
from eclipse.compute.device import compute_dtype, describe_device, enough_memory, resolve_device
from eclipse.data.imageset import ImageSet
from eclipse.data.overlap import check_apart_from_test, note_of_shared, refuse_if_all, rows_shared
from eclipse.data.source import BY_RESIZE, load_imageset, open_source
from eclipse.data.store import Source
from eclipse.defenses import DEFENSES
from eclipse.defenses.defense import Defense
from eclipse.defenses.victim import Trained, check_sets, new_victim, train_victim
from eclipse.errors import EclipseError
from eclipse.jobs.job import Job, Tell
from eclipse.parameters import parameters
from eclipse.runs.files import check_name, write_json
from eclipse.runs.manifest import Times, duration
from eclipse.runs.state import State, Work

RESULT, WEIGHTS = "result.json", "model.safetensors"


@dataclass(frozen=True, eq=False)
class Train(Job):
    """The training of a victim, resolved.

    Attributes:
        specs: what the user calls the sets, by their names in the manifest.
        data: the training set.
        test: what is measured on.
        trusted: what the defense needs that is clean; None for one that needs nothing.
        out: the folder of the result.
        arch: a name of a classifier.
        recipe: of the training.
        defense: which.
        names: what the user calls ``recipe``, ``defense`` and its ``scale``.
        seed: decides weights, order and all that is drawn.
        device: where to compute.
        compiled: compile the network first.
        resize: side of the squares that all images were made; None for images as they are.
        remarks: on the training set, for its user.
    """

    specs: Mapping[str, str | None]
    data: ImageSet
    test: ImageSet
    trusted: ImageSet | None
    out: Path
    arch: str
    recipe: Recipe
    defense: Defense
    names: Mapping[str, str]
    seed: int
    device: str
    compiled: bool
    resize: int | None = None
    remarks: tuple[str, ...] = ()

    doing: ClassVar[str] = "training"
    free: ClassVar[frozenset[str]] = frozenset({"dataset", "test set", "trusted set", "device name"})

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What decides the result, for the manifest."""
        return {
            **self.specs,
            **({} if self.resize is None else {"resize": self.resize}),
            "arch": self.arch,
            **{f"arch {word}": value for word, value in CLASSIFIERS.code(self.arch).items()},
            "recipe": {"name": self.names["recipe"], **asdict(self.recipe)},
            "defense": {
                **{"name": self.names["defense"], "scale": self.names["scale"]},
                **DEFENSES.code(self.names["defense"]),
                **self.defense.settings(),
            },
            "seed": self.seed,
            "compiled": self.compiled,
            "device": {"type": self.device.partition(":")[0], "name": describe_device(self.device)},
        }

    @cached_property
    def inputs(self) -> Mapping[str, str]:
        """Of the sets."""
        sets = {"training set": self.data, "test set": self.test, "trusted set": self.trusted}
        return {f"{name} fingerprint": images.fingerprint() for name, images in sets.items() if images is not None}

    @property
    def levels(self) -> Collection[str]:
        """Those of the defense."""
        found = parameters(self.defense).values()
        return {" ".join(("defense", *parameter.path)) for parameter in found if parameter.levels}

    def in_words(self) -> Mapping[str, Any]:
        """What to tell the user before work starts."""
        given = {name: str(value) for name, value in parameters(self.defense).items()}
        return {
            "training set": f"{self.specs['dataset']}, {len(self.data):,} images",
            "test set": f"{self.specs['test set']}, {len(self.test):,} images",
            **({} if self.resize is None else {"resize": f"{self.resize}x{self.resize}, the square in the middle"}),
            "defense": f"{self.names['defense']} ({self.defense.title})",
            **({"parameters": given} if given else {}),
            "cost": f"about {self.defense.cost():.3g} times the work, for a ResNet-18 and 50,000 images",
            "victim": f"{self.arch}, {self.data.num_classes} classes",
            "recipe": f"{self.names['recipe']}: {self.recipe.epochs} epochs, batch {self.recipe.batch}, "
            f"lr {self.recipe.lr:g}",
            "seed": self.seed,
            "device": f"{describe_device(self.device)} ({compute_dtype(self.device)[1]})",
            "output": self.out,
        }

    def notes(self) -> list[str]:
        """What is odd about the training set, and whether trusted images are among its images."""
        shared = 0 if self.trusted is None else int(rows_shared(self.data, self.trusted).sum())
        return [*self.remarks, *note_of_shared(shared, len(self.trusted or ()))]

    def estimate(self) -> Mapping[str, Any]:
        """The minutes of the training alone; what the defense does, and its preparation, come on top."""
        classes = check_sets(self.data, self.test)
        network = new_victim(self.arch, self.data, classes, Defense(), self.seed, self.device)
        a_second = passes_per_s(network, self.data, self.device)
        minutes = self.recipe.epochs * len(self.data) / a_second / 60
        more = (
            "" if self.names["defense"] == "none" else f", about {self.defense.cost():.3g} times that with the defense"
        )
        return {"training": f"{duration(minutes)} at {a_second:,.0f} images a second, measured on two batches{more}"}

    def work(self, state: State, tell: Tell, place: Path) -> dict[str, Any]:
        """Prepare the set, train on it, and write the result and the weights; goes on after the last epoch."""
        assert state.folder is not None
        times = Times(state.folder)
        with times.part("prepare"), enough_memory(self.device, f"for the defense {self.names['defense']}"):
            preparing = Work(self.seed, self.device, State(state.folder / "prepare", times.telling(tell)))
            data = self.defense.prepare(self.data, self.trusted, preparing)
        work = Work(self.seed, self.device, state)
        trained = train_victim(data, self.test, self.defense, self.arch, self.recipe, work, compiled=self.compiled)
        result = {
            **self.settings,
            **self.inputs,
            "prepared fingerprint": data.fingerprint(),
            "counts": {"training images": len(self.data), "prepared images": len(data), "test images": len(self.test)},
            "image": list(self.data.images.shape[1:]),
            "classes": self.data.num_classes,
            "parameters": trained.parameters,
            "accuracy": trained.accuracy,
            "epochs": list(trained.epochs),
            "seconds": {**times.seconds, "train": round(trained.seconds, 2)},
        }
        _write(place, trained, result)
        last = {name: trained.epochs[-1][name] for name in ("epoch", "train_accuracy")}
        return {**{name: result[name] for name in ("accuracy", "seconds", "counts")}, "last epoch": last}

    def closing(self, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
        """What came out, and where it is."""
        last = outcome["last epoch"]
        return {
            "accuracy": f"{outcome['accuracy']:.2%} on the test images after epoch {last['epoch']}, the last",
            "on training images": f"{last['train_accuracy']:.2%}",
            "seconds": ", ".join(f"{name} {value:.0f}" for name, value in outcome["seconds"].items()),
            "result": self.out / RESULT,
        }


def train_job(
    dataset: str,
    test: str,
    out: Path,
    *,
    arch: str = "resnet18",
    recipe: str = "fast",
    epochs: int | None = None,
    defense: str = "none",
    scale: str = "paper",
    settings: tuple[str, ...] = (),
    trusted: str | None = None,
    resize: int | None = None,
    seed: int = 0,
    device: str = "auto",
    compiled: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Train:
    """Resolve a training as its user asks for it (see ``eclipse train --help``), and refuse what cannot work."""
    check_name(out)
    where = resolve_device(device)
    chosen, how = DEFENSES.asked(defense, scale, settings), recipe_with(recipe, epochs)
    _check_options(defense, chosen, trusted, compiled)
    specs = {"dataset": dataset, "test set": test, "trusted set": trusted}
    columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
    sources = {name: open_source(spec, **columns, side=resize) for name, spec in specs.items() if spec is not None}
    sets = _load(sources)
    data, held_out = sets["dataset"], sets["test set"]
    new_victim(arch, data, check_sets(data, held_out), chosen, seed, "cpu")  # refuses what does not fit
    names = {"recipe": recipe, "defense": defense, "scale": scale}
    trusted_set, remarks = sets.get("trusted set"), tuple(sources["dataset"].notes)
    return Train(
        specs, data, held_out, trusted_set, out, arch, how, chosen, names, seed, where, compiled, resize, remarks
    )


def _check_options(name: str, defense: Defense, trusted: str | None, compiled: bool) -> None:
    """Refuse options that do not go together."""
    if trusted is None and defense.needs() != "nothing":
        raise EclipseError(f"the defense {name} needs {defense.needs()}: name a clean data set with --trusted")
    if trusted is not None and defense.needs() == "nothing":
        raise EclipseError(f"the defense {name} needs no trusted images; leave --trusted out")
    if compiled and type(defense).adapt is not Defense.adapt:
        raise EclipseError(f"the defense {name} changes the network, which then does not compile; leave --compile out")


def _load(sources: Mapping[str, Source]) -> dict[str, ImageSet]:
    """The sets by their names; none may share images with the test images."""
    sets = {name: load_imageset(source, "training a victim", BY_RESIZE) for name, source in sources.items()}
    parts = {"dataset": "training", "trusted set": "trusted"}
    for name in sets.keys() & parts.keys():
        check_apart_from_test(sources["test set"], sets["test set"], sources[name], sets[name], parts[name])
    if trusted := sets.get("trusted set"):
        shared = int(rows_shared(sets["dataset"], trusted).sum())
        refuse_if_all(shared, len(trusted), sources["dataset"].spec, sources["trusted set"].spec)
    return sets


def _write(place: Path, trained: Trained, result: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    place.mkdir()
    state = trained.network.state_dict()  # opacus puts a word before every name
    tensors = {name.removeprefix("_module."): value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, place / WEIGHTS)
    write_json(place / RESULT, result)
