"""What figures are measured on: a model, a broker, a device in a folder, the bare runtime.

Each is made when the first figure asks for it and taken down when the run ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import msgspec

from benchmarks import bare_worker
from benchmarks.bare import Bare
from benchmarks.broker import mosquitto
from benchmarks.models import PHI35, SMOLLM2, find_model
from edgekit.agent.release.root import Root
from edgekit.client.requester import Requester
from edgekit.core.config import BrokerConfig
from edgekit.errors import EdgekitError

DEVICE = "demo"
CONTEXT_TOKENS = 2048
COMMAND_SECONDS = 600.0
READY_SECONDS = 120.0


class Closes(Protocol):
    """What a run ends with."""

    def close(self) -> None:
        """End it."""
        ...


Process = TypeVar("Process", bound=Closes)


class Rig:
    """Everything the figures share; a context manager.

    Args:
        rounds: samples per figure.
        model: `smollm2`, `phi35` or a model folder.
        tls: whether everybody speaks TLS to the broker, with certificates on both sides.
    """

    def __init__(self, rounds: int, model: str = SMOLLM2, *, tls: bool = False) -> None:
        self.rounds = rounds
        self.tls = tls
        self.model_name = model
        self._stack = ExitStack()
        self._fleet_toml: str | None = None

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
        return find_model(self.model_name)

    @cached_property
    def end_tokens(self) -> list[int]:
        """The tokens that end an answer of the model."""
        ends = json.loads((self.model / "genai_config.json").read_bytes())["model"]["eos_token_id"]
        return ends if isinstance(ends, list) else [ends]

    @cached_property
    def broker(self) -> BrokerConfig:
        """A Mosquitto, on a free port."""
        return self._stack.enter_context(mosquitto(self.folder, tls=self.tls))

    @cached_property
    def device(self) -> str:
        """A device of this machine that has the model and answers at the broker."""
        if not (self.folder / "project").exists():
            self.edgekit("init", ".", "--port", str(self.broker.port))
            if self.tls:
                broker = msgspec.toml.encode({"broker": self.broker}).decode()
                (self.folder / "project" / "edgekit.toml").write_text(broker, encoding="utf-8")
            name = ("--name", "bench", "--context", str(CONTEXT_TOKENS), "--soak", "0")
            ungated = ("--accept-ungated",) if self.model_name == PHI35 else ()
            self.edgekit("pack", str(self.model), *name, *ungated)
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
        return self.another_bare(self.options)

    @cached_property
    def options(self) -> dict[str, Any]:
        """The session options that the device found best, by the runtime's names."""
        assert self.device
        ready = json.loads(self.root.ready_file.read_bytes())["model"]
        return {
            "intra_op_num_threads": ready["threads"],
            "session.intra_op.allow_spinning": str(int(ready["spinning"])),
        }

    @property
    def root(self) -> Root:
        """The device's folder."""
        return Root(self.folder / "project" / ".edgekit" / "devices" / DEVICE)

    def compared(self) -> Iterator[Requester]:
        """Once a round: the device's model process can be the bare runtime, too.

        Each round has a process of its own, whose luck the figure's median then leaves out.

        Yields:
            The requester whose prompts are answered so (`bare_worker`).
        """
        assert self.device
        self.stop_device()
        for _ in range(self.rounds):
            with self._comparing() as bare:
                yield bare

    @contextmanager
    def _comparing(self) -> Iterator[Requester]:
        log = self.folder / "compared.log"
        command = [sys.executable, "-S", "-P", bare_worker.__file__, "serve"]
        with log.open("wb") as errors:
            agent = subprocess.Popen(
                [*command, "--root", str(self.root.path)],
                env=self.root.environment(self.root.current.resolve()),
                stdin=subprocess.DEVNULL,
                stderr=errors,
            )
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not self.root.ready_file.exists():
                if agent.poll() is not None or time.monotonic() > deadline:
                    said = log.read_text(errors="replace")
                    raise EdgekitError("the agent did not start", said[-2000:])
                time.sleep(0.1)
            with Requester(self.broker, bare_worker.BARE) as bare:
                yield bare
        finally:
            agent.terminate()
            agent.wait(READY_SECONDS)

    def another_bare(self, options: dict[str, Any]) -> Bare:
        """The runtime with other session options, in one more process."""
        return self.closing(Bare(self.model, CONTEXT_TOKENS, options))

    def closing(self, process: Process) -> Process:
        """End this process with the run."""
        self._stack.callback(process.close)
        return process

    def reconfigure(self, settings: str) -> None:
        """Push the device again with other lines in its part of fleet.toml; none are its own."""
        assert self.device
        fleet = self.folder / "project" / "fleet.toml"
        if self._fleet_toml is None:
            self._fleet_toml = fleet.read_text("utf-8")
        fleet.write_text(self._fleet_toml + settings, encoding="utf-8")
        self.edgekit("push", DEVICE)

    def stop_device(self) -> None:
        """Stop the device; a figure that wants one starts it again."""
        self.edgekit("stop", DEVICE)
        self.__dict__.pop("device", None)

    def edgekit(self, *arguments: str) -> str:
        """Run a command in the project's folder as a person would; its standard output."""
        project = self.folder / "project"
        project.mkdir(exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGEKIT_")}
        return run_edgekit(arguments, project, environment, COMMAND_SECONDS)


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
