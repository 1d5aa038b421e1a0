"""Where Hydra and OmegaConf work otherwise than this project's jobs need."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

from hydra._internal.core_plugins import basic_sweeper
from hydra._internal.hydra import Hydra
from hydra.core.plugins import Plugins
from omegaconf import IntegerNode, OmegaConf
from omegaconf.errors import ValidationError

from recipes.config.jobs import config_groups
from recipes.config.meanings_text import help_example, overview
from recipes.counts import COUNT_FORMS, whole_number
from recipes.errors import UserError


class _NothingIsSaved:
    """For the sweeper, which would leave a multirun.yaml where it is started."""

    @staticmethod
    def save(*_: object) -> None: ...


@contextmanager
def our_ways(job: str) -> Iterator[None]:
    """Within, Hydra refuses in one line, helps with what ``job`` has, and writes nothing."""
    # For conf/job_settings.yaml.
    for name, text in (("settings_overview", overview(job)), ("settings_example", help_example(job))):
        OmegaConf.register_new_resolver(name, lambda text=text: text, replace=True)
    Plugins.instance()  # Loads the sweeper's module again, so what is replaced before that would come back.
    with ExitStack() as stack:
        for owner, name, ours in (
            (argparse.ArgumentParser, "error", _refuse_option),
            (Hydra, "format_config_groups", _listing_only(set(config_groups(job)))),
            (basic_sweeper, "OmegaConf", _NothingIsSaved),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, ours)
        yield


def _refuse_option(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """Replaces argparse's usage text."""
    raise UserError(f"{message}; settings are key=value, all next to each other; see --help")


def _listing_only(groups: set[str]) -> Callable[..., str]:
    list_all = Hydra.format_config_groups

    def list_own(app: Hydra, predicate: Callable[[str], bool], compact: bool = True) -> str:
        return list_all(app, lambda group: predicate(group) and group in groups, compact) or "none\n"

    return list_own


def accept_counts() -> None:
    """Whole numbers in YAML and overrides may be written as 1e9, 500M or 7.5T, wherever they stand.

    For good, as each OmegaConf node converts what is assigned to it: nothing less was accepted before.
    """
    node: Any = IntegerNode
    node._validate_and_convert_impl = _whole


def _whole(node: IntegerNode, value: Any) -> int:
    try:
        return whole_number(value)
    except ValueError:
        raise ValidationError(f"Value '$VALUE' is not {COUNT_FORMS}") from None
