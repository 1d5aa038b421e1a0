"""Runs a Hydra job by this project's rules: typed, frozen configuration, one-line errors, exit code 2."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import hydra
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from recipes.cli import run_tool
from recipes.config.clean_schema import CleanConfig
from recipes.config.overrides import keep_literal, quote_text
from recipes.config.schema import EvaluateConfig, GenerateConfig, PretrainConfig
from recipes.errors import UserError

CONF_DIR = Path(__file__).resolve().parents[2] / "conf"
Config = TypeVar("Config")
SCHEMAS: dict[str, type] = {
    "pretrain": PretrainConfig,
    "generate": GenerateConfig,
    "evaluate": EvaluateConfig,
    "clean": CleanConfig,
}


@cache  # Hydra copies what is in its store.
def register_schemas() -> None:
    """Makes ``<job>_schema`` known to Hydra, so that a YAML's defaults list can start from it."""
    for job, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{job}_schema", node=_writable(schema))


def _writable(schema: type) -> DictConfig:
    # A frozen dataclass makes read-only nodes, into which Hydra could not merge the YAML.
    node = OmegaConf.structured(schema)
    _clear_read_only(node)
    return node


def _clear_read_only(node: Any) -> None:
    node._set_flag("readonly", None)
    if node._metadata.object_type in (None, dict):
        node._set_flag("struct", False)  # A dictionary accepts new entries, also on the command line.
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            _clear_read_only(child)


def run_job(job: str, run: Callable[[Any], int]) -> NoReturn:
    """Composes the configuration of ``job`` from conf/ and the command line, runs it, exits with its code.

    Whatever Hydra or OmegaConf refuses is a user error too: one line, exit code 2.
    """
    run_tool(lambda: _compose_and_run(job, run))


def _compose_and_run(job: str, run: Callable[[Any], int]) -> int:
    register_schemas()
    outcome: int | UserError = 0

    def task(cfg: DictConfig) -> None:
        nonlocal outcome
        if outcome != 0:  # A sweep (--multirun) ends with the first run that does not succeed.
            return
        try:
            outcome = run(to_dataclass(cfg, SCHEMAS[job]))
        except UserError as error:  # Raised after Hydra is done, which would print its own lines.
            outcome = error

    # With this, Hydra lets exceptions through instead of printing them and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = quote_text(sys.argv[1:], SCHEMAS[job])
    parser: Any = argparse.ArgumentParser
    usage, parser.error = parser.error, _refuse_option
    app: Any = Hydra
    list_groups, app.format_config_groups = app.format_config_groups, _groups_of(job)
    try:
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=job)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, job)) from None
    finally:
        parser.error, app.format_config_groups = usage, list_groups
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def config_groups(job: str) -> list[str]:
    """The groups of conf/ that a job can choose from: those in its defaults list."""
    defaults = yaml.safe_load((CONF_DIR / f"{job}.yaml").read_text(encoding="utf-8"))["defaults"]
    return [group for entry in defaults if isinstance(entry, dict) for group in entry]


def _groups_of(job: str) -> Callable[..., str]:
    """Hydra's list of groups for ``--help``, cut down to the job's own."""
    list_all, groups = Hydra.format_config_groups, set(config_groups(job))

    def list_own(app: Hydra, predicate: Callable[[str], bool], compact: bool = True) -> str:
        return list_all(app, lambda group: predicate(group) and group in groups, compact) or "none\n"

    return list_own


def _refuse_option(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """Replaces argparse's usage text."""
    raise UserError(f"{message}; settings are key=value, all next to each other; see --help")


def compose(job: str, overrides: list[str]) -> Any:
    """The typed configuration of ``job``, as from the command line. For tests and tools."""
    register_schemas()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        schema = SCHEMAS[job]
        return to_dataclass(hydra.compose(job, overrides=quote_text(overrides, schema)), schema)


def compose_for_tool(job: str, overrides: list[str]) -> Any:
    """The same, for a command line: what Hydra and OmegaConf refuse is told in one line.

    Raises:
        UserError: that line.
    """
    try:
        return compose(job, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, job)) from None


def to_dataclass(cfg: DictConfig, schema: type[Config]) -> Config:
    """Turns a composed configuration into ``schema``'s frozen object.

    Raises:
        UserError: a mandatory key has no value, or a key is not in the schema.
    """
    for key in _unknown_keys(cfg):  # ``+key=value`` can add keys that nothing reads.
        raise UserError(f"{key}: there is no such key{_suggestion(key, schema)}")
    keep_literal(cfg)
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        override_key = re.sub(r"\[(\d+)\]", r".\1", missing[0])  # Hydra's notation for list entries.
        raise UserError(f"{missing[0]} has no value: set it on the command line, {override_key}=...")
    try:
        config = OmegaConf.to_object(cfg)
    except MissingMandatoryValue as error:
        raise UserError(str(error).splitlines()[0]) from None
    assert isinstance(config, schema)
    return config


def explain(error: Exception, job: str) -> str:
    """One line for a refusal by Hydra or OmegaConf: which key, which value, what to do."""
    schema = SCHEMAS[job]
    text = str(error)
    if group := re.search(r"To append to your default list use \+(\w+)=(\S+)", text):
        groups = ", ".join(config_groups(job)) or "none"
        return f"{group[1]}={group[2]}: this job has no such configuration group (it has: {groups})"
    cause = error.__cause__
    while cause is not None:
        text += "\n" + str(cause)
        cause = cause.__cause__
    unknown = re.search(r"Could not override '([^']+)'|Key '([^']+)' (?:is not in struct|not in)", text)
    full_key = re.search(r"full_key: (\S+)", text)
    if unknown and ("not in" in text):
        key = unknown.group(1) or (full_key.group(1) if full_key else unknown.group(2))
        inner = re.search(r"Key '([^']+)' not in '(\w+)'", text)
        place, entry = _entry_types(schema).get(inner.group(2), ("", None)) if inner else ("", None)
        if unknown.group(1):  # From the command line: a whole list, or one key.
            place = key if key in _all_keys(OmegaConf.structured(schema)) else ""
        if inner and entry and place:
            known = ", ".join(field.name for field in dataclasses.fields(entry))
            return f"{place}: its entries have no key {inner.group(1)!r}; they have {known}"
        return f"{key}: there is no such key{_suggestion(key, schema)}"
    if full_key and "is not a subclass of" in text:
        entry = full_key.group(1)
        parent = re.search(rf"Error merging override \+*(\S*?)\.{re.escape(entry)}\b", text)
        if parent:
            where = parent.group(1)
            return f"{where}.{entry}: give a new entry as a whole, '{where}={{{entry}:{{key:value,...}}}}'"
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if full_key:
        beginnings = ("Value", "Invalid", "Incompatible", "Cannot")
        reason = next((line for line in lines if line.startswith(beginnings)), lines[0])
        return f"{full_key.group(1)}: {reason}"
    return " ".join(lines)


def _entry_types(schema: type, prefix: str = "") -> dict[str, tuple[str, Any]]:
    """Entry classes of lists and dictionaries: class name -> (key of the list, class)."""
    found: dict[str, tuple[str, Any]] = {}
    for name, hint in get_type_hints(schema).items():
        for part in (hint, *get_args(hint)):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                if part is not hint:
                    found[part.__name__] = (prefix + name, part)
                found |= _entry_types(part, f"{prefix}{name}.")
    return found


def _unknown_keys(node: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    fields = getattr(node._metadata.object_type, "__dataclass_fields__", None)
    for key in map(str, node):
        if fields is not None and key not in fields:
            keys.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            keys += _unknown_keys(child, f"{prefix}{key}.")
        elif isinstance(child, ListConfig) and not child._is_none() and not child._is_missing():
            for number in range(len(child)):
                entry = child._get_node(number)
                if isinstance(entry, DictConfig):
                    keys += _unknown_keys(entry, f"{prefix}{key}[{number}].")
    return keys


def _suggestion(key: str, schema: type) -> str:
    known = _all_keys(OmegaConf.structured(schema))
    by_leaf = {name.rsplit(".", 1)[-1]: name for name in known}
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not close:
        leaf = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(by_leaf), n=1, cutoff=0.75)
        close = [by_leaf[leaf[0]]] if leaf else []
    return f"; did you mean {close[0]}?" if close else "; --cfg job prints all keys"


def _all_keys(node: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in map(str, node):
        keys.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            keys += _all_keys(child, f"{prefix}{key}.")
    return keys
