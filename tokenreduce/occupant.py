"""The model of a session: by name, and loaded when it is first needed, or loaded already. Knows no
video and no question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tokenreduce.clock import Clock
from tokenreduce.models.base import VideoModel
from tokenreduce.models.load import check, load, placed, read_spec
from tokenreduce.models.placement import Placement
from tokenreduce.models.quantize import Quantize
from tokenreduce.models.spec import ModelSpec
from tokenreduce.remember import identity


@dataclass(frozen=True)
class Placing:
    """Where and how a model is loaded, as `models.load.load` takes it."""

    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantize: str = "auto"
    offline: bool = False
    device_map: str = "none"

    @property
    def told(self) -> dict[str, str]:
        """What of it the bits of a video's tokens may depend on."""
        return {name: value for name, value in asdict(self).items() if name != "offline"}


class Occupant:
    """Of a device, or of none yet.

    model    a name, or a loaded VideoModel, to which `placing` no longer applies
    named    under which name a loaded model was loaded, with `placing`; None if that is not known
    vram_bytes  of the device, at most; None for all that is free
    """

    def __init__(
        self,
        model: str | VideoModel,
        placing: Placing,
        named: str | None = None,
        vram_bytes: int | None = None,
    ) -> None:
        self.placing = placing
        self._model = model
        self._name = model if isinstance(model, str) else named
        self._vram_bytes = vram_bytes
        self._told = set[str]()

    @property
    def awaited(self) -> bool:
        """Whether it is still to be loaded."""
        return isinstance(self._model, str)

    @property
    def loaded(self) -> VideoModel | None:
        return None if isinstance(self._model, str) else self._model

    def spec(self) -> ModelSpec:
        """From the configuration alone where it is still to be loaded. Raises ModelError."""
        if isinstance(self._model, str):
            revision, offline = self.placing.revision, self.placing.offline
            return read_spec(self._model, revision=revision, offline=offline)
        return self._model.spec

    def check(self) -> None:
        """Raises ModelError for files that are not what their configuration says; reads none."""
        if isinstance(self._model, str):
            check(self._model, self.placing.revision)

    def placement(self, clock: Clock) -> Placement:
        """Where the model is, or will be. Raises SettingError and CapacityError."""
        if isinstance(self._model, str):
            return placed(self._model, **self._loading(), warn=self._once(clock))
        quantize: Quantize = self._model.quantize  # type: ignore[assignment]  # one of the three
        return Placement(self._model.device, self._model.dtype, quantize)

    def here(self, clock: Clock) -> VideoModel:
        """The model, loaded in the part "load" if it was not. Raises as `models.load.load`."""
        if isinstance(self._model, str):
            with clock.part("load"):
                self._model = load(self._model, on_event=clock.tell, **self._loading())
        return self._model

    def _once(self, clock: Clock) -> Callable[[str], None]:
        """Warns of what was not warned of before: a file may be opened several times."""

        def warn(told: str) -> None:
            if told not in self._told:
                self._told.add(told)
                clock.warn(told)

        return warn

    def identity(self) -> str | None:
        """What tells its tokens from any other model's; None if nothing does."""
        return None if self._name is None else identity(self._name, self.placing.revision)

    def _loading(self) -> dict[str, Any]:
        """As it was asked for, within the memory that is allowed."""
        return {**asdict(self.placing), "max_memory_bytes": self._vram_bytes}
