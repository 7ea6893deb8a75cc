"""The table of defenses."""

from typing import TYPE_CHECKING, Any, cast

from eclipse.errors import unknown
from eclipse.registry import build, load

if TYPE_CHECKING:
    from eclipse.defenses.defense import Defense

DEFENSES: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("eclipse.defenses.defense:Defense", {}),
    "cutout": ("eclipse.defenses.cutout:Cutout", {}),
    "mixup": ("eclipse.defenses.mixup:Mixup", {}),
    "cutmix": ("eclipse.defenses.cutmix:CutMix", {}),
    "dp-sgd": ("eclipse.defenses.dp_sgd:DPSGD", {}),
    "group-norm": ("eclipse.defenses.dp_sgd:GroupNormOnly", {}),
    "iss-g": ("eclipse.defenses.iss:ISSG", {}),
    "iss-j": ("eclipse.defenses.iss:ISSJ", {}),
    "aa": ("eclipse.defenses.ueraser:UEraser", {}),
    "aa-lite": ("eclipse.defenses.ueraser:UEraser", {"copies": 1}),
    "aa-max": ("eclipse.defenses.ueraser:UEraser", {"until": 1.0}),
    "op": ("eclipse.defenses.op:OP", {}),
    "op-plain": ("eclipse.defenses.op:OP", {"extra_augmentation": False}),
    "avatar": ("eclipse.defenses.avatar:AVATAR", {}),
    "at": ("eclipse.defenses.at:AT", {"norm": "Linf"}),
    "at-l2": ("eclipse.defenses.at:AT", {"norm": "L2"}),
    "d-vae": ("eclipse.defenses.dvae:DVAE", {}),
    "one-step": ("eclipse.defenses.one_step:OneStep", {}),
    "dilution": ("eclipse.defenses.dilution:Dilution", {}),
    "trusted-only": ("eclipse.defenses.dilution:TrustedOnly", {}),
    "eclipse": ("eclipse.defenses.eclipse:ECLIPSE", {}),
    "eclipse-paper": ("eclipse.defenses.eclipse:ECLIPSE", {"preset": "paper"}),
    "eclipse-a": ("eclipse.defenses.eclipse:ECLIPSE", {"parts": "A"}),
    "eclipse-b": ("eclipse.defenses.eclipse:ECLIPSE", {"parts": "B"}),
    "eclipse-c": ("eclipse.defenses.eclipse:ECLIPSE", {"parts": "C"}),
    "eclipse-ab": ("eclipse.defenses.eclipse:ECLIPSE", {"parts": "AB"}),
    "eclipse-ac": ("eclipse.defenses.eclipse:ECLIPSE", {"parts": "AC"}),
    "eclipse-bc": ("eclipse.defenses.eclipse:ECLIPSE", {"parts": "BC"}),
    "eclipse-trusted": ("eclipse.defenses.eclipse:ECLIPSEWithTrusted", {}),
}
"""From the name of a defense to its dataclass and the fields in which the variant of this name differs."""


def defense_class(name: str) -> "type[Defense]":
    """The dataclass of a defense by its name in ``DEFENSES``."""
    if name not in DEFENSES:
        raise unknown("defense", name, DEFENSES)
    return cast("type[Defense]", load(DEFENSES[name][0]))


def make_defense(name: str, *, scale: str = "paper", **parameters: Any) -> "Defense":
    """Build a defense by its name in ``DEFENSES``.

    Args:
        name: of the defense.
        scale: ``paper`` as published, ``small`` for processors without a GPU.
        parameters: fields that are to differ from those of the scale.

    Raises:
        EclipseError: unknown name, scale or parameter, or a value out of range.
    """
    return cast("Defense", build("defense", name, defense_class(name), scale, DEFENSES[name][1], parameters))
