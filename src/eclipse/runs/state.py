"""Long work in stages: where it keeps its state, how it tells its progress.

A stage ("surrogate", "noise") can be gone on with after a kill. What it draws depends on (seed, stage, position) alone,
so interrupted work ends with the bytes of an undisturbed one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from eclipse.errors import EclipseError
from eclipse.runs.files import parse_json, write_whole

TELL_EVERY_S = 1.0  # how often work whose parts are quick tells how far it is
DENOISER = "denoiser"  # the stage of what several works share, which counts for none of them


class Event(Protocol):
    """What long work tells of itself while it goes on."""

    @property
    def what(self) -> str:
        """What is being done, in words."""

    @property
    def share(self) -> float:
        """Of it that is done, in [0, 1]."""

    @property
    def figures(self) -> str:
        """Worth showing, in words."""

    @property
    def seconds_left(self) -> float | None:
        """The estimate for the rest; None where the share alone tells."""


@dataclass(frozen=True)
class StageStep:
    """How far the work is.

    Attributes:
        stage: what is being done, in words.
        done: parts of the stage that are done.
        total: parts of the stage; an upper bound where it ends when a goal is reached.
        facts: figures worth showing, such as the accuracy of the surrogate.
    """

    stage: str
    done: int
    total: int
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """The stage."""
        return self.stage

    @property
    def share(self) -> float:
        """Of the stage that is done."""
        return self.done / self.total

    @property
    def figures(self) -> str:
        """The parts, and the facts."""
        return ", ".join(
            [f"{self.done} of {self.total}", *(f"{name} {value:.3g}" for name, value in self.facts.items())]
        )

    @property
    def seconds_left(self) -> None:
        """The stages differ too much: the share has to tell."""


class State:
    """State and progress of long work.

    Args:
        folder: keeps the state of every stage, to go on after a kill; None keeps nothing.
        on_step: called whenever a part of a stage is done.
        shared: folder of what several works share, such as denoisers, each named by a fingerprint; None shares nothing.
    """

    def __init__(
        self,
        folder: Path | None = None,
        on_step: Callable[[StageStep], None] = lambda step: None,
        shared: Path | None = None,
    ) -> None:
        self.folder = folder
        self.on_step = on_step
        self.shared = shared

    def load(self, stage: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and the facts that were saved last for a stage; None where there are none."""
        if self.folder is None or not self._file(stage).exists():
            return None
        from safetensors import safe_open

        try:
            with safe_open(self._file(stage), "pt") as file:
                facts = parse_json(file.metadata()["facts"].encode())
                return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118, not a mapping
        except Exception as error:  # safetensors raises an error of its own on damaged files
            raise EclipseError(
                f"{self._file(stage)} cannot be read ({error}); delete {self.folder} to start anew"
            ) from error

    def save(self, stage: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep the state of a stage, whole or not at all."""
        if self.folder is None:
            return
        from safetensors.torch import save

        self.folder.mkdir(parents=True, exist_ok=True)
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(self._file(stage), save(flat, {"facts": json.dumps(dict(facts))}))

    def tell(self, stage: str, done: int, total: int, **facts: float) -> None:
        """Tell how far a stage is."""
        self.on_step(StageStep(stage, done, total, facts))

    def _file(self, stage: str) -> Path:
        assert self.folder is not None
        name = stage.replace(" ", "-").replace("/", "%2F")  # words of a user, with a path in them, may name a stage
        return self.folder / f"{name}.safetensors"


@dataclass(frozen=True)
class Work:
    """What long work is handed down: what decides its draws, where it computes, where it keeps its state.

    Attributes:
        seed: decides the result, with the inputs.
        device: ``cpu`` or ``cuda``.
        state: keeps what is done and tells the progress; by default neither.
    """

    seed: int = 0
    device: str = "cpu"
    state: State = field(default_factory=State)


def pack(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The state of a network and its optimizer as named tensors."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items() if value is not None}
    return tensors


def unpack(tensors: Mapping[str, Tensor], network: nn.Module, optimizer: Optimizer) -> None:
    """Bring a network and its optimizer into a state from ``pack``."""
    parts: dict[str, Any] = {"network": {}, "optimizer": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part == "network":
            parts[part][rest] = value
        elif part == "optimizer":
            i, _, key = rest.partition(".")
            parts[part].setdefault(int(i), {})[key] = value
    network.load_state_dict(parts["network"])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": parts["optimizer"]})
