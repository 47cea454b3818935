"""What the agent's loop does beside prompts: the service manager hears how it gets on, and whoever
asks for its metrics gets them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgekit.agent.serve.exporter import Exporter
from edgekit.agent.serve.metrics import prometheus
from edgekit.agent.serve.notify import Notifier
from edgekit.agent.serve.presence import METRICS_SECONDS, metrics_message
from edgekit.agent.serve.progress import longest_silence_seconds, progress, status_line
from edgekit.agent.serve.session import Session
from edgekit.core import wire

log = logging.getLogger(__name__)


class Health:
    """Asked once in a tick.

    Args:
        session: whose health it is.
        notifier: to the service manager, if there is one.
        publish: sends a message to the broker.
    """

    def __init__(
        self, session: Session, notifier: Notifier, publish: Callable[[wire.Outbound], object]
    ) -> None:
        self._session = session
        self._notifier = notifier
        self._stuck = ""
        self._exporter = Exporter(session.config.metrics_port)
        self._publish = publish
        self._publish_at = 0.0

    def tick(self, now: float, *, answers: bool) -> None:
        """Tell how it is; what could not be said is said in the next tick.

        Args:
            now: monotonic seconds.
            answers: the model has answered and the broker has subscribed us, if only once.
        """
        self._exporter.answer(lambda: prometheus(self._session.metrics()))
        session = self._session
        if session.connected and now >= self._publish_at:
            self._publish_at = now + METRICS_SECONDS
            self._publish(metrics_message(session.config.device, session.metrics()))
        if answers:
            self._notifier.ready()
        status = session.status()
        stuck = progress(
            owed=session.owed,
            silent_seconds=session.silent_seconds(now),
            longest_silence_seconds=longest_silence_seconds(
                session.config, status.state == "starting"
            ),
        )
        if not stuck:
            self._notifier.ping(now)
        elif stuck != self._stuck:
            log.error("the watchdog is told nothing more: %s", stuck)
        self._stuck = stuck
        line = status_line(status, connected=session.connected, broker=str(session.config.broker))
        self._notifier.status(f"stuck: {stuck}" if stuck else line)

    def stopping(self) -> None:
        """Nothing new is taken any more."""
        self._notifier.stopping()
