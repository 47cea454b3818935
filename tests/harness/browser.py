"""A real browser: Chromium without a screen, driven by puppeteer-core, looked at by axe-core."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests import javascript, tools

PHONE, DESKTOP = (390, 844), (1280, 800)


@dataclass
class Browser:
    """One page at a time; each `open` begins with empty storage."""

    process: subprocess.Popen[str]

    def _do(self, command: str, **given: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"command": command, **given}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"error": "the browser has ended"}')
        assert "error" not in answer, f"{command} {given}: {answer['error']}"
        return answer["value"]

    def open(self, url: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        """Open an address; `scheme` is what the system prefers."""
        self._do("open", url=url, width=size[0], height=size[1], scheme=scheme)

    def reload(self) -> None:
        """Load the page again, and wait until it is the new one that the next command meets."""
        self._do("reload")

    def evaluate(self, code: str) -> Any:
        """The value of an expression."""
        return self._do("evaluate", code=code)

    def wait(self, code: str, seconds: float = 40.0) -> None:
        """Until an expression is true."""
        self._do("wait", code=code, seconds=seconds)

    def click(self, at: str) -> None:
        """Click what a CSS selector finds, once it is there and can be clicked."""
        self._do("click", at=at)

    def type(self, at: str, text: str) -> None:
        """Type into a field, key by key."""
        self._do("type", at=at, text=text)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self._do("press", key=key)

    def text(self, at: str) -> str:
        """The text of the first element that a CSS selector finds."""
        return str(self.evaluate(f"document.querySelector({json.dumps(at)}).textContent"))

    def violations(self) -> list[Any]:
        """What axe-core finds wrong: WCAG 2.2 A and AA, and its best practices."""
        found = self._do("axe")
        assert found["rules"] > 10  # it looked at something
        return list(found["violations"])

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, and exceptions, since the page was opened."""
        return list(self._do("complaints"))

    def overflows(self) -> bool:
        """Whether the page is wider than the window."""
        root = "document.documentElement"
        return bool(self.evaluate(f"{root}.scrollWidth > {root}.clientWidth"))

    def picture(self, path: Path) -> None:
        """Save what is to be seen as a small PNG of 256 colours."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._do("picture", path=str(path))
        with Image.open(path) as found:
            small = found.convert("RGB").quantize(
                256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
        small.save(path, optimize=True)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser for the length of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    script = javascript.FOLDER / "browser.mjs"
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            [*javascript.beside_modules(script, folder), tools.find("chromium")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield Browser(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
