"""Completion by typing: what is typed and what the model writes are one text, which goes on until /reset.

In a chat every line is a turn, which the model answers.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from recipes.config.schema import GenerateConfig, ParallelConfig
from recipes.config.world import launched_world
from recipes.console import on_terminal, printable, warn
from recipes.data.chat.conversations import ASSISTANT, USER, Message
from recipes.errors import UserError
from recipes.inference.chat_template import ChatTemplate
from recipes.inference.complete import prompt_ids, stream
from recipes.inference.history import History
from recipes.inference.text_generator import TextGenerator
from recipes.parallel.first_rank import decided_by_first_rank

PROMPT, CONTINUED = "> ", "... "
HELP = """\
What you type and what the model writes are one text, which your next line continues.
  /reset   begin a new text
  /text    show the text so far
  /help    this
  /exit    the end, as Ctrl-D
A line that ends with \\ goes on in the next. Ctrl-C stops the model; at the prompt, it drops the line."""


def converse(model: TextGenerator, config: GenerateConfig, chat: ChatTemplate | None) -> None:
    """Reads lines and continues them, or answers them in a chat, until the end of the input."""
    by_hand = sys.stdin.isatty() and launched_world().rank == 0
    if isinstance(
        sys.stdin, io.TextIOWrapper
    ):  # Strictly read, one bad byte would take lines around it along.
        sys.stdin.reconfigure(errors="surrogateescape")
    if by_hand:
        print(f"{model.name}: /help lists what can be typed")
    said, count = Said(model, config, chat), 0
    history = History(config.history_file) if by_hand else None
    with _CtrlC() as ctrl_c:
        for line in _lines(ctrl_c, history):
            if line == "/exit":
                break
            if line == "/reset":
                said = Said(model, config, chat)
            elif line == "/text":
                _say(said.text)
            elif line == "/help" or line.startswith("/"):
                _say(HELP if line == "/help" else f"{printable(line)}: no such command; /help lists them")
            elif line or (said.text and chat is None):
                said.add(line)
                said.answered(_continued(said, count, ctrl_c))
                count += 1


class Said:
    """What has been typed and written since the last /reset."""

    def __init__(self, model: TextGenerator, config: GenerateConfig, chat: ChatTemplate | None) -> None:
        self.model, self.config, self.chat = model, config, chat
        self.text = ""
        self.messages: list[Message] = []

    def add(self, line: str) -> None:
        """A typed line."""
        self.text += f"\n{line}" if self.text and line else line
        self.messages.append({"role": USER, "content": line})

    def answered(self, written: str) -> None:
        """What the model wrote then; a turn to which it wrote nothing is as if it had not been typed."""
        self.text += f"\n{written}" if self.chat else written
        if written.strip():
            self.messages.append({"role": ASSISTANT, "content": written})
        else:
            self.messages.pop()

    def parts(self, count: int) -> Iterator[str]:
        """What the model writes next; every line has random numbers of its own."""
        settings, seed = self.config.inference, (self.config.seed + count) % 2**63
        if self.chat is None:
            row = prompt_ids(self.model, self.text, settings)
        else:
            row = self.chat.ids(self.messages)
        return stream(self.model, row, settings, seed=seed, chat=self.chat)


def _continued(said: Said, count: int, ctrl_c: _CtrlC) -> str:
    """What the model adds, shown as it comes."""
    written = ""
    try:
        for part in said.parts(count):
            if said.chat is not None and not written:
                part = part.lstrip()
            _say(part, end="")
            written += part
            if _decided(lambda: ctrl_c.pressed):
                break
    except UserError as error:
        _say(f"error: {printable(str(error))} (/reset begins a new text)", end="")
    _say("")
    return written


class _CtrlC:
    """While it is entered, Ctrl-C is noted, so that a step of the model is not torn apart.

    Of several ranks, which all get it, the first one's note counts.
    """

    def __init__(self) -> None:
        self.pressed = False

    def __enter__(self) -> _CtrlC:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, *_: object) -> None:
        self.pressed = True

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """While this is entered, it raises KeyboardInterrupt as usual."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._note)
            self.pressed = False


def _lines(ctrl_c: _CtrlC, history: History | None) -> Iterator[str]:
    """Typed lines on every rank; those that end with a backslash together with the next."""
    begun = ""
    while True:
        line = _decided(partial(_read_line, CONTINUED if begun else PROMPT, ctrl_c))
        if history is not None:
            history.keep()
        if line is None:
            return
        if line is False:  # Ctrl-C
            begun = ""
        elif line.endswith("\\"):
            begun += line[:-1] + "\n"
        else:
            yield begun + line
            begun = ""


def _read_line(prompt: str, ctrl_c: _CtrlC) -> str | bool | None:
    """The next line; None at the end, False for Ctrl-C."""
    try:
        with ctrl_c.raised():
            # With a prompt, input() writes to the terminal even if the output goes to a file.
            line = input(prompt) if sys.stdin.isatty() else input()
            line.encode()
            return line
    except EOFError:
        if sys.stdin.isatty():
            print()
        return None
    except KeyboardInterrupt:
        print()
        return False
    except UnicodeEncodeError:
        warn("that line is not UTF-8; it is left out")
        return False


def _decided(decide: Callable[[], Any]) -> Any:
    """What rank 0 finds, on every rank."""
    return decided_by_first_rank(launched_world(), ParallelConfig.rendezvous_timeout_s, decide)


def _say(text: str, end: str = "\n") -> None:
    if launched_world().rank == 0:
        print(on_terminal(text), end=end, flush=True)
