"""The table of defenses and, imported when it is used, all that a defense is made of: see ``kit.py``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from eclipse.registry import Registry

if TYPE_CHECKING:
    from eclipse.defenses.kit import *  # noqa: F403
    from eclipse.defenses.kit import Defense
else:

    def __getattr__(name: str) -> Any:
        return getattr(import_module("eclipse.defenses.kit"), name)


DEFENSES: "Registry[type[Defense]]" = Registry(
    "defense",
    "eclipse.defenses",
    {
        "none": "eclipse.defenses.defense:Defense",
        "cutout": "eclipse.defenses.cutout:Cutout",
        "mixup": "eclipse.defenses.mixup:Mixup",
        "cutmix": "eclipse.defenses.cutmix:CutMix",
        "dp-sgd": "eclipse.defenses.dp_sgd:DPSGD",
        "group-norm": "eclipse.defenses.dp_sgd:GroupNormOnly",
        "iss-g": "eclipse.defenses.iss:ISSG",
        "iss-j": "eclipse.defenses.iss:ISSJ",
        "aa": "eclipse.defenses.ueraser:UEraser",
        "aa-lite": ("eclipse.defenses.ueraser:UEraser", {"copies": 1}),
        "aa-max": ("eclipse.defenses.ueraser:UEraser", {"until": 1.0}),
        "op": "eclipse.defenses.op:OP",
        "op-plain": ("eclipse.defenses.op:OP", {"extra_augmentation": False}),
        "avatar": "eclipse.defenses.avatar:AVATAR",
        "at": ("eclipse.defenses.at:AT", {"norm": "Linf"}),
        "at-l2": ("eclipse.defenses.at:AT", {"norm": "L2"}),
        "d-vae": "eclipse.defenses.dvae:DVAE",
        "one-step": "eclipse.defenses.one_step:OneStep",
        "dilution": "eclipse.defenses.dilution:Dilution",
        "trusted-only": "eclipse.defenses.dilution:TrustedOnly",
        "eclipse": "eclipse.defenses.eclipse:ECLIPSE",
        "eclipse-general": "eclipse.defenses.eclipse:ECLIPSEGeneral",
        "eclipse-tuned": "eclipse.defenses.eclipse:ECLIPSETuned",
        "eclipse-paper": ("eclipse.defenses.eclipse:ECLIPSE", {"preset": "paper"}),
        "eclipse-a": ("eclipse.defenses.eclipse:ECLIPSE", {"parts": "A"}),
        "eclipse-b": ("eclipse.defenses.eclipse:ECLIPSE", {"parts": "B"}),
        "eclipse-c": ("eclipse.defenses.eclipse:ECLIPSE", {"parts": "C"}),
        "eclipse-ab": ("eclipse.defenses.eclipse:ECLIPSE", {"parts": "AB"}),
        "eclipse-ac": ("eclipse.defenses.eclipse:ECLIPSE", {"parts": "AC"}),
        "eclipse-bc": ("eclipse.defenses.eclipse:ECLIPSE", {"parts": "BC"}),
        "auto": "eclipse.defenses.auto:Auto",
        "auto-labels": ("eclipse.defenses.auto:Auto", {"labels": 200}),
        "eclipse-trusted": "eclipse.defenses.eclipse:ECLIPSEWithTrusted",
    },
    contract="eclipse.defenses:Defense",
    files=True,
)


def make_defense(name: str, *, scale: str = "paper", **parameters: Any) -> "Defense":
    """Build a defense by its name in ``DEFENSES``.

    Args:
        name: of the defense.
        scale: ``paper`` as published, ``small`` for processors without a GPU.
        parameters: fields that are to differ from those of the scale.

    Raises:
        EclipseError: unknown name, scale or parameter, or a value out of range.
    """
    return cast("Defense", DEFENSES.build(name, scale, parameters))
