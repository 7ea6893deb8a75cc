"""One cell of a grid: what decides it, and its result."""

import math
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from eclipse.attacks import ATTACKS
from eclipse.attacks.attack import Attack
from eclipse.bench import result
from eclipse.bench.cache import Cache, Kept, key
from eclipse.bench.grid import Choice, Grid
from eclipse.bench.result import CLEAN, Asked, Epoch, Planned, Result, Seconds, Victim
from eclipse.classifiers.classifier import CLASSIFIERS
from eclipse.classifiers.fit import Recipe, recipe_with
from eclipse.compute.device import compute_dtype, describe_device
from eclipse.data.imageset import ImageSet
from eclipse.defenses import DEFENSES
from eclipse.defenses.defense import Defense
from eclipse.defenses.victim import train_victim
from eclipse.parameters import all_fields
from eclipse.runs.manifest import date, versions
from eclipse.runs.state import StageStep, State, Work

Tell = Callable[[StageStep], None]


@dataclass(frozen=True)
class Bench:
    """A grid with its sets in a cache: all that a process needs to run cells.

    Attributes:
        grid: whose cells.
        sets: the fingerprint of each set that the grid names: ``train``, ``test``, ``trusted``, ``clean``.
        cache: folder of what cells share.
        device: where to compute.
        trusted: how many trusted images there are, for the results; None for no such set.
        imported: the fingerprint of the poisoned set of each imported poison.
    """

    grid: Grid
    sets: Mapping[str, str]
    cache: Path
    device: str
    trusted: int | None = None
    imported: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _kept(self) -> Cache:
        return Cache(self.cache)

    @property
    def recipe(self) -> Recipe:
        """Of the victims."""
        return recipe_with(self.grid.victims.recipe, self.grid.victims.epochs)

    def name(self, choice: Choice) -> str:
        """The name of a cell: another one under other settings."""
        decides = {
            "protocol": self.grid.protocol,
            "test": self.sets["test"],
            "poisoned": self._poisons[choice.attack],
            "defense": self._defended[choice.defense],
            "arch": choice.arch,
            **CLASSIFIERS.code(choice.arch),
            "recipe": asdict(self.recipe),
            "seed": choice.seed,
        }
        return f"{choice}-{key(decides)[:8]}"

    def run(self, choice: Choice, tell: Tell) -> Result:
        """Make what is missing, train the victim, and return the result."""
        defense, test = self.grid.defense(choice.defense), self._kept.load(self.sets["test"])
        poisoned = self.poisoned(choice.attack, tell)
        prepared = self._prepared(choice.defense, poisoned, tell)
        data, attack = self._about_data(poisoned.images, test), self._about_attack(choice.attack, poisoned.fingerprint)
        seconds = _seconds(poisoned, prepared)
        del poisoned  # not held beside the prepared set: either may fill half of the memory
        trained = train_victim(
            prepared.images, test, defense, choice.arch, self.recipe, Work(choice.seed, self.device, State(None, tell))
        )
        return Result(
            cell=self.name(choice),
            grid=self.grid.name,
            protocol=self.grid.protocol,
            data=data,
            attack=attack,
            defense=self._about_defense(choice.defense, defense),
            victim=Victim(choice.arch, trained.parameters, **CLASSIFIERS.code(choice.arch)),
            recipe=result.Recipe(self.grid.victims.recipe, asdict(self.recipe)),
            seed=choice.seed,
            accuracy=trained.accuracy,
            epochs=tuple(Epoch(**epoch) for epoch in trained.epochs),  # type: ignore[arg-type]
            seconds=Seconds(**seconds, train=round(trained.seconds, 2)),
            prepared=prepared.fingerprint,
            device=describe_device(self.device),
            precision=str(compute_dtype(self.device)[0]).removeprefix("torch."),
            versions=versions(),
            finished=date(time.time()),
            command=self.command(choice),
        )

    def command(self, choice: Choice) -> str:
        """The command that runs one cell."""
        return f"eclipse bench {shlex.quote(str(self.grid.path))} --data DATA --out RESULTS --cell {choice}"

    def asked(self) -> Asked:
        """What the grid asks for, for its results."""
        recipe = self.grid.victims.recipe
        cells = tuple(
            Planned(self.name(choice), choice.attack, choice.defense, choice.arch, recipe, choice.seed)
            for choice in self.grid.cells()
        )
        return Asked(name=self.grid.name, protocol=self.grid.protocol, data=asdict(self.grid.data), cells=cells)

    def crafted(self, name: str) -> bool:
        """Whether the training set under an attack is in the cache, or needs no crafting."""
        return self.grid.attack(name) is None or self._kept.holds("poisoned", self._poisons[name])

    def prepared(self, defense: str, attack: str) -> bool:
        """Whether the set that a defense trains on under an attack is in the cache, or is the poisoned one itself."""
        if self.grid.defense(defense).preparation() is None:
            return True
        if not self.crafted(attack):
            return False
        return self._kept.holds("prepared", self._preparing(defense, self._fingerprint(attack)))

    def _fingerprint(self, attack: str) -> str:
        """Of a poisoned set in the cache."""
        return self._given(attack) or self._kept.fingerprint("poisoned", self._poisons[attack])

    def _given(self, attack: str) -> str | None:
        """The fingerprint of a training set that needs no crafting: the clean one, or what others have made of it."""
        return self.sets["train"] if attack == CLEAN else self.imported.get(attack)

    def poisoned(self, name: str, tell: Tell) -> Kept:
        """The training set under an attack."""
        attack, given = self.grid.attack(name), self._given(name)
        if attack is None:
            assert given is not None
            return Kept(self._kept.load(given), given, 0.0, True)

        def make(state: State) -> ImageSet:
            clean = self._kept.load(self.sets["train"])
            return attack.craft(clean, Work(self.grid.attacks.seed, self.device, state))

        return self._kept.made("poisoned", self._poisons[name], make, tell)

    def _prepared(self, name: str, poisoned: Kept, tell: Tell) -> Kept:
        """The set that a defense trains on."""
        defense, seed = self.grid.defense(name), self.grid.defenses.seed
        if defense.preparation() is None:
            return poisoned

        def make(state: State) -> ImageSet:
            trusted = self._trusted(defense)
            images = None if trusted is None else self._kept.load(trusted)
            return defense.prepare(poisoned.images, images, Work(seed, self.device, state))

        return self._kept.made("prepared", self._preparing(name, poisoned.fingerprint), make, tell)

    def _preparing(self, name: str, poisoned: str) -> dict[str, Any]:
        """What decides the set that a defense makes of the one with this fingerprint."""
        return {**self._defended[name], "fields": self.grid.defense(name).preparation(), "data": poisoned}

    def _trusted(self, defense: Defense) -> str | None:
        """The fingerprint of the clean images that a defense gets."""
        needed = defense.needs()
        if needed == "nothing":
            return None
        return self.sets.get("clean", self.sets["trusted"]) if needed == "a clean set" else self.sets["trusted"]

    @cached_property
    def _poisons(self) -> dict[str, dict[str, Any]]:
        """From the name of each attack to what decides its poisoned set."""
        train, seed = self.sets["train"], self.grid.attacks.seed
        attacks = {name: self.grid.attack(name) for name in self.grid.attacks.names}
        fields: dict[str, Any] = {
            name: attack and {"name": name, "seed": seed, **_code(name, attack), **all_fields(attack)}
            for name, attack in attacks.items()
        }
        fields |= {name: {"imported": fingerprint} for name, fingerprint in self.imported.items()}
        return {name: {"train": train, "attack": fields[name], "device": self._kind} for name in attacks}

    @cached_property
    def _defended(self) -> dict[str, dict[str, Any]]:
        """From the name of each defense to what decides it; some read a file for that."""
        defenses = {name: self.grid.defense(name) for name in self.grid.defenses.names}
        return {
            name: {
                "defense": type(defense).__name__,
                **DEFENSES.code(name),
                "fields": defense.settings(),
                "seed": self.grid.defenses.seed,
                "trusted": self._trusted(defense),
                "device": self._kind,
            }
            for name, defense in defenses.items()
        }

    @property
    def _kind(self) -> str:
        return torch.device(self.device).type

    def _about_data(self, train: ImageSet, test: ImageSet) -> result.Data:
        return result.Data(
            **asdict(self.grid.data),
            train_images=len(train),
            test_images=len(test),
            trusted_images=self.trusted,
            image=train.images.shape[1:],
            classes=train.num_classes,
            fingerprints=dict(self.sets),
        )

    def _about_attack(self, name: str, fingerprint: str) -> result.Attack:
        attack, scale, seed = self.grid.attack(name), self.grid.attacks.scale, self.grid.attacks.seed
        if attack is None:
            imported = self.grid.attacks.imported.get(name)
            told = {} if imported is None else {word: value for word, value in asdict(imported).items() if value}
            return result.Attack(name, fingerprint, fields=told)
        radius = attack.radius if math.isfinite(attack.radius) else None
        code = " ".join(_code(name, attack).values())
        return result.Attack(name, fingerprint, scale, seed, attack.norm, radius, all_fields(attack), code or None)

    def _about_defense(self, name: str, defense: Defense) -> result.Defense:
        return result.Defense(
            name=name,
            title=defense.title,
            scale=self.grid.defenses.scale,
            seed=self.grid.defenses.seed,
            fields=self._defended[name]["fields"],
            trusted=defense.needs(),
            acts=defense.acts,
            ignores_data=defense.ignores_data,
            cost=defense.cost(),
            **DEFENSES.code(name),
        )


def _code(name: str, attack: Attack) -> dict[str, str]:
    """What tells the code of others in an attack, its surrogate's included, from another version of it."""
    return {**ATTACKS.code(name), **attack.surrogate_code()}


def _seconds(poisoned: Kept, prepared: Kept) -> dict[str, Any]:
    """Those before the training."""
    own = prepared is not poisoned
    return {
        "poison": poisoned.seconds,
        "poison_shared": poisoned.shared,
        "prepare": prepared.seconds if own else 0.0,
        "prepare_shared": own and prepared.shared,
        "denoiser": prepared.denoiser if own else 0.0,
    }
