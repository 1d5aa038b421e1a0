"""What a run was trained on: what it read of each source, and where that came from, as the sidecars say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from recipes.checkpoint.formats.safety import load_plain
from recipes.console import warn
from recipes.data.samples.source_files import SourceFiles, open_source
from recipes.errors import UserError
from recipes.release.finished_run import FinishedRun


@dataclass(frozen=True)
class SourceFacts:
    """One source of training text."""

    name: str
    tokens_read: int
    """In whole samples, repetitions included."""
    share: float
    """Of all that was read, 0 to 1."""
    tokens: int | None
    """That it holds; None: the run read it earlier, and its settings no longer name it."""
    epochs: float | None
    """None: not known, likewise."""
    content: str | None
    """Of its files, a key that changes with them (recipes/data/samples/content.py); None: not known."""
    files: list[dict[str, Any]] | None
    """From their sidecars; None: they are gone, or hold something else by now."""

    @property
    def documents(self) -> int | None:
        """None: nobody knows any more."""
        return None if self.files is None else sum(file["documents"] for file in self.files)

    @property
    def text_bytes(self) -> int | None:
        """UTF-8 bytes of its text; None: nobody knows."""
        sizes = [file["text_bytes"] for file in self.files or [{"text_bytes": None}]]
        return None if None in sizes else sum(sizes)

    @property
    def inputs(self) -> list[str]:
        """The names of the text files that it was made of."""
        return [entry["name"] for file in self.files or [] for entry in file["inputs"] or []]


def source_facts(run: FinishedRun) -> list[SourceFacts]:
    """Every source that the run has read, by the record in its checkpoint.

    Raises:
        UserError: the checkpoint is damaged.
    """
    try:
        saved = load_plain(run.checkpoint / "common.pt")["recipes"]
        read: dict[str, int] = saved["blend"].get("reached_counts") or saved["blend"]["counts"]
        record = saved["data"]
        # Checkpoints of earlier versions are of runs with one sequence length.
        parts = saved["blend"].get("parts") or {name: [[0, int(saved["seq_length"])]] for name in read}
        lengths = {name: _by_length(parts[name], samples) for name, samples in read.items() if samples}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{run.checkpoint}: its record of the data is not readable") from None
    tokens_read = {
        name: sum(length * samples for length, samples in each.items()) for name, each in lengths.items()
    }
    # Conversations one by one do not fill their samples.
    packed = run.config.data.packing or not run.config.data.conversations
    facts = []
    for name, by_length in lengths.items():
        known = record.get(name, {})
        tokens, content = known.get("tokens"), known.get("content")
        epochs = None
        if tokens is not None and packed:
            epochs = sum(samples / ((tokens - 1) // length) for length, samples in by_length.items())
        facts.append(
            SourceFacts(
                name=name,
                tokens_read=tokens_read[name],
                share=tokens_read[name] / sum(tokens_read.values()),
                tokens=tokens,
                epochs=epochs,
                content=content,
                files=_files(run, name, content),
            )
        )
    return facts


def _by_length(parts: list[list[int]], samples: int) -> dict[int, int]:
    """Sequence length -> how many samples of it, of a source of which so many were read."""
    found: dict[int, int] = {}
    ends = [*(first for first, _ in parts[1:]), samples]
    for (first, length), end in zip(parts, ends, strict=True):
        found[length] = found.get(length, 0) + max(0, min(end, samples) - first)
    return found


def _files(run: FinishedRun, name: str, content: str | None) -> list[dict[str, Any]] | None:
    """What the sidecars say, if the files are still those that were read."""
    source = run.config.data.train.get(name)
    try:
        found = None if source is None else open_source(source.path)
        unchanged = found is not None and found.content() == content
    except UserError:
        found, unchanged = None, False
    if found is None or not unchanged:
        warn(f"data.train.{name}: its files are gone or have changed: the card cannot say what they were")
        return None
    return _described(found)


def _described(source: SourceFiles) -> list[dict[str, Any]]:
    return [
        {
            "name": PurePosixPath(file.prefix).name,
            "documents": file.documents,
            "tokens": file.tokens,
            "text_bytes": file.text_bytes,
            "bin_sha256": file.bin_sha256,
            "idx_sha256": file.idx_sha256,
            "tokenizer_sha256": file.tokenizer_sha256,
            # Only names: where a file lay concerns nobody else.
            "inputs": None
            if file.inputs is None
            else [
                {
                    "name": PurePosixPath(str(entry.get("path"))).name,
                    "bytes": entry.get("bytes"),
                    "sha256": entry.get("sha256"),
                }
                for entry in file.inputs
            ],
        }
        for file in source.files
    ]
