"""Meanings of settings as ``--help``, ``help=KEY`` and docs/settings.md show them."""

from __future__ import annotations

from collections.abc import Iterator

from recipes.config.explain import no_such_key
from recipes.config.jobs import SCHEMAS, config_groups
from recipes.config.meanings import Setting, settings_of
from recipes.errors import UserError

DOORS = {"clean": "tools.clean", "cluster": "tools.plan"}  # Of the jobs that are no module of recipes.


def asked_meaning(job: str, arguments: list[str]) -> str | None:
    """The text that ``help=KEY`` asks for; None if no argument does.

    Raises:
        UserError: there is no such key or group of keys.
    """
    wanted = [argument.removeprefix("help=") for argument in arguments if argument.startswith("help=")]
    return "\n".join(meaning_of(job, key) for key in wanted) if wanted else None


def meaning_of(job: str, key: str) -> str:
    """A setting's type, default and meaning, or those of all settings of a group.

    Raises:
        UserError: there is neither.
    """
    settings = settings_of(SCHEMAS[job])
    found = [each for name, each in settings.items() if not key or name == key or name.startswith(f"{key}.")]
    if not found:
        raise UserError(no_such_key(job, key))
    return "\n".join(_in_lines(job, each) for each in found)


def _in_lines(job: str, setting: Setting) -> str:
    if not setting.kind:
        return f"{setting.key}: {setting.meaning}"
    return f"{setting.key} ({setting.kind}; {_default(job, setting)})\n    {setting.meaning}"


def _default(job: str, setting: Setting) -> str:
    if setting.default:
        return f"default {setting.default}"
    group = setting.key.partition(".")[0]
    return f"set by {group}=..." if group in config_groups(job) else "must be given"


def overview(job: str) -> str:
    """A line for every setting and group of settings at the top."""
    settings = settings_of(SCHEMAS[job])
    top = [setting for setting in settings.values() if "." not in setting.key]
    rows = [(setting.key + ("" if setting.kind else ".*"), setting.summary) for setting in top]
    width = max(len(key) for key, _ in rows)
    lines = [f"{key:<{width}}  {summary}" for key, summary in rows]
    return "\n".join(lines).replace("$", "$$")  # Hydra's help is a string.Template.


def help_example(job: str) -> str:
    """``help=`` with a setting of the job."""
    groups = [
        setting.key
        for setting in settings_of(SCHEMAS[job]).values()
        if not setting.kind and "." not in setting.key
    ]
    return f"help={groups[-1]}" if groups else "help=tasks"


def markdown() -> str:
    """docs/settings.md."""
    parts = [
        "# Settings",
        "Generated with `python -m tools.settings`; how to set them: [Configure a run](configure.md). On\n"
        "the command line `help=KEY` prints the same, for a key or a group of keys.",
    ]
    for job in SCHEMAS:
        parts.append(f"## {DOORS.get(job, f'recipes.{job}')}")
        parts += _tables(job)
    return "\n\n".join(parts) + "\n"


def _tables(job: str) -> Iterator[str]:
    by_group: dict[str, list[Setting]] = {}
    for setting in settings_of(SCHEMAS[job]).values():
        if setting.kind:
            by_group.setdefault(setting.key.rpartition(".")[0], []).append(setting)
    for group, settings in by_group.items():
        if group:
            known = settings_of(SCHEMAS[job]).get(group)
            yield f"### {job}: `{group}`\n\n{_escaped(known.meaning) if known else 'Of each entry:'}"
        lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
        for each in settings:
            default = f"`{each.default}`" if each.default else _default(job, each)
            lines.append(f"| `{each.key}` | {each.kind} | {default} | {_escaped(each.meaning)} |")
        yield "\n".join(lines)


def _escaped(text: str) -> str:
    """Text for a cell of a table: neither a column's end nor HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
