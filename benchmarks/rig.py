"""What figures are measured on: a model, a broker, a device in a folder, the bare runtime.

Each is made when the first figure asks for it and taken down when the run ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType

from benchmarks.bare import Bare
from benchmarks.broker import mosquitto
from edgekit.builder.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.samples import smollm2_gguf
from edgekit.builder.tools.progress import Progress
from edgekit.client.requester import Requester
from edgekit.core.config import BrokerConfig
from edgekit.data import cache_root
from edgekit.errors import EdgekitError, UsageError

DEVICE = "demo"
CONTEXT_TOKENS = 1024
COMMAND_SECONDS = 600.0
SMOLLM2 = "smollm2"


def _silent(_: Progress) -> None:
    """Nobody watches."""


def find_model(name: str) -> Path:
    """The folder of `smollm2` (built once, kept in edgekit's cache) or of a folder's path.

    Raises:
        UsageError: it is neither.
    """
    if name == SMOLLM2:
        out = cache_root() / "benchmarks" / "smollm2"
        return build(BuildRequest(model=str(smollm2_gguf()), out=out, gate="small"), _silent).out
    folder = Path(name)
    if not (folder / "genai_config.json").is_file():
        raise UsageError(
            f"{name!r} is no model",
            "it is neither a known name nor a folder with genai_config.json",
            f"give {SMOLLM2} or a folder that `edgekit build` made",
        )
    return folder.resolve()


class Rig:
    """Everything the figures share; a context manager.

    Args:
        rounds: samples per figure.
        model: `smollm2` or a model folder.
    """

    def __init__(self, rounds: int, model: str = SMOLLM2) -> None:
        self.rounds = rounds
        self._model = model
        self._stack = ExitStack()

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @cached_property
    def folder(self) -> Path:
        """A scratch folder."""
        made = tempfile.TemporaryDirectory(prefix="edgekit-bench-")
        return Path(self._stack.enter_context(made))

    @cached_property
    def model(self) -> Path:
        """The model's folder."""
        return find_model(self._model)

    @cached_property
    def broker(self) -> BrokerConfig:
        """A Mosquitto, on a free port."""
        return self._stack.enter_context(mosquitto(self.folder))

    @cached_property
    def device(self) -> str:
        """A device of this machine that has the model and answers at the broker."""
        port = str(self.broker.port)
        self.edgekit("init", ".", "--port", port)
        name = ("--name", "bench", "--context", str(CONTEXT_TOKENS))
        self.edgekit("pack", str(self.model), *name)
        self._stack.callback(self.edgekit, "stop", DEVICE)
        self.edgekit("push", DEVICE)
        return DEVICE

    @cached_property
    def requester(self) -> Requester:
        """A connection that prompts the device."""
        return self._stack.enter_context(Requester(self.broker, "bench"))

    @cached_property
    def bare(self) -> Bare:
        """The runtime without edgekit, on the same model."""
        bare = Bare(self.model, CONTEXT_TOKENS)
        self._stack.callback(bare.close)
        return bare

    def edgekit(self, *arguments: str) -> str:
        """Run a command in the project's folder as a person would; its standard output."""
        project = self.folder / "project"
        project.mkdir(exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGEKIT_")}
        return run_edgekit(arguments, project, environment, COMMAND_SECONDS)

    def device_cpu_seconds(self) -> float:
        """CPU time, user and system, that the device's living processes have used so far."""
        mark = str(self.folder / "project").encode()
        ticks = 0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "cmdline").read_bytes():
                    fields = (process / "stat").read_text().rpartition(")")[2].split()
                    ticks += int(fields[11]) + int(fields[12])  # utime, stime: proc(5)
            except OSError:
                continue  # it ended meanwhile
        return ticks / os.sysconf("SC_CLK_TCK")


def run_edgekit(
    arguments: tuple[str, ...], folder: Path, environment: dict[str, str], seconds: float
) -> str:
    """Run `edgekit`, which must succeed; its standard output.

    Raises:
        EdgekitError: it failed, or took longer than `seconds`.
    """
    what = f"`edgekit {' '.join(arguments)}`"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EdgekitError(f"{what} did not end within {seconds:g} s") from None
    if done.returncode != 0:
        raise EdgekitError(f"{what} failed", (done.stdout + done.stderr).strip()[-2000:])
    return done.stdout
