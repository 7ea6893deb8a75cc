"""``eclipse attacks``, ``eclipse defenses`` and ``eclipse detectors``: pages over tables of methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from eclipse.attacks.attack import Attack


@dataclass(frozen=True)
class Page:
    """How the methods of a table are shown.

    Attributes:
        kind: what one is.
        help: of the command.
        use: how one is used.
        about: columns of the list: what they say of a method.
        cost: a column of the list and a line of a description: what a method costs, at each scale.
        scaled: further columns of that sort, in the list only.
        line: what a description says of a method after its title.
    """

    kind: str
    help: str
    use: str
    about: Mapping[str, Callable[[Any], str]]
    cost: tuple[str, Callable[[Any], str]]
    line: Callable[[Any], str]
    scaled: Mapping[str, Callable[[Any], str]]

    def __call__(
        self, name: Annotated[str | None, typer.Argument(help="one to describe", metavar="NAME")] = None
    ) -> None:
        """List the methods, or describe one."""
        from eclipse.registry import SCALES, Registry

        table: Registry[Any] = getattr(import_module(f"eclipse.{self.kind}s"), f"{self.kind}s".upper())
        if name is not None:
            self._describe(_title(table, name), name, [table.build(name, scale) for scale in SCALES])
        else:
            self._list(table)

    def _list(self, table: Any) -> None:
        from eclipse.cli.show import columns, pair
        from eclipse.errors import EclipseError
        from eclipse.registry import SCALES

        scaled = {**self.scaled, self.cost[0]: self.cost[1]}
        rows = list[tuple[str, ...]]()
        for name in table.names():
            try:
                with table.blaming(name):
                    both = [table.build(name, scale) for scale in SCALES]
                    about = [words(both[0]) for words in self.about.values()]
                    rows.append((name, _title(table, name), *about, *(pair(map(of, both)) for of in scaled.values())))
            except EclipseError as error:  # of a package that is broken, or claims a name that it cannot have
                rows.append((name, str(error), *[""] * (len(self.about) + len(scaled))))
        columns(("name", "title", *self.about, *scaled), rows)
        print(f"\nMore about one: eclipse {self.kind}s NAME. Use it: {self.use}")

    def _describe(self, title: str, name: str, both: list[Any]) -> None:
        from eclipse.cli.show import described

        word, cost = self.cost
        described(f"{name}: {title}{self.line(both[0])}", both, (word, list(map(cost, both))))


def _title(table: Any, name: str) -> str:
    """What a method is, in what a variant differs from others of its kind, and the package of one that is not ours."""
    entry = table.entry(name)
    differs = ", ".join(f"{field} {value}" for field, value in entry.variant.items())
    title = table.load(name).title + (f" ({differs})" if differs else "")
    return f"{title} [{entry.package}]" if entry.package else title


def _radius(attack: "Attack") -> str:
    from eclipse.data.changes import length_in_words

    return "unbounded" if attack.norm == "none" else f"{attack.norm} {length_in_words(attack.norm, attack.radius)}"


ATTACKS = Page(
    kind="attack",
    help="""List the attacks; with a NAME, describe one with all its parameters.

Radii and other lengths in pixels are in 8-bit levels, L2 norms on the [0, 1] scale at 3x32x32. A pass is one forward
and backward pass of the surrogate, the network that an attack is made with. Two values are those of --scale paper and
--scale small.
""",
    use="eclipse poison DATASET --attack NAME --out POISONED",
    about={"family": lambda attack: attack.family, "norm, radius": _radius},
    scaled={"surrogate": lambda attack: getattr(attack, "arch", "its own") if attack.passes() else "none"},
    cost=("passes an image", lambda attack: f"{attack.passes():,.0f}"),
    line=lambda attack: f" ({attack.family}; {_radius(attack)})",
)
DEFENSES = Page(
    kind="defense",
    help="""List the defenses; with a NAME, describe one with all its parameters.

The cost is that of training a ResNet-18 on 50,000 images of 32x32 for 80 epochs with the defense, in multiples of the
same training without; a smaller one pays more for what is prepared before it. Two values are those of --scale paper
and --scale small.
""",
    use="eclipse train DATASET --test TEST --defense NAME --out RUN",
    about={"acts on": lambda defense: defense.acts, "needs trusted": lambda defense: defense.needs()},
    scaled={},
    cost=("cost", lambda defense: f"{defense.cost():.3g}"),
    line=lambda defense: f"; acts on {defense.acts}; trusted: {defense.needs()}",
)

DETECTORS_HELP = """List the detectors of `eclipse audit`; with a NAME, describe one.

Each asks one question of a data set, and needs its labels, trusted images or both. One that implicates makes a set
suspicious by itself; the others are told.
"""


def detectors(name: Annotated[str | None, typer.Argument(help="one to describe", metavar="NAME")] = None) -> None:
    """List the detectors, or describe one."""
    import inspect

    from eclipse.cli.show import columns
    from eclipse.detectors import DETECTORS as table
    from eclipse.errors import EclipseError

    if name is not None:
        print(f"{name}: {_title(table, name)}\n\n{inspect.getdoc(table.load(name))}")
        return
    rows = list[tuple[str, ...]]()
    for known in table.names():
        try:
            detector = table.load(known)
            needs = ", ".join(sorted(detector.needs))
            rows.append((known, _title(table, known), needs, "yes" if detector.implicates else "no"))
        except EclipseError as error:  # of a package that is broken, or claims a name that it cannot have
            rows.append((known, str(error), "", ""))
    columns(("name", "title", "needs", "implicates"), rows)
    print("\nMore about one: eclipse detectors NAME. Use them all: eclipse audit DATASET")
