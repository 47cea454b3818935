"""Which windows of a plan are open, as far as it was said. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgekit.fleet.rollout.windows.window import Window, parse_window


@dataclass
class Openings:
    """The windows of devices, and what the journal says of each.

    Attributes:
        windows: of each device that has one, as `parse_window` reads it.
        said: whether a window is open; one of which nothing was said counts as closed.
    """

    windows: Mapping[str, str]
    said: dict[str, bool] = field(default_factory=dict)
    _parsed: dict[str, Window] = field(init=False)

    def __post_init__(self) -> None:
        self._parsed = {text: parse_window(text) for text in self.windows.values()}

    def may_switch(self, device: str) -> bool:
        """Whether a device has no window, or an open one."""
        return device not in self.windows or self.said.get(self.windows[device], False)

    def changed(self, devices: Iterable[str], now: float) -> list[tuple[bool, str]]:
        """What the clock says of the windows of these devices and was not said yet."""
        told = ((self._parsed[text].is_open(now), text) for text in self._of(devices))
        return [(is_open, text) for is_open, text in told if self.said.get(text) != is_open]

    def looks(self, devices: Iterable[str], now: float) -> list[float]:
        """When to look again at their windows; at once where nothing was said of one."""
        texts = self._of(devices)
        if set(texts) - self.said.keys():
            return [now]
        changes = (self._parsed[text].next_change(now) for text in texts)
        return [at for at in changes if at is not None]

    def _of(self, devices: Iterable[str]) -> list[str]:
        return sorted({self.windows[device] for device in devices if device in self.windows})
