"""A job's input, cut into pieces for its tasks, and the record that tells one job from another."""

from __future__ import annotations

import dataclasses
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.checks import refuse
from recipes.config.clean_schema import CleanConfig
from recipes.counts import counted, size_in_words
from recipes.data.benchmark_mirror import MANIFEST
from recipes.data.text.compression import is_compressed, uncompressed_suffix
from recipes.data.text.input_files import json_lines_files
from recipes.data.text.json_lines import BadRecord, read_records, text_of
from recipes.errors import UserError
from recipes.files import atomic_write, make_directory, sha256_file

FORMAT = 3
"""To be incremented whenever the same settings would give different results."""
_EXECUTION_SETTINGS = ("executor", "workers", "slurm", "dry_run", "output_dir", "keep_work")
"""How a job runs, not what it produces: these may differ when it is continued."""
_SMALLEST_PIECE = 1 << 20


@dataclass(frozen=True)
class Piece:
    """The lines of one file that begin in the byte range [start, stop); a compressed file is one piece."""

    source: str
    path: str
    start: int
    stop: int | None
    size: int
    """Bytes on disk to be read."""


Plan = list[list[Piece]]
"""The pieces of every task."""


def make_plan(config: CleanConfig) -> Plan:
    """Finds the input files and distributes them over the tasks, evenly by bytes.

    Raises:
        UserError: a path matches nothing, is read twice, is not JSONL or lies in the output directory; or
            its first line has no text.
    """
    files: dict[Path, str] = {}
    out = Path(config.output_dir).resolve()
    for name, source in config.data.sources.items():
        for pattern in source.path:
            if Path(pattern).is_dir() and out.is_relative_to(Path(pattern).resolve()):
                refuse("output_dir", out, f"lies in {pattern}, all of which source {name} reads")
            for path in _matches(f"data.sources.{name}.path", pattern):
                if path.is_relative_to(out):
                    refuse("output_dir", out, f"{path}, which source {name} reads, lies in it")
                if path in files:
                    refuse(f"data.sources.{name}.path", path, f"source {files[path]} reads this file already")
                _check_first_line(path, source.text_key, name)
                files[path] = name
    sizes = {path: path.stat().st_size for path in files}
    limit = max(_SMALLEST_PIECE, -(-sum(sizes.values()) // config.tasks))
    pieces = [piece for path, name in files.items() for piece in _pieces(path, name, sizes[path], limit)]
    tasks: Plan = [[] for _ in range(config.tasks)]
    loads = [0] * config.tasks
    for piece in sorted(pieces, key=lambda piece: -piece.size):  # Stable: the same plan every time.
        lightest = loads.index(min(loads))
        tasks[lightest].append(piece)
        loads[lightest] += piece.size
    return tasks


def _matches(key: str, pattern: str) -> list[Path]:
    try:
        files = sorted(file.resolve() for file in json_lines_files(pattern))
    except UserError as error:
        raise UserError(f"{key}={error}") from None
    for entry in files:
        if uncompressed_suffix(entry) not in (".jsonl", ".json"):
            refuse(key, entry, "not JSONL by its name (.jsonl, .jsonl.gz, .jsonl.zst, .jsonl.bz2)")
    return files


def _check_first_line(path: Path, text_key: str, source: str) -> None:
    """Otherwise a wrong key would only show in the end, as a source whose documents were all dropped."""
    for number, record in read_records(path):
        if text_key not in record:
            try:
                text_of(record, text_key, f"set data.sources.{source}.text_key")
            except BadRecord as bad:
                raise bad.at(path, number) from None
        return


def _pieces(path: Path, source: str, size: int, limit: int) -> list[Piece]:
    if is_compressed(path) or size <= limit:
        return [Piece(source, str(path), 0, None, size)]
    number = -(-size // limit)
    edges = [size * i // number for i in range(number + 1)]
    return [Piece(source, str(path), start, stop, stop - start) for start, stop in itertools.pairwise(edges)]


def describe(config: CleanConfig, plan: Plan) -> str:
    """What the job would read and do, for dry_run."""
    lines = []
    for name, source in config.data.sources.items():
        pieces = [piece for task in plan for piece in task if piece.source == name]
        files, size = len({piece.path for piece in pieces}), sum(piece.size for piece in pieces)
        lines.append(
            f"{name} ({source.language}): {counted(files, 'file')}, {size_in_words(size)} in "
            f"{counted(len(pieces), 'piece')}"
        )
    lines.append(f"filters: {', '.join(filters(config))}")
    lines.append(f"masked: {', '.join(config.pii.kinds) if config.pii.enabled else 'nothing'}")
    lines.append(
        f"{counted(config.tasks, 'task')}, executor {config.executor}; output in {config.output_dir}"
    )
    return "\n".join(lines)


def filters(config: CleanConfig) -> list[str]:
    """The names of the enabled filters, in the order in which documents pass through them."""
    lists = config.lists.enabled and bool(config.lists.words or config.lists.hashes)
    decontamination = config.decontamination.enabled and config.decontamination.mirror is not None
    enabled = {
        "read": True,
        "language": config.language.enabled,
        "quality": config.quality.enabled,
        "exact_dedup": config.exact_dedup.enabled,
        "minhash": config.minhash.enabled,
        "lists": lists,
        "decontamination": decontamination,
    }
    return [name for name, is_enabled in enabled.items() if is_enabled]


def claim(config: CleanConfig, plan: Plan) -> None:
    """Claims the output directory for this job, if it is not this job's already.

    Raises:
        UserError: it holds something else.
    """
    out = Path(config.output_dir)
    record_file = out / "job.json"
    record = _record(config, plan)
    make_directory(out)
    if record_file.is_file():
        before = json.loads(record_file.read_text(encoding="utf-8"))
        key = _difference(before, record)
        if key:
            refuse(
                "output_dir",
                out,
                f"holds a job with another {key}: take another directory or remove this one",
            )
        return
    if any(entry.name != "lock" for entry in out.iterdir()):
        refuse("output_dir", out, "holds other files: take a new directory")
    with atomic_write(record_file, "w") as stream:
        json.dump(record, stream, indent=1, ensure_ascii=False)


def _record(config: CleanConfig, plan: Plan) -> dict[str, Any]:
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _EXECUTION_SETTINGS}
    pieces = [[dataclasses.astuple(piece) for piece in task] for task in plan]
    files = [words.path for words in config.lists.words.values()] + list(config.lists.hashes.values())
    if config.language.fasttext_model is not None:
        files.append(config.language.fasttext_model)
    if config.decontamination.mirror is not None:
        files.append(f"{config.decontamination.mirror}/{MANIFEST}")
    checksums = {path: sha256_file(path) for path in files}
    paths = sorted({piece.path for task in plan for piece in task})
    modified = [(path, Path(path).stat().st_mtime_ns) for path in paths]
    record = {
        "format": FORMAT,
        "settings": settings,
        "input": {"pieces": pieces, "modified": modified},
        "files": checksums,
    }
    loaded: dict[str, Any] = json.loads(json.dumps(record))
    return loaded


def _difference(before: Any, now: Any, prefix: str = "") -> str | None:
    """The first key that differs, in dotted form."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return None if before == now else prefix.removeprefix("settings.") or "record"
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            return _difference(before.get(key), now.get(key), f"{prefix}.{key}".strip("."))
    return None
