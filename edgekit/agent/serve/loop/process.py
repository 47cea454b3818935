"""The worker process as its parent sees it: starts it, sends and receives messages, ends it."""

from __future__ import annotations

import logging
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgekit.agent.serve.pipe import (
    FromWorker,
    Message,
    Pipe,
    PipeClosedError,
    Refused,
    Start,
    WorkerSettings,
)
from edgekit.core.config import AgentConfig
from edgekit.core.manifest import BundleConfig

log = logging.getLogger(__name__)

TUNE_SHARE = 0.25  # of the trial's time; the rest is for the load and the first answer
GOLDEN_SHARE = 0.25  # likewise, for the golden prompts
EXIT_SECONDS = 2.0  # from closing its pipe to SIGKILL; the agent's loop is blocked meanwhile


class ModelProcess:
    """Runs one worker at a time; a `polling.Pollable`.

    Args:
        settings: the first frame to each worker.
        on_message: called from `ready` with each message of the worker, and from `tell` with the
            refusal of a prompt that cannot be sent.
        on_end: called from `ready` when the worker has ended by itself.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        on_message: Callable[[FromWorker], None],
        on_end: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._on_message = on_message
        self._on_end = on_end
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe[FromWorker] | None = None

    def start(self) -> None:
        """Start a worker. A worker that still runs is stopped first."""
        self.stop()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-P", "-m", "edgekit.agent", "worker"),
                    *("--descriptor", str(theirs.fileno())),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._pipe = Pipe(ours, FromWorker)
        self.tell(self._settings)

    def tell(self, message: Message) -> None:
        """Send a message. It is buffered while the worker does not read, and lost when it ends.

        A prompt that no frame can carry is refused, as the worker would: it harms no other.
        """
        if self._pipe is None:
            return
        try:
            self._pipe.offer(message)
        except PipeClosedError:  # `ready` notices the end
            return
        except (TypeError, ValueError, OverflowError) as error:
            if not isinstance(message, Start):
                raise
            log.exception("the prompt %s cannot be sent to the model process", message.key)
            text = f"the model process cannot be given this prompt: {error}"
            self._on_message(Refused(message.key, "internal", text))

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while none runs."""
        return None if self._process is None else self._process.pid

    def kill(self) -> None:
        """Send SIGKILL to the worker."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End the worker without calling `on_end`."""
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            with suppress(OSError):
                pipe.sock.shutdown(socket.SHUT_RDWR)
            pipe.sock.close()
        self._reap()

    def interest(self) -> tuple[int, int] | None:
        """See `polling.Pollable`."""
        if self._pipe is None:
            return None
        writes = select.POLLOUT if self._pipe.unsent else 0
        return self._pipe.sock.fileno(), select.POLLIN | writes

    def ready(self, events: int) -> None:
        """See `polling.Pollable`."""
        assert self._pipe is not None
        try:
            while (message := self._pipe.receive(wait=False)) is not None:
                self._on_message(message)
            if events & select.POLLOUT:
                self._pipe.flush()
        except PipeClosedError:
            self._pipe.sock.close()
            self._pipe = None
            log.warning("model process ended with %s", self._reap())
            self._on_end()

    def _reap(self) -> int | None:
        """Wait for the worker to end, which a closed pipe makes it do; return its exit code."""
        if self._process is None:
            return None
        try:
            return self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def worker_settings(
    config: AgentConfig,
    bundle: BundleConfig,
    release: str,
    model_dir: Path,
    tuning_file: Path,
    golden: str = "",
    on_trial: bool = False,
) -> WorkerSettings:
    """Return the first frame to a worker of this device and release."""
    return WorkerSettings(
        model=str(model_dir),
        release=release,
        max_length=bundle.context_length,
        threads=config.threads,
        slots=config.slots,
        batching=config.batching,
        max_beams=config.max_beams,
        logits_processors=config.logits_processors,
        tuning=str(tuning_file),
        tune_seconds=config.trial_seconds * TUNE_SHARE,
        golden=golden,
        golden_seconds=config.trial_seconds * GOLDEN_SHARE,
        measure_speed=on_trial and config.min_tokens_per_second > 0,
        image_crops=config.image_crops,
        images_per_prompt=config.images_per_prompt,
    )
