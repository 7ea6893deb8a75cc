"""The table of defenses."""

import importlib
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, cast

from eclipse.errors import EclipseError, unknown

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

SCALES = ("paper", "small")


def defense_class(name: str) -> "type[Defense]":
    """The dataclass of a defense by its name in ``DEFENSES``."""
    if name not in DEFENSES:
        raise unknown("defense", name, DEFENSES)
    module, _, attribute = DEFENSES[name][0].partition(":")
    return cast("type[Defense]", getattr(importlib.import_module(module), attribute))


def make_defense(name: str, *, scale: str = "paper", **parameters: Any) -> "Defense":
    """Build a defense by its name in ``DEFENSES``.

    Args:
        name: of the defense.
        scale: ``paper`` as published, ``small`` for processors without a GPU.
        parameters: fields that are to differ from those of the scale.

    Raises:
        EclipseError: unknown name, scale or parameter, or a value out of range.
    """
    cls = defense_class(name)
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    known = [field.name for field in fields(cls)] if is_dataclass(cls) else list[str]()
    for parameter in parameters:
        if parameter not in known:
            raise unknown(f"parameter of defense {name!r}", parameter, known)
    try:
        return cls(**{**(cls.small if scale == "small" else {}), **DEFENSES[name][1], **parameters})
    except TypeError as error:
        raise EclipseError(f"a value of defense {name!r} has the wrong type ({error})") from error
