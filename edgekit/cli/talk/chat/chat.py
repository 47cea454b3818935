"""A conversation: what the user writes is sent or obeyed, and answers are shown."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from edgekit.cli import render
from edgekit.cli.interrupts import told
from edgekit.cli.talk.answering import shrunk
from edgekit.cli.talk.chat import log as logs
from edgekit.cli.talk.chat import partner as partners
from edgekit.cli.talk.chat.commands import UserText, count_of, help_lines, parse
from edgekit.cli.talk.chat.log import ChatLog
from edgekit.cli.talk.chat.partner import Partner
from edgekit.cli.talk.chat.prompting import Order, RunningPrompt
from edgekit.cli.talk.chat.view import AnswerView
from edgekit.cli.talk.watching import DeviceWatch
from edgekit.client import Accepted, Final, Requester, SentPicture
from edgekit.client.pictures import with_pictures
from edgekit.errors import EdgekitError, UsageError
from edgekit.store import publish

NAMED_CHARACTERS = 100  # of a path that is refused
CANCEL_SECONDS = 5.0  # for the device to say how far it came


class ChatSettings(msgspec.Struct, frozen=True):
    """What all prompts of a conversation have.

    Attributes:
        choices: fields of the body beside its messages.
        expiry_seconds: the deadline of each prompt.
        interactive: whether a person is at the terminal: Ctrl-C then ends an answer alone.
    """

    choices: dict[str, Any]
    expiry_seconds: int
    interactive: bool


class Chat:
    """A conversation with a device or a pool.

    Args:
        requester: sends the prompts.
        watch: knows the devices.
        partner: whom it begins with.
        log: what was said before.
        settings: of all prompts.
    """

    def __init__(
        self,
        requester: Requester,
        watch: DeviceWatch,
        partner: Partner,
        log: ChatLog,
        settings: ChatSettings,
    ) -> None:
        self.partner = partner
        self.log = log
        self._requester = requester
        self._watch = watch
        self._settings = settings
        self._pictures: list[SentPicture] = []
        self._unanswered: dict[str, Any] | None = None  # the last message, without an answer
        self._saved: set[Path] = set()
        self._commands: dict[str, Callable[[str], object]] = {
            "/help": lambda _: self._tell(help_lines()),
            "/new": self._new,
            "/system": self._system,
            "/device": self._device,
            "/model": self._model,
            "/image": self._image,
            "/drop": self._drop,
            "/retry": self._retry,
            "/save": self._save,
            "/load": self._load,
        }

    def take(self, text: str) -> bool:
        """Do what a text of the user says; returns whether the conversation goes on.

        Raises:
            EdgekitError: or one of its kinds: it was not done; the conversation is as before.
            SystemExit: a signal ends the program.
        """
        said = parse(text)
        if said.command == "/quit":
            return False
        if said.command:
            self._commands[said.command](said.text)
        else:
            self._say(said)
        return True

    def begin(self) -> None:
        """Say whom the conversation is with.

        Raises:
            EdgekitError: or one of its kinds: the device is gone, or not known.
        """
        known = self._watch.known
        partners.check_there(self.partner.to, known)
        found = known.get(self.partner.to)
        about = f"{found.model}:{found.version}, context {found.context_length}" if found else ""
        self._note(render.one_line(f"{self.partner.to}  {about}".rstrip()))

    @property
    def names(self) -> list[str]:
        """What may stand behind `/device` and `/model`."""
        known = self._watch.known
        models = {each.model for each in known.values() if each.model}
        pools = [f"pool:{pool}" for pool in partners.pools_of(known)]
        return [*sorted(known), *pools, *sorted(models)]

    # --- messages -----------------------------------------------------------------------------
    def _say(self, said: UserText) -> None:
        message = {"role": "user", "content": said.text}
        if self._pictures:
            message = with_pictures({"messages": [message]}, self._pictures)["messages"][-1]
            self._pictures = []  # they are this message's, also where it gets no answer
        self._ask(message)

    def _ask(self, message: dict[str, Any]) -> None:
        self._unanswered = message
        asked = self.partner.next(self._watch.known)
        view = AnswerView(asked)
        try:
            self._ask_one(asked, message, view)
        except EdgekitError as error:
            if view.begun or not self.partner.elsewhere(error, asked):
                error.next_step = partners.way_on(error, self.log.questions) or error.next_step
                raise
            self._note(f"{asked} does not take it: {error.what}; {self.partner.to} is asked")
            self.partner = Partner(self.partner.to)
            self._ask_one(self.partner.to, message, AnswerView(self.partner.to))

    def _ask_one(self, to: str, message: dict[str, Any], view: AnswerView) -> None:
        partners.check_there(to, self._watch.known)
        messages = self.log.asking(message)
        body = {"messages": messages, "stream": True, **self._settings.choices}
        running = RunningPrompt(self._requester, to, body, self._settings.expiry_seconds)
        ctrl_c = Order.CANCEL if self._settings.interactive else Order.END
        with (
            view,
            told(
                {
                    signal.SIGINT: lambda: running.order(ctrl_c),
                    signal.SIGTERM: lambda: running.order(Order.END),
                    signal.SIGHUP: lambda: running.order(Order.END),
                }
            ),
        ):
            running.begin()
            final = follow(running, view)
        if final is None or final.text or final.finish_reason != "cancelled":
            self._note_answer(message, view.text)
        if final is not None:
            context = partners.context_of(final.device, self._watch.known)
            view.sum_up(final, context, name=self.partner.is_pool)
            self.partner = self.partner.answered_by(final.device)
            used = final.completion["usage"]["total_tokens"]
            if final.finish_reason == "length" and context and used >= context:
                self._note("the context is full: /drop forgets the older half of the conversation")

    def _note_answer(self, message: dict[str, Any], text: str) -> None:
        if text:
            self.log = self.log.answered(message, text)
            self._unanswered = None

    # --- commands -----------------------------------------------------------------------------
    def _new(self, _: str) -> None:
        self.log, self._unanswered = ChatLog(self.log.system), None
        self.partner = Partner(self.partner.to)
        self._note("a new conversation")

    def _system(self, text: str) -> None:
        if text:
            system = "" if text == "none" else text
            self.log = msgspec.structs.replace(self.log, system=system)
        self._tell([self.log.system or "there is no system message"])

    def _device(self, name: str) -> None:
        known = self._watch.known
        if not name:
            self._tell(map(render.one_line, partners.device_lines(known, self.partner)))
            return
        new = partners.partner(name)
        partners.check_there(new.to, known)
        self.partner = new
        self.begin()

    def _model(self, name: str) -> None:
        known = self._watch.known
        if not name:
            self._tell(map(render.one_line, partners.model_lines(known)))
            return
        self.partner = partners.serving(name, known)
        self.begin()

    def _image(self, file: str) -> None:
        to = self.partner.next(self._watch.known)
        self._pictures += shrunk(self._requester, to, [path_of(file)], self._pictures)

    def _drop(self, text: str) -> None:
        if not self.log.questions:
            raise UsageError(
                "there is nothing to drop",
                "the conversation has no question yet",
                next_step="ask something first",
            )
        count = min(count_of(text, logs.half(self.log)), self.log.questions)
        self.log = self.log.without_oldest(count)
        self._note(f"questions dropped: {count}, left: {self.log.questions}")
        if self._unanswered is not None:
            self._ask(self._unanswered)

    def _retry(self, _: str) -> None:
        if self._unanswered is None:
            raise UsageError(
                "there is nothing to send again",
                "the last message has its answer",
                next_step="type a message",
            )
        self._ask(self._unanswered)

    def _save(self, file: str) -> None:
        path = path_of(file)
        if path.exists() and path.resolve() not in self._saved:
            raise UsageError(f"{path} exists", next_step="save it under another name")
        write = logs.as_markdown if path.suffix == ".md" else logs.as_json
        try:
            publish(path, write(self.log), 0o600)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be written",
                error.strerror or str(error),
                next_step="save it under another name",
            ) from None
        self._saved.add(path.resolve())
        self._note(f"questions written to {path}: {self.log.questions}")

    def _load(self, file: str) -> None:
        self.log, self._unanswered = load(path_of(file)), None
        self._note(f"questions read from {file}: {self.log.questions}")

    # --- saying -------------------------------------------------------------------------------
    @staticmethod
    def _tell(lines: Iterable[str]) -> None:
        for line in lines:
            render.say(line)

    @staticmethod
    def _note(text: str) -> None:
        render.err.print(render.harmless(text), style="dim", markup=False)


def follow(running: RunningPrompt, view: AnswerView) -> Final | None:
    """Show what comes of a prompt until it ends.

    Returns:
        The final; None where the user did not wait for it.

    Raises:
        EdgekitError: the prompt has no answer.
        SystemExit: a signal ends the program; the device was told to stop.
    """
    cancelled = False
    while True:
        heard = running.next(CANCEL_SECONDS if cancelled else None)
        match heard:
            case Order.END:
                running.abandon()
                view.cut("cancelled")
                raise SystemExit(130)
            case Order.CANCEL if not cancelled:
                cancelled = True
                running.cancel()
            case Order.CANCEL | None:
                running.abandon()
                view.cut("cancelled; the device has not said how far it came")
                return None
            case EdgekitError():
                view.cut("")
                raise heard
            case Final():
                view.show(heard)
                return heard
            case Accepted() if cancelled:  # it had not come when the first cancel did
                running.cancel()
            case _:
                view.show(heard)


def path_of(text: str) -> Path:
    """The path that a person wrote; raises UsageError for one that no file can have here."""
    try:
        path = Path(text).expanduser()
        path.resolve()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{text[:NAMED_CHARACTERS]!r} is no file of yours",
            getattr(error, "strerror", "") or str(error),
            "write the path of a file that you may use",
        ) from None
    return path


def load(path: Path) -> ChatLog:
    """Read a conversation from a file; raises UsageError."""
    try:
        with path.open("rb") as file:
            data = file.read(logs.MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UsageError(
            f"{path} cannot be read",
            getattr(error, "strerror", "") or str(error),
            "name a file that `/save FILE.json` wrote",
        ) from None
    if len(data) > logs.MAX_FILE_BYTES:
        raise UsageError(
            f"{path} is too large",
            f"a conversation has at most {logs.MAX_FILE_BYTES} bytes",
            "name a file that `/save FILE.json` wrote",
        )
    return logs.read(data, str(path))
