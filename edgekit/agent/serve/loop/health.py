"""Reports the agent's health to the service manager, and publishes its metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgekit.agent.serve.loop.exporter import Exporter
from edgekit.agent.serve.loop.notify import Notifier
from edgekit.agent.serve.loop.stall import longest_silence_seconds, stall_of, status_line
from edgekit.agent.serve.session.events import Snapshot
from edgekit.agent.serve.session.presence import METRICS_SECONDS, metrics_message
from edgekit.core.config import AgentConfig
from edgekit.core.protocol import wire
from edgekit.core.protocol.exposition import prometheus

log = logging.getLogger(__name__)


class Health:
    """Gets a snapshot in every tick and passes it on.

    Args:
        config: this device.
        notifier: to the service manager, if the agent runs under one.
        publish: sends a message to the broker.
    """

    def __init__(
        self, config: AgentConfig, notifier: Notifier, publish: Callable[[wire.Outbound], object]
    ) -> None:
        self._config = config
        self._notifier = notifier
        self._stuck = ""
        self._exporter = Exporter(config.metrics_port)
        self._publish = publish
        self._publish_at = 0.0

    def tell(self, snapshot: Snapshot, now: float) -> None:
        """Report a snapshot. A report that fails is repeated in the next tick.

        Args:
            snapshot: of this tick.
            now: monotonic seconds.
        """
        self._exporter.answer(lambda: prometheus(snapshot.metrics))
        config, status = self._config, snapshot.status
        if snapshot.connected and now >= self._publish_at:
            self._publish_at = now + METRICS_SECONDS
            self._publish(metrics_message(config.device, snapshot.metrics))
        if snapshot.answers:
            self._notifier.ready()
        stuck = stall_of(
            owed=snapshot.owed,
            silent_seconds=snapshot.silent_seconds,
            longest_silence_seconds=longest_silence_seconds(config, status.state == "starting"),
        )
        if not stuck:
            self._notifier.ping(now)
        elif stuck != self._stuck:
            log.error("the watchdog gets no more pings: %s", stuck)
        self._stuck = stuck
        line = status_line(status, connected=snapshot.connected, broker=str(config.broker))
        self._notifier.status(f"stuck: {stuck}" if stuck else line)
