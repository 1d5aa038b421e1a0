"""Runs a Hydra job by this project's rules: typed, frozen configuration, one-line errors, exit code 2."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from recipes.bounds import check_bounds
from recipes.cli import DONE, run_tool
from recipes.config.command_line import check_arguments
from recipes.config.explain import explain, no_such_key, unknown_keys
from recipes.config.hydra_ways import accept_counts, our_ways
from recipes.config.jobs import CONF_DIR, SCHEMAS
from recipes.config.meanings_text import asked_meaning
from recipes.config.overrides import is_sweep, keep_literal, quote_text, refuse_empty_mappings
from recipes.config.sweep import give_own_place, swept_keys
from recipes.errors import UserError


@cache  # Hydra copies what is in its store.
def register_schemas() -> None:
    """Makes ``<job>_schema`` known to Hydra, so that a YAML's defaults list can start from it."""
    accept_counts()
    for job, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{job}_schema", node=writable(schema))


def writable(schema: type) -> DictConfig:
    """A configuration of the schema's defaults, into which others can be merged."""
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
    arguments = sys.argv[1:]
    meaning = asked_meaning(job, arguments)
    if meaning is not None:
        print(meaning)
        return DONE
    check_arguments(job, arguments)
    register_schemas()
    sys.argv[1:] = quote_text(arguments, SCHEMAS[job])
    swept = swept_keys(sys.argv[1:]) if is_sweep(arguments) else []
    outcome: int | UserError | BrokenPipeError = DONE

    def task(cfg: DictConfig) -> None:
        nonlocal outcome
        if outcome != DONE:  # A sweep (--multirun) ends with the first run that does not succeed.
            return
        try:
            refuse_empty_mappings(arguments, cfg)
            give_own_place(job, cfg, swept)
            outcome = run(to_dataclass(cfg, job))
        except (UserError, BrokenPipeError) as error:  # Raised after Hydra is done: it prints its own lines.
            outcome = error

    # With this, Hydra lets exceptions through instead of printing them and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with our_ways(job):
            hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=job)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, job)) from None
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def compose(job: str, overrides: list[str]) -> Any:
    """The typed configuration of ``job``, as from the command line. For tests and tools.

    Raises:
        UserError: a setting or a value does not exist, or has no value.
    """
    if overrides:
        check_arguments(job, overrides)
    register_schemas()
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            composed = hydra.compose(job, overrides=quote_text(overrides, SCHEMAS[job]))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, job)) from None
    refuse_empty_mappings(overrides, composed)
    return to_dataclass(composed, job)


def to_dataclass(cfg: DictConfig, job: str) -> Any:
    """Turns a composed configuration into the frozen object of the job's schema.

    Raises:
        UserError: a mandatory key has no value, a key is not in the schema, or a number is beyond its bound.
    """
    for key in unknown_keys(cfg):
        raise UserError(no_such_key(job, key))
    keep_literal(cfg)
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        override_key = re.sub(r"\[(\d+)\]", r".\1", missing[0])  # Hydra's notation for list entries.
        raise UserError(f"{missing[0]} has no value: set it on the command line, {override_key}=...")
    try:
        config = OmegaConf.to_object(cfg)
    except MissingMandatoryValue as error:
        raise UserError(str(error).splitlines()[0]) from None
    check_bounds(config)
    return config
