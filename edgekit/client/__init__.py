"""Prompts from Python: `Requester` and the replies that it yields."""

from edgekit.client.announced import devices, forget
from edgekit.client.pictures import SentPicture
from edgekit.client.reply import Accepted, Delta, Final, Reply
from edgekit.client.requester import Requester

__all__ = ["Accepted", "Delta", "Final", "Reply", "Requester", "SentPicture", "devices", "forget"]
