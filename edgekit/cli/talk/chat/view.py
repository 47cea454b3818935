"""Shows an answer as it comes: its text on standard output, all else dim on standard error."""

from __future__ import annotations

from types import TracebackType

from edgekit.cli import render
from edgekit.cli.talk.answering import Unbroken, figures, unshown
from edgekit.client import Accepted, Delta, Final, Reply


class AnswerView:
    """The screen of one answer.

    Args:
        device: whom the prompt went to, for the line that waits.
    """

    def __init__(self, device: str) -> None:
        self.text = ""
        self.begun = False  # a device has taken the prompt
        self._device = device
        self._thinks = False
        self._unbroken = Unbroken()
        self._waiting = render.err.status(f"waiting for {device}")

    def __enter__(self) -> AnswerView:
        self._waiting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.stop()

    def show(self, reply: Reply) -> None:
        """Show what a reply brings."""
        self.begun = True
        match reply:
            case Accepted(position=position) if position:
                self._waiting.update(f"waiting for {self._device}: {position} prompts come first")
            case Delta(text=piece, reasoning=thought) if self._unbroken.takes(reply):
                self._waiting.stop()
                if thought:
                    self._thinks = True
                    self._dim(thought, end="")
                if piece:
                    self._end_thinking()
                    self.text += piece
                    render.stream(piece)
            case Final():
                self._waiting.stop()
                if reply.reasoning and not self._thinks and not self.text:
                    self._thinks = True
                    self._dim(reply.reasoning, end="")
                self._end_thinking()
                render.stream(unshown(self.text, reply) + "\n")
                self.text = reply.text

    def sum_up(self, final: Final, context: int, *, name: bool) -> None:
        """Show the answer's figures.

        Args:
            context: of the device in tokens; 0 where it is not known.
            name: whether to say which device has answered.
        """
        words = [final.device] if name else []
        words.append(figures(final))
        if context:
            words.append(f"context {final.completion['usage']['total_tokens']} of {context}")
        self._dim("; ".join(words))

    def cut(self, why: str) -> None:
        """Say why no more comes of an answer that has no end."""
        self._waiting.stop()
        if self.text or self._thinks:
            render.stream("\n")
        if why:
            self._dim(why)

    def _end_thinking(self) -> None:
        if self._thinks:
            self._thinks = False
            render.err.print()

    @staticmethod
    def _dim(text: str, end: str = "\n") -> None:
        render.err.print(render.harmless(text), end=end, style="dim", markup=False)
