"""The command lines of tools and benchmarks: flags as a user types them, one line for what is wrong."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn

from recipes.errors import UserError

_until: Literal["read", "checked"] | None = None
"""How far a tool is run; None: to its end."""


class _Reached(BaseException):
    """Ends a tool that has come as far as it should."""

    def __init__(self, options: argparse.Namespace | None = None) -> None:
        self.options = options


def understood(main: Callable[[], object], arguments: Sequence[str]) -> argparse.Namespace:
    """What a tool whose ``main`` this is reads from its command line; nothing else of it is run.

    Raises:
        UserError: as the tool itself would say.
    """
    options = _run(main, arguments, "read")
    assert options is not None
    return options


def check(main: Callable[[], object], arguments: Sequence[str]) -> None:
    """Runs a tool whose ``main`` this is as far as its own ``work_begins``.

    Raises:
        UserError: as the tool itself would say.
    """
    _run(main, arguments, "checked")


def work_begins() -> None:
    """Where a tool has looked at everything that is quickly looked at.

    What comes before it has changed nothing; what comes after reads whole files, writes, or asks the network.
    """
    if _until == "checked":
        raise _Reached


def _run(
    main: Callable[[], object], arguments: Sequence[str], until: Literal["read", "checked"]
) -> argparse.Namespace | None:
    global _until
    before, sys.argv, _until = sys.argv, [sys.argv[0], *arguments], until
    try:
        main()
    except _Reached as reached:
        return reached.options
    finally:
        sys.argv, _until = before, None
    raise AssertionError(f"{main.__module__} never comes to this: {until}")


class Arguments(argparse.ArgumentParser):
    """An argparse parser whose refusals are one line, with an example, and exit code 2.

    Args:
        module: what stands after ``python -m``.
        description: the first line of ``--help``.
        examples: the end of ``--help``; its first command is shown when arguments are missing.
        foreign: flags of other projects' tools -> what to write here instead.
    """

    def __init__(
        self, module: str, description: str | None, examples: str, foreign: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(
            prog=f"python -m {module}",
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.foreign = foreign or {}

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Refuses unknown flags first: argparse would rather complain about what is missing."""
        for argument in sys.argv[1:] if args is None else args:
            if argument == "--":
                break
            self._check_flag(argument.partition("=")[0])
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; see ``understood``."""
        options = super().parse_args(args, namespace)
        if _until == "read":
            raise _Reached(options)
        return options

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """The same; argparse's own does not come by ``parse_args``."""
        options = super().parse_intermixed_args(args, namespace)
        if _until == "read":
            raise _Reached(options)
        return options

    def _check_flag(self, flag: str) -> None:
        known = self._option_string_actions
        if not flag.startswith("--") or flag in known:
            return
        if flag in self.foreign:
            raise UserError(f"{flag}: {self.foreign[flag]}")
        close = difflib.get_close_matches(flag, list(known), n=1, cutoff=0.7) or [
            option for option in known if option.startswith(flag)
        ]
        hint = f"did you mean {close[0]}?" if close else f"{self.prog} --help lists all"
        raise UserError(f"{flag}: there is no such option; {hint}")

    def error(self, message: str) -> NoReturn:
        """Replaces argparse's usage text.

        Raises:
            UserError: always.
        """
        if "required" in message:
            message += f"; for example: {first_command(self.epilog or '')}"
        raise UserError(message)


def first_command(examples: str) -> str:
    """The first command of a help text, on one line."""
    lines = iter(examples.splitlines())
    for line in lines:
        if line.strip().startswith("python -m"):
            command = line.strip()
            while command.endswith("\\"):
                command = f"{command[:-1].strip()} {next(lines).strip()}"
            return command.split("  ")[0]
    raise ValueError("no example")
