"""What conversations are like before one trains on them: lengths, mistakes, repetitions, benchmark text."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recipes.counts import counted
from recipes.data.chat.conversations import BadConversation, Message, read_conversation
from recipes.data.chat.packing import pack
from recipes.data.chat.prepare import in_words, records, tokens_of
from recipes.data.chat.template import Template, TemplateError

SHOWN = 5
"""Places that a finding names."""


@dataclass
class Findings:
    """Of all records. Places are ``file:line``."""

    records: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Records that are no conversation, by reason."""
    first_dropped: dict[str, str] = field(default_factory=dict)
    """Where each reason is met first."""
    turns: list[int] = field(default_factory=list)
    """Answers per conversation."""
    lengths: list[int] = field(default_factory=list)
    """Tokens per conversation."""
    answer_tokens: int = 0
    seq_length: int = 0
    truncated: int = 0
    """Conversations that lose their end in samples of seq_length."""
    left_out: int = 0
    """Of whose answers nothing is left."""
    samples: int = 0
    """That they are packed into."""
    repeated: list[str] = field(default_factory=list)
    """Conversations that have been there before."""
    other_answers: list[str] = field(default_factory=list)
    """First messages that have been there before, with another answer."""
    leaks: dict[str, list[str]] = field(default_factory=dict)
    """Benchmark table -> conversations with its text; only if there was something to compare with."""

    def to_json(self) -> str:
        """Numbers and places, without the single lengths."""
        summary = {**vars(self), "conversations": len(self.lengths), "lengths": self.quantiles()}
        summary["turns"] = sum(self.turns)
        return json.dumps(summary, ensure_ascii=False)

    def quantiles(self) -> dict[str, int]:
        """Of the lengths."""
        if not self.lengths:
            return {}
        at = {"median": 0.5, "95 %": 0.95, "longest": 1.0}
        return {name: int(np.quantile(self.lengths, share)) for name, share in at.items()}


def check_chats(
    files: Iterable[str | Path],
    template: Template,
    seq_length: int,
    leak: Callable[[str], str | None] | None = None,
) -> Findings:
    """Reads all records.

    Args:
        leak: the benchmark table that a text has words of.

    Raises:
        UserError: a line is no JSON object.
    """
    found = Findings(seq_length=seq_length)
    whole: set[bytes] = set()
    answers: dict[bytes, bytes] = {}
    places = []
    for path, line, record in records(files):
        found.records += 1
        where = f"{path}:{line}"
        try:
            messages = read_conversation(record)
            ids, said = tokens_of(template, messages)
        except (BadConversation, TemplateError) as bad:
            found.dropped[str(bad)] += 1
            found.first_dropped.setdefault(str(bad), where)
            continue
        found.lengths.append(len(ids))
        found.turns.append(sum(message["role"] == "assistant" for message in messages))
        found.answer_tokens += sum(said)
        places.append(_place(found, len(ids), said))
        _compare(found, messages, where, whole, answers)
        if leak is not None and (table := leak("\n".join(message["content"] for message in messages))):
            found.leaks.setdefault(table, []).append(where)
    found.samples = len(pack(np.array(places, dtype=np.int64), seq_length))
    return found


def _place(found: Findings, length: int, said: list[bool]) -> int:
    """What a conversation takes of a sample; as ChatSource counts it."""
    if length - 1 <= found.seq_length:
        return length - 1
    if not any(said[1 : found.seq_length + 1]):
        found.left_out += 1
        return 0
    found.truncated += 1
    return found.seq_length


def _compare(
    found: Findings, messages: list[Message], where: str, whole: set[bytes], answers: dict[bytes, bytes]
) -> None:
    """With those before, however they are written: case and blanks do not count."""
    keys = [_key(f"{message['role']} {message['content']}") for message in messages]
    everything = _key(" ".join(key.hex() for key in keys))
    if everything in whole:
        found.repeated.append(where)
        return
    whole.add(everything)
    asked = next(number for number, message in enumerate(messages) if message["role"] == "assistant")
    before = answers.setdefault(_key(" ".join(key.hex() for key in keys[:asked])), keys[asked])
    if before != keys[asked]:
        found.other_answers.append(where)


def _key(text: str) -> bytes:
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).digest()[:16]


def report(found: Findings) -> str:
    """The findings in words."""
    count, tokens = len(found.lengths), sum(found.lengths)
    kept = counted(count, "conversation")
    lines = [f"records        {found.records:,}: {kept}, dropped: {in_words(found.dropped)}"]
    lines += [f"  first        {where}: {reason}" for reason, where in found.first_dropped.items()]
    if not count:
        return "\n".join(lines)
    lengths = ", ".join(f"{name} {value:,}" for name, value in found.quantiles().items())
    full = 100 * min(1.0, (tokens - count) / (found.samples * found.seq_length)) if found.samples else 0.0
    lines += [
        f"answers        {sum(found.turns):,}, {sum(found.turns) / count:.2f} per conversation, "
        f"{100 * found.answer_tokens / tokens:.0f} % of the tokens",
        f"tokens         {tokens:,} in all; {lengths}",
        f"in {found.seq_length:,} tokens {found.truncated:,} lose their end, {found.left_out:,} all answers; "
        f"packed they are {found.samples:,} samples, {full:.0f} % full",
        f"repeated       {_places(found.repeated)}",
        f"other answers  {_places(found.other_answers)}",
    ]
    return "\n".join([*lines, *_leaks(found.leaks)])


def _leaks(leaks: Mapping[str, list[str]]) -> list[str]:
    return [f"benchmark text {table}: {_places(where)}" for table, where in sorted(leaks.items())]


def _places(where: list[str]) -> str:
    more: list[Any] = [*where[:SHOWN], *(["..."] if len(where) > SHOWN else [])]
    return f"{len(where):,}" + (f" ({', '.join(more)})" if where else "")
