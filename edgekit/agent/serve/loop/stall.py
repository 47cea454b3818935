"""Whether the agent gets on with its work, as systemd is told, and in a person's words. Pure."""

from __future__ import annotations

from edgekit.agent.serve.pipe import SLICE_TOKENS, quiet_seconds
from edgekit.core import wire
from edgekit.core.config import AgentConfig

COLD_SECONDS = 60.0  # the weights may have to be read again from a slow disk


def longest_silence_seconds(config: AgentConfig, loading: bool) -> float:
    """For how long a worker that is well may say nothing, unless it has announced more: a slice of
    a prefill, and while it loads the model and measures its threads, the trial's time as well."""
    load = config.trial_seconds if loading else 0.0
    return load + COLD_SECONDS + quiet_seconds(SLICE_TOKENS)


def stall_of(*, owed: bool, silent_seconds: float, longest_silence_seconds: float) -> str:
    """What does not get on, or nothing. Asked by the main loop, which so has turned itself.

    Args:
        owed: the worker has something to do: to load the model, or a prompt.
        silent_seconds: since the worker said something, or had nothing to do.
        longest_silence_seconds: what a worker that is well may take.
    """
    if owed and silent_seconds > longest_silence_seconds:
        return f"the model process has said nothing for {silent_seconds:.0f} s"
    return ""


def status_line(status: wire.Status, *, connected: bool, broker: str) -> str:
    """How the agent is, for `systemctl status`."""
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
