"""DIR/manifest.json: where a download came from, what it has written, and where to continue."""

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from recipes.errors import UserError
from recipes.files import atomic_write

NAME = "manifest.json"
SHARD = r"[a-z0-9_]+-\d{5,}\.jsonl(\.gz|\.zst)?"
"""The names of shards."""
_KIND = "download"
_VERSION = 1


class Position(NamedTuple):
    """The next row to read: a file of the list, a row in it."""

    file: int
    row: int


@dataclass(frozen=True)
class Budget:
    """How much to download; the document that reaches it is the last one, and is kept.

    Args:
        unit: `bytes` of UTF-8 text, `tokens` without BOS and EOS, or None for everything there is.
    """

    unit: str | None
    amount: int | None


@dataclass(frozen=True)
class Shard:
    """One finished file.

    Args:
        bytes: its size on disk, compressed or not.
    """

    name: str
    documents: int
    text_bytes: int
    tokens: int | None
    bytes: int
    sha256: str


@dataclass
class Manifest:
    """The whole record; saved again after each shard.

    Args:
        settings: what determines the shards' content, besides the files read.
        files: the corpus's files in order, with the properties that must not change.
        skipped: rows up to `position` that are not documents, by reason.
        status: `in progress`, `budget reached` or `complete` (the corpus has no more).
    """

    source: str
    page: str
    licence: str
    origin: str
    revision: str | None
    settings: dict[str, Any]
    budget: Budget
    files: list[dict[str, object]]
    position: Position = field(default_factory=lambda: Position(0, 0))
    status: str = "in progress"
    skipped: dict[str, int] = field(default_factory=dict)
    shards: list[Shard] = field(default_factory=list)
    started: str = ""
    updated: str = ""

    @property
    def documents(self) -> int:
        """Documents in all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of text in all shards."""
        return sum(shard.text_bytes for shard in self.shards)

    @property
    def tokens(self) -> int | None:
        """Tokens in all shards; None if they were not counted."""
        counts = [shard.tokens for shard in self.shards]
        return None if self.settings["tokenizer_sha256"] is None else sum(filter(None, counts))

    def counted(self, unit: str | None) -> int:
        """The amount downloaded, in a budget's unit."""
        return (self.tokens or 0) if unit == "tokens" else self.text_bytes

    def save(self, directory: Path) -> None:
        """Write the file.

        Raises:
            UserError: it cannot be written.
        """
        self.updated = datetime.now(UTC).isoformat(timespec="seconds")
        self.started = self.started or self.updated
        content = {
            "kind": _KIND,
            "version": _VERSION,
            **asdict(self),
            "position": self.position._asdict(),
            "documents": self.documents,
            "text_bytes": self.text_bytes,
            "tokens": self.tokens,
        }
        content["shards"] = content.pop("shards")  # the long lists last
        content["files"] = content.pop("files")
        with atomic_write(directory / NAME, "w") as stream:
            json.dump(content, stream, ensure_ascii=False, indent=1)
            stream.write("\n")


def read(directory: Path) -> Manifest | None:
    """The manifest of an earlier run; None if there was none.

    Raises:
        UserError: it is damaged, is another kind of file, or names files that are not shards.
    """
    path = directory / NAME
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["kind"] != _KIND or content["version"] != _VERSION:
            raise KeyError("kind")
        manifest = Manifest(
            **{key: content[key] for key in ("source", "page", "licence", "origin", "revision", "settings")},
            budget=Budget(**content["budget"]),
            files=content["files"],
            position=Position(**content["position"]),
            status=content["status"],
            skipped=content["skipped"],
            shards=[Shard(**shard) for shard in content["shards"]],
            started=content["started"],
        )
        if not all(re.fullmatch(SHARD, shard.name) for shard in manifest.shards):
            raise ValueError("name")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a manifest of a download, or is damaged: move it away") from error
    return manifest


def load(directory: Path) -> Manifest | None:
    """As `read`, but also check the shards that it names.

    Raises:
        UserError: as `read`; or a shard is missing or has another size.
    """
    manifest = read(directory)
    for shard in manifest.shards if manifest else ():
        file = directory / shard.name
        if not file.is_file():
            raise UserError(f"{file}, which {directory / NAME} names, is missing: --force begins again")
        if file.stat().st_size != shard.bytes:
            raise UserError(
                f"{file} has {file.stat().st_size} bytes, not {shard.bytes}: --force begins again"
            )
    return manifest


def difference(old: Manifest, new: Manifest) -> str:
    """What distinguishes download `new` from `old`, in words; empty if `new` continues `old`."""
    if old.source != new.source:
        return f"source {old.source}"
    for name, value in old.settings.items():
        if new.settings.get(name) != value:
            return f"{name} {value}"
    if None not in (old.revision, new.revision) and old.revision != new.revision:
        return f"revision {old.revision}"
    if old.files != new.files:
        pairs = zip(old.files, new.files, strict=False)
        changed = next((was for was, now in pairs if was != now), None)
        return f"{len(old.files)} files" if changed is None else f"{changed['name']} as it was then"
    return ""
