"""One line for what Hydra or OmegaConf refuses: which key, which value, what to write instead."""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, ListConfig

from recipes.config.foreign_keys import foreign_key
from recipes.config.jobs import SCHEMAS, config_groups
from recipes.config.meanings import Setting, settings_of

# OmegaConf's words for a type -> ours.
_WANTED = {"Float": "a number", "String": "text", "a valid bool (type str)": "true or false"}


def explain(error: Exception, job: str) -> str:
    """One line for a refusal by Hydra or OmegaConf: which key, which value, what to do."""
    schema = SCHEMAS[job]
    text = str(error)
    if group := re.search(r"To append to your default list use \+(\w+)=(\S+)", text):
        if foreign_key(job, group[1]) is not None:  # ``model=`` in a job that reads a model file.
            return no_such_key(job, group[1])
        groups = ", ".join(config_groups(job)) or "none"
        return f"{group[1]}={group[2]}: this job has no such configuration group (it has: {groups})"
    if ambiguous := re.match(r"Ambiguous value for argument '(.*)'\n", text):
        return f"{ambiguous[1]}: write a list in brackets, [a,b]; with --multirun commas separate runs"
    cause = error.__cause__
    while cause is not None:
        text += "\n" + str(cause)
        cause = cause.__cause__
    if option := re.search(
        r"Could not find '((?:hydra/)?[^'/]+)/([^']+)'(?:.*Available options in[^\n]*\n(.*?)\n\S)?",
        text,
        re.S,
    ):
        return _no_such_option(option[1], option[2], (option[3] or "").split())
    unknown = re.search(r"Could not override '([^']+)'|Key '([^']+)' (?:is not in struct|not in)", text)
    full_key = re.search(r"full_key: (\S+)", text)
    if unknown and ("not in" in text):
        key = unknown.group(1) or (full_key.group(1) if full_key else unknown.group(2))
        inner = re.search(r"Key '([^']+)' not in '(\w+)'", text)
        place, entry = _entry_types(schema).get(inner.group(2), ("", None)) if inner else ("", None)
        if unknown.group(1):  # From the command line: a whole list, or one key.
            place = key if key in settings_of(schema) else ""
        if inner and entry and place:
            names = [field.name for field in dataclasses.fields(entry)]
            close = difflib.get_close_matches(inner.group(1), names, n=1, cutoff=0.75)
            known = f"did you mean {close[0]}?" if close else f"they have {', '.join(names)}"
            return f"{place}: its entries have no key {inner.group(1)!r}; {known}"
        return no_such_key(job, key)
    if removed := re.search(r"Error merging override ~([^\s=]+)", text):
        return f"~{removed[1]}: cannot be removed as a whole: give it a value, or remove entries of it"
    if full_key and "is not a subclass of" in text:
        entry = full_key.group(1)
        parent = re.search(rf"Error merging override \+*(\S*?)\.{re.escape(entry)}\b", text)
        if parent:
            where = parent.group(1)
            return f"{where}.{entry}: give a new entry as a whole, '{where}={{{entry}:{{key:value,...}}}}'"
        keys = [key for key in settings_of(schema) if key.startswith(f"{entry}.")]
        given = re.search(r"\bvalue: (.*)$", text, re.M)
        if keys and given:
            return f"{entry}={given[1]}: holds several settings: give one of them, such as {keys[0]}=..."
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if full_key:
        beginnings = ("Value", "Invalid", "Incompatible", "Cannot", "field")
        reason = next((line for line in lines if line.startswith(beginnings)), lines[0])
        settings = settings_of(schema)
        given = re.search(r"Error merging override \+*([^\s=]+)=(.*)", text)
        if given and (wanted := _wanted_shape(reason, settings.get(given[1]))):
            return f"{given[1]}={given[2]}: must be {wanted}{_meaning(settings.get(given[1]))}"
        where = full_key.group(1)
        refusal = _not_of_its_type(settings.get(where), where, reason)
        # Of an entry OmegaConf says only where in the entry it is.
        return refusal if not given or where.startswith(given[1]) else f"{given[1]}: {refusal}"
    return " ".join(lines)


def no_such_key(job: str, key: str) -> str:
    """What to say of a key that the job does not have: what it may be called here, and what that means."""
    settings = settings_of(SCHEMAS[job])
    refusal = f"{key}: there is no such key"
    ours = known_key(job, key)
    foreign = foreign_key(job, key) if ours is None else None
    if foreign is not None:
        if foreign.ours is None:
            return f"{refusal}, and nothing to set: {foreign.note}"
        return f"{refusal}; here it is {foreign.ours}: {foreign.note or settings[foreign.ours].meaning}"
    close = [ours] if ours else difflib.get_close_matches(key, settings, n=1, cutoff=0.75)
    if not close:
        by_leaf = {name.rpartition(".")[2]: name for name in settings}
        leaf = difflib.get_close_matches(key.rpartition(".")[2], by_leaf, n=1, cutoff=0.75)
        close = [by_leaf[leaf[0]]] if leaf else []
    return f"{refusal}; did you mean {close[0]}?" if close else f"{refusal}; --cfg job prints all keys"


def known_key(job: str, key: str) -> str | None:
    """The job's key of this name, or the one that ends with it: ``lr`` is optim.lr."""
    settings = settings_of(SCHEMAS[job])
    if key in settings:
        return key
    leaf = key.rpartition(".")[2]
    same = [name for name in settings if name.rpartition(".")[2] == leaf and "<" not in name]
    return max(same, key=lambda name: difflib.SequenceMatcher(None, key, name).ratio(), default=None)


def _no_such_option(group: str, name: str, options: list[str]) -> str:
    close = difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(options)}"
    return f"{group}={name}: there is no such option; {hint}"


def _not_of_its_type(setting: Setting | None, key: str, reason: str) -> str:
    value = re.match(r"Value '(.*?)' (?:of type '\w+' )?(?:is not|could not be converted to) (.*)", reason)
    if value is None:
        return f"{key}=null: must have a value" if reason.endswith("is not Optional") else f"{key}: {reason}"
    return f"{key}={value[1]}: must be {_WANTED.get(value[2], value[2])}{_meaning(setting)}"


def _wanted_shape(reason: str, setting: Setting | None) -> str | None:
    """What should stand in place of a value that is no list, or no settings, where one is wanted."""
    shapes = "is not a ListConfig|is not a subclass of|Cannot assign|Cannot merge|incompatible with type hint"
    if not re.search(shapes, reason):
        return None
    kind = setting.kind if setting is not None else ""
    if kind.startswith("list of list"):
        return "a list of lists of whole numbers, [[1,2],[5,7]]"
    if kind.startswith("list of settings"):
        return "a list of settings, [{key:value,...},...]"
    return "a list, [a,b]" if kind.startswith("list") else "settings, {key:value,...}"


def _meaning(setting: Setting | None) -> str:
    return f" ({setting.meaning.rstrip('.')})" if setting is not None and setting.meaning else ""


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


def unknown_keys(node: DictConfig, prefix: str = "") -> list[str]:
    """Keys that are in no schema: ``+key=value`` can add them, and nothing would read them."""
    keys = []
    fields = getattr(node._metadata.object_type, "__dataclass_fields__", None)
    for key in map(str, node):
        if fields is not None and key not in fields:
            keys.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            keys += unknown_keys(child, f"{prefix}{key}.")
        elif isinstance(child, ListConfig) and not child._is_none() and not child._is_missing():
            for number in range(len(child)):
                entry = child._get_node(number)
                if isinstance(entry, DictConfig):
                    keys += unknown_keys(entry, f"{prefix}{key}[{number}].")
    return keys
