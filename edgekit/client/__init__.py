"""Prompts from Python: `Requester` and the replies that it yields."""

from edgekit.client.requester import Accepted, Delta, Final, Reply, Requester, devices

__all__ = ["Accepted", "Delta", "Final", "Reply", "Requester", "devices"]
