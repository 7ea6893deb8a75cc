"""The accuracies that the paper reports, to compare with."""

from collections.abc import Mapping, Sequence

SOURCE = "Wang et al., ECLIPSE, ESORICS 2024, arXiv 2406.15093: CIFAR-10, 50,000 images, 80 epochs, last epoch"

POISONS = ("em", "tap", "rem", "sep", "efp", "urp", "lsp", "ar", "adp")
"""The columns of all tables below, by the names of our attacks."""

RESNET18: dict[str, tuple[float, ...]] = {
    "none": (17.58, 26.16, 27.34, 9.01, 86.64, 16.80, 24.48, 10.59, 25.93),
    "cutout": (17.63, 29.16, 22.42, 9.30, 87.76, 84.41, 22.93, 12.92, 21.39),
    "mixup": (30.74, 24.36, 29.99, 8.35, 88.76, 17.29, 23.48, 11.46, 31.20),
    "cutmix": (29.73, 23.70, 29.42, 6.66, 87.74, 84.24, 20.86, 14.56, 23.14),
    "dp-sgd": (18.17, 30.96, 25.92, 8.24, 87.98, 20.49, 22.11, 10.19, 21.51),
    "iss-g": (88.42, 21.88, 65.29, 7.57, 86.54, 60.64, 65.89, 38.64, 34.42),
    "aa": (85.30, 67.12, 39.73, 24.94, 87.76, 90.81, 87.38, 51.19, 58.22),
    "op": (65.42, 45.86, 30.44, 10.01, 82.64, 89.28, 90.14, 33.60, 33.80),
    "avatar": (27.45, 86.63, 35.74, 44.97, 75.90, 86.86, 39.93, 83.98, 67.95),
    "at": (68.31, 82.46, 60.80, 63.23, 71.46, 85.63, 81.94, 84.04, 82.76),
    "iss-j": (78.35, 80.77, 81.54, 80.93, 70.54, 81.27, 79.55, 81.39, 80.98),
    "eclipse": (82.80, 86.13, 82.72, 82.85, 77.20, 86.98, 84.58, 87.32, 82.62),
}
"""Table 1: accuracy in % of a ResNet-18, by the names of our defenses."""

RESNET18_MEANS = {
    "none": 27.17,
    "cutout": 34.21,
    "mixup": 29.51,
    "cutmix": 35.56,
    "dp-sgd": 27.29,
    "iss-g": 52.14,
    "aa": 65.83,
    "op": 53.47,
    "avatar": 61.05,
    "at": 75.63,
    "iss-j": 79.48,
    "eclipse": 83.69,
}
"""The means of the rows as published."""

VGG19: dict[str, tuple[float | None, ...]] = {
    "none": (19.90, 27.81, 31.22, None, 81.83, 16.53, 21.80, 13.94, 24.02),
    "eclipse": (80.73, 84.83, 79.90, None, 75.87, 85.86, 83.48, 85.84, 80.11),
}
"""The same for a VGG-19, without SEP."""

VGG19_MEANS = {"eclipse": 82.08, "iss-j": 78.35, "at": 74.90}

CLEAN = {
    "none": {"resnet18": 94.95, "resnet50": 94.53, "vgg16": 93.27, "vgg19": 93.04, "densenet121": 93.91},
    "at": {"resnet18": 89.57, "resnet50": 89.88, "vgg16": 88.04, "vgg19": 86.93, "densenet121": 89.11},
    "iss-j": {"resnet18": 85.23, "resnet50": 85.85, "vgg16": 84.42, "vgg19": 84.26, "densenet121": 85.08},
    "eclipse": {"resnet18": 90.43, "resnet50": 90.17, "vgg16": 88.38, "vgg19": 88.58, "densenet121": 89.35},
}
"""Accuracy in % on clean data with the defense on, by the names of our victims."""

ABLATION: dict[str, tuple[float, ...]] = {
    "eclipse-a": (27.45, 86.63, 35.74, 44.97, 75.90, 86.86, 39.93, 83.98),
    "eclipse-b": (78.69, 30.95, 67.05, 7.53, 86.14, 58.70, 68.19, 37.63),
    "eclipse-c": (20.43, 84.90, 28.83, 11.93, 79.06, 89.54, 27.11, 33.14),
    "eclipse-ab": (73.22, 86.31, 67.48, 41.30, 77.58, 85.59, 81.58, 84.22),
    "eclipse-ac": (61.30, 86.94, 77.33, 84.07, 76.72, 87.52, 68.70, 87.59),
    "eclipse-bc": (78.82, 83.32, 75.51, 14.66, 81.62, 88.87, 80.08, 60.96),
}
"""Table 4: accuracy in % of a ResNet-18, by the names of our defenses, for the poisons without ADP."""

ABLATION_MEANS = {
    "eclipse": 83.82,
    "eclipse-ac": 78.77,
    "eclipse-ab": 74.66,
    "eclipse-bc": 70.48,
    "eclipse-a": 60.18,
    "eclipse-b": 54.36,
    "eclipse-c": 46.87,
}
"""The means of its rows as published."""

ABLATION_POISONS = POISONS[:-1]

NOTES = {
    "avatar": (
        "The paper's AVATAR row is, digit for digit, the row of ECLIPSE's part A alone in its ablation (Table 4), so "
        "it is not AVATAR as published, which needs a denoiser of a full clean set, at much more noise, and was "
        "measured at 88 to 91 % on EM, TAP, REM, LSP and AR by others (BridgePure, NeurIPS 2025)."
    ),
}
"""What to know about a row before quoting it."""

_SAME = {"eclipse-paper": "eclipse"}  # the same method with the paper's parameters


def victim(arch: str) -> str:
    """The victim of the paper to compare with on clean data: itself where the paper has it, otherwise ResNet-18."""
    return arch if arch in CLEAN["none"] else "resnet18"


def victim_of_poisons(arch: str) -> str:
    """The victim of the paper to compare with on poisons: the paper has them for two only."""
    return arch if arch == "vgg19" else "resnet18"


def accuracy(attack: str, defense: str, arch: str) -> float | None:
    """The paper's accuracy in %, for attack ``clean`` or a poison; None where it has none."""
    defense = _SAME.get(defense, defense)
    if attack == "clean":
        return CLEAN.get(defense, {}).get(victim(arch))
    rows: Mapping[str, Sequence[float | None]]
    rows = VGG19 if victim_of_poisons(arch) == "vgg19" else {**RESNET18, **ABLATION}
    return dict(zip(POISONS, rows.get(defense, ()), strict=False)).get(attack)
