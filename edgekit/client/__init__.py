"""Prompts from Python: `Requester` and the replies that it yields."""

from edgekit.client.reply import Accepted, Delta, Final, Reply
from edgekit.client.requester import Requester, devices

__all__ = ["Accepted", "Delta", "Final", "Reply", "Requester", "devices"]
