"""Conversations from JSONL files to what training reads: tokens in Megatron's format, and who says them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.arguments import work_begins
from recipes.checks import refuse
from recipes.console import say
from recipes.counts import counted
from recipes.data.chat.conversations import BadConversation, Message, read_conversation
from recipes.data.chat.template import Template, TemplateError
from recipes.data.samples.indexed import (
    IndexedWriter,
    Sidecar,
    answers_path,
    bin_path,
    check_prefix,
    idx_path,
    read_sidecar,
    sidecar_path,
    token_dtype,
)
from recipes.data.text.compression import reading
from recipes.data.text.documents import check_input
from recipes.data.text.json_lines import BadRecord, parse_line, read_lines
from recipes.data.tokenizer.load import load_tokenizer
from recipes.errors import UserError
from recipes.files import atomic_write, check_writable, make_directory, sha256_file


@dataclass
class Prepared:
    """What has become of the records."""

    conversations: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    """Of these, what assistants say."""
    longest: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Records that were left out, by reason."""


def records(files: Iterable[str | Path]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """File, line number from 1 and content of every record.

    Raises:
        UserError: a line is no JSON object.
    """
    for path in files:
        with reading(path) as stream:
            for number, _, line in read_lines(stream):
                try:
                    yield str(path), number + 1, parse_line(line)
                except BadRecord as bad:
                    raise bad.at(path, number + 1) from None


def prepare_chats(
    inputs: Sequence[str | Path],
    tokenizer_path: str | Path,
    out: str | Path,
    *,
    template: str,
    force: bool = False,
) -> Prepared | None:
    """Writes PREFIX.bin, .idx, .answers and .json; the last one last.

    Conversations keep their order. Records that are none are left out and counted.

    Returns:
        What was written; None if exactly this is there already.

    Raises:
        UserError: a file cannot be read or written, the prefix is taken, or nothing is left.
    """
    tokenizer = load_tokenizer(tokenizer_path)
    sizes = [check_input(path) for path in inputs]
    check_writable(sidecar_path(out))
    work_begins()
    sources = tuple(
        {"path": str(path), "bytes": size, "sha256": sha256_file(path)}
        for path, size in zip(inputs, sizes, strict=True)
    )
    before = read_sidecar(out)
    if before is not None and not force:
        same = (
            before.tokenizer_sha256 == tokenizer.sha256
            and before.chat_template == template
            and [entry["sha256"] for entry in before.inputs or ()] == [entry["sha256"] for entry in sources]
        )
        if same and _is_whole(out):
            return None
        if not same:
            refuse("--out", out, "holds something else; give another prefix, or --force to replace it")
    make_directory(Path(out).parent)
    sidecar_path(out).unlink(missing_ok=True)  # From here on it would describe something else.
    prepared, reader = Prepared(), Template(template, tokenizer)
    with ExitStack() as stack:
        paths = (bin_path(out), idx_path(out), answers_path(out))
        bin_file, idx_file, answers_file = (stack.enter_context(atomic_write(path)) for path in paths)
        writer = IndexedWriter(bin_file, idx_file, token_dtype(tokenizer.vocab_size))
        for ids, said in _tokenized(inputs, reader, prepared):
            _add(writer, answers_file, ids, said)
        if not prepared.conversations:
            raise UserError(f"{inputs[0]}: no conversation is left: {in_words(prepared.dropped)}")
        writer.finish()
    sidecar = Sidecar(
        prefix=str(out),
        documents=prepared.conversations,
        tokens=prepared.tokens,
        dtype=writer.dtype,
        bin_bytes=bin_path(out).stat().st_size,
        idx_bytes=idx_path(out).stat().st_size,
        append_eod=False,
        append_bos=False,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        inputs=sources,
        bin_sha256=sha256_file(bin_path(out)),
        idx_sha256=sha256_file(idx_path(out)),
        answers_sha256=sha256_file(answers_path(out)),
        answer_tokens=prepared.answer_tokens,
        chat_template=template,
    )
    with atomic_write(sidecar_path(out), "w") as file:
        file.write(sidecar.to_json())
    return prepared


def _is_whole(out: str | Path) -> bool:
    try:
        check_prefix(out)
    except UserError as damage:
        say(f"doing it again: {damage}")
        return False
    return True


def _add(writer: IndexedWriter, answers_file: Any, ids: list[int], said: list[bool]) -> None:
    import numpy as np

    writer.add(np.array(ids), np.array([len(ids)], dtype=np.int32))
    answers_file.write(np.array(said, dtype=np.uint8).tobytes())


def _tokenized(
    inputs: Sequence[str | Path], template: Template, prepared: Prepared
) -> Iterator[tuple[list[int], list[bool]]]:
    for _, _, record in records(inputs):
        try:
            ids, said = tokens_of(template, read_conversation(record))
        except (BadConversation, TemplateError) as bad:
            prepared.dropped[str(bad)] += 1
            continue
        prepared.conversations += 1
        prepared.tokens += len(ids)
        prepared.answer_tokens += sum(said)
        prepared.longest = max(prepared.longest, len(ids))
        yield ids, said


def tokens_of(template: Template, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """A conversation's tokens, and which of them the assistant says; see :meth:`Template.ids_and_answers`.

    Raises:
        TemplateError: also if no token is the assistant's.
    """
    ids, said = template.ids_and_answers(messages)
    if not any(said):
        raise TemplateError("nothing is left of the answers")
    return ids, said


def in_words(dropped: Counter[str]) -> str:
    """Counts by reason, the most frequent first."""
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common()) or "none dropped"


def announce(prepared: Prepared, out: str | Path) -> None:
    """Prints what was written."""
    share = 100 * prepared.answer_tokens / prepared.tokens
    say(
        f"{out}: {counted(prepared.conversations, 'conversation')}, {prepared.tokens:,} tokens, "
        f"{share:.0f} % of them answers; the longest has {prepared.longest:,}; dropped: "
        f"{in_words(prepared.dropped)}"
    )
