"""The arguments of a Hydra job as users type them, before Hydra sees them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import NoReturn

from recipes.config.explain import known_key, no_such_key
from recipes.config.jobs import CONF_DIR, SCHEMAS, config_groups, example, group_options
from recipes.config.meanings import settings_of
from recipes.errors import UserError

TAKE_A_WORD = (
    *("--cfg", "-c", "--package", "-p", "--info", "-i"),
    *("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"),
)
ALONE = ("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m")
COMPLETION = ("--shell-completion", "-sc")
# Values that Hydra fails on where they should name an option of a group.
_NO_NAME = re.compile(r"|null|true|false|[\d.]+", re.IGNORECASE)


def check_arguments(job: str, arguments: list[str]) -> None:
    """Refuses what is no setting and no option of Hydra's, in words that say what to write.

    Raises:
        UserError: with the argument, and how it is written here.
    """
    if not arguments:
        raise UserError(f"no settings; for example: {example(job)} (--help shows more)")
    follows_option = False
    for number, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if argument.startswith("-"):
            if flag in COMPLETION:
                _check_completion(arguments)
            if argument.startswith("--") and flag not in (*TAKE_A_WORD, *ALONE, *COMPLETION):
                refuse_flag(job, arguments, number)
        elif "=" not in argument:
            if not follows_option and not argument.startswith("~"):
                _refuse_word(job, argument)
        elif not flag:
            raise UserError(f"{argument}: settings are written key=value; see --help")
        elif _NO_NAME.fullmatch(value) and (CONF_DIR / flag).is_dir():
            raise UserError(f"{argument}: choose one of {', '.join(group_options(flag))}, or leave it out")
        elif _is_below_a_value(job, flag):
            raise UserError(no_such_key(job, flag))
        follows_option = argument in TAKE_A_WORD


def refuse_flag(job: str, arguments: Sequence[str], number: int) -> NoReturn:
    """Says how what begins with dashes is written here; its value may be the argument that follows."""
    flag, _, value = arguments[number].partition("=")
    following = arguments[number + 1] if number + 1 < len(arguments) else ""
    if not value and "=" not in following and not following.startswith("-"):
        value = following
    key = flag.removeprefix("--").replace("-", "_")
    options = [option for option in (*TAKE_A_WORD, *ALONE) if option.startswith("--")]
    ours = key if key in config_groups(job) else known_key(job, key)
    if ours is not None:
        raise UserError(f"{flag}: settings are written without dashes: {ours}={value or '...'}")
    close = difflib.get_close_matches(flag, options, n=1, cutoff=0.8)
    if close:
        raise UserError(f"{flag}: there is no such option; did you mean {close[0]}?")
    raise UserError(f"{flag}: settings are key=value, without dashes; {no_such_key(job, key)}")


def _is_below_a_value(job: str, key: str) -> bool:
    """Whether the key is meant as an entry of a plain setting, as server.port is of server=true."""
    parent = settings_of(SCHEMAS[job]).get(key.rpartition(".")[0])
    return parent is not None and parent.kind in ("true or false", "whole number", "number", "text")


def _refuse_word(job: str, word: str) -> NoReturn:
    for group in config_groups(job):
        if word in group_options(group):
            raise UserError(f"{word}: settings are written key=value; did you mean {group}={word}?")
    ours = known_key(job, word)
    raise UserError(f"{word}: settings are written key=value" + (f": {ours}=..." if ours else "; see --help"))


def _check_completion(arguments: list[str]) -> None:
    if not any(argument.startswith(("install=", "uninstall=", "query=")) for argument in arguments):
        raise UserError("--shell-completion: name your shell, for example --shell-completion install=bash")
