"""Detects a stalled worker for the watchdog, and words the agent's state for a person. Pure."""

from __future__ import annotations

from edgekit.agent.serve.pipe import SLICE_TOKENS, quiet_seconds
from edgekit.core.config import AgentConfig
from edgekit.core.protocol import wire

COLD_SECONDS = 60.0  # the weights may have to be read again from a slow disk


def longest_silence_seconds(config: AgentConfig, loading: bool) -> float:
    """Return for how many seconds a healthy worker may be silent, unless it announces more.

    That is the time for one slice of a prefill. While the worker loads the model and measures its
    threads, the time of a trial is added.
    """
    load = config.trial_seconds if loading else 0.0
    return load + COLD_SECONDS + quiet_seconds(SLICE_TOKENS)


def stall_of(*, owed: bool, silent_seconds: float, longest_silence_seconds: float) -> str:
    """Return why the agent is stalled, or an empty string.

    The main loop calls this, and so proves that it still runs itself.

    Args:
        owed: the worker has something to do: load the model, or run a prompt.
        silent_seconds: since the worker last sent a message or had nothing to do.
        longest_silence_seconds: for how long a healthy worker may be silent.
    """
    if owed and silent_seconds > longest_silence_seconds:
        return f"the model process has said nothing for {silent_seconds:.0f} s"
    return ""


def status_line(status: wire.Status, *, connected: bool, broker: str) -> str:
    """Return one line on the agent's state, for `systemctl status`."""
    words = [status.state.replace("_", " ")]
    if status.state == "starting":
        words = ["loading the model"]
    elif not connected and status.state != "offline":
        words.append(f"no connection to the broker at {broker}")
    if status.active or status.queue:
        words.append(f"{status.active} running, {status.queue} waiting")
    if status.tok_s:
        words.append(f"{status.tok_s:g} tokens/s")
    return "; ".join(words)
