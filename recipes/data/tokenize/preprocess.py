"""Tokenize JSONL into Megatron's .bin/.idx: in parallel, in constant memory, restartable.

Inputs are cut into blocks of a few MB. Worker processes tokenize them, and the parent writes the results in
input order, so any number of workers gives the same bytes. After every block it writes its position to a
journal, from which a killed run continues. Only a bounded number of blocks is in progress at a time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.arguments import work_begins
from recipes.checks import of_a_machine
from recipes.console import Progress
from recipes.counts import counted, size_in_words
from recipes.data.samples.indexed import (
    IndexedWriter,
    Sidecar,
    bin_path,
    check_prefix,
    idx_path,
    read_sidecar,
    token_dtype,
)
from recipes.data.text.blocks import BLOCK_BYTES, Block, cut, documents
from recipes.data.text.compression import is_compressed
from recipes.data.text.documents import check_input
from recipes.data.tokenize.partial import Mark, PartialOutput, finish_renames
from recipes.data.tokenize.readback import read_back
from recipes.data.tokenize.word_encoder import BatchEncoder, is_separable
from recipes.data.tokenizer import load_tokenizer
from recipes.data.tokenizer.file_names import SENTENCEPIECE, TOKENIZER_MODEL
from recipes.data.tokenizer.tokenizer_files import read_tokenizer_files
from recipes.data.workers import WorkerDied, WorkerPool, in_this_process
from recipes.errors import UserError
from recipes.files import check_writable, make_directory, sha256_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_BATCH_BYTES = 1 << 20  # of text, per call of the tokenizer
_LONGEST_SAMPLE = 8000  # characters of a document to be compared at the end


@dataclass(frozen=True)
class _Settings:
    """What determines the tokens, apart from the inputs."""

    tokenizer_sha256: str
    text_key: str
    append_bos: bool
    append_eod: bool
    dtype: str


@dataclass(frozen=True)
class _Part:
    """The documents of one block."""

    tokens: bytes
    lengths: "npt.NDArray[np.int32]"
    text_bytes: int
    empty_documents: int
    samples: list[tuple[int, str]]
    """Number (within the part) and text of some documents."""


def preprocess(
    inputs: Sequence[str | Path],
    tokenizer_path: str | Path,
    prefix: str | Path,
    workers: int = 1,
    text_key: str = "text",
    append_bos: bool = False,
    append_eod: bool = True,
    force: bool = False,
    log: Callable[[str], None] = lambda message: None,
    progress: bool = False,
) -> Sidecar:
    """Write PREFIX.bin, PREFIX.idx and, last, PREFIX.json.

    Each document is normalised to NFC and ends with EOS; documents without tokens are left out and counted.
    If the prefix already holds exactly this, nothing is done. A killed run leaves no file under these names,
    only PREFIX.partial/, from which the same call continues.

    Args:
        inputs: JSONL files with one document per line, in output order; compressed if the name ends in .gz,
            .zst or .bz2.
        tokenizer_path: what `load_tokenizer` loads.
        prefix: where to write, without suffix.
        workers: number of processes; with 1, this process does the work.
        text_key: the key of a document's text.
        append_bos: begin each document with BOS.
        append_eod: end each document with EOS.
        force: replace what the prefix holds, and discard unfinished work with other settings or inputs.
        log: called with the messages at start and end.
        progress: show rate and remaining time on stderr.

    Raises:
        UserError: an input is malformed (with file and line) or has no documents; PREFIX holds something
            else and `force` is not given; the disk is full; another process is writing PREFIX.
    """
    of_a_machine("--workers", workers)
    tokenizer = load_tokenizer(tokenizer_path)
    if append_bos and tokenizer.bos_id is None:
        raise UserError(f"{tokenizer_path} has no BOS token: leave --append-bos out")
    settings = _Settings(
        tokenizer.sha256, text_key, append_bos, append_eod, token_dtype(tokenizer.vocab_size)
    )
    sizes = [check_input(path) for path in inputs]
    modified = [Path(path).stat().st_mtime_ns for path in inputs]
    check_writable(bin_path(prefix))
    work_begins()
    make_directory(bin_path(prefix).parent)
    finish_renames(prefix)
    plan = None
    if _is_there(prefix, force):
        plan = _plan(prefix, settings, tokenizer.vocab_size, inputs, sizes)
        present = _present(plan, prefix, force, log)
        if present:
            documents = counted(present.documents, "document")
            log(f"{prefix}: up to date ({documents}, {present.tokens:,} tokens)")
            return present

    started = time.monotonic()
    files = read_tokenizer_files(tokenizer_path)
    by_words = files.library == SENTENCEPIECE and is_separable(files.contents[TOKENIZER_MODEL])
    building = str(tokenizer_path), settings, by_words
    with ExitStack() as stack:
        output = stack.enter_context(PartialOutput(prefix))
        pool = None
        if workers > 1:  # Started first, so that workers load while the inputs' checksums are computed.
            pool = stack.enter_context(WorkerPool(workers, _Tokenize, building))
        plan = plan or _plan(prefix, settings, tokenizer.vocab_size, inputs, sizes)
        output.resume(asdict(settings), [str(item["sha256"]) for item in plan.inputs or ()], discard=force)
        if output.blocks:
            log(f"{prefix}: going on after {counted(output.last.documents, 'document')} of an earlier run")
        blocks = cut(inputs, sizes, output.last.place, BLOCK_BYTES)
        if pool:
            parts: Iterator[tuple[Block, _Part]] = pool.map(blocks)
        else:
            parts = in_this_process(_Tokenize(*building), blocks)
        left = _left(inputs, sizes, output.last)
        bar = stack.enter_context(Progress(left, label=Path(prefix).name, enabled=progress))
        try:
            _write(parts, output, settings.dtype, sizes, bar)
        except WorkerDied:
            raise UserError("a worker process died (out of memory?): try fewer --workers") from None
        for path, before in zip(inputs, modified, strict=True):
            if Path(path).stat().st_mtime_ns != before:
                output.discard()
                raise UserError(f"{path} changed while it was read: run again when it is complete")
        compared = read_back(
            output.bin_path,
            output.idx_path,
            tokenizer,
            output.samples,
            documents=output.last.documents,
            tokens=output.last.tokens,
            append_bos=append_bos,
            append_eod=append_eod,
        )
        sidecar = _completed(plan, output)
        output.finish(sidecar.to_json())
    seconds = max(time.monotonic() - started, 1e-9)
    empty = f", {sidecar.empty_documents:,} empty ones left out" if sidecar.empty_documents else ""
    log(
        f"{prefix}: {counted(sidecar.documents, 'document')}{empty}, {counted(sidecar.tokens, 'token')}, "
        f"{sidecar.text_bytes:,} bytes of text ({(sidecar.text_bytes or 0) / sidecar.tokens:.2f} per token) "
        f"in {seconds:.1f} s, {size_in_words(int(left / seconds))}/s; {compared}"
    )
    return sidecar


def _plan(
    prefix: str | Path,
    settings: _Settings,
    vocab_size: int,
    inputs: Sequence[str | Path],
    sizes: Sequence[int],
) -> Sidecar:
    """The sidecar as far as it is known in advance. Reads the inputs once, for their checksums."""
    return Sidecar(
        prefix=str(prefix),
        documents=0,
        tokens=0,
        bin_bytes=0,
        idx_bytes=0,
        vocab_size=vocab_size,
        inputs=tuple(
            {"path": str(path), "bytes": size, "sha256": sha256_file(path)}
            for path, size in zip(inputs, sizes, strict=True)
        ),
        **asdict(settings),
    )


def _is_there(prefix: str | Path, force: bool) -> bool:
    """Whether the prefix holds described data.

    Raises:
        UserError: it holds data of unknown origin and `force` is not given; or a .json that is not ours,
            which is refused even with `force`.
    """
    if read_sidecar(prefix) is not None:
        return True
    for path in (bin_path(prefix), idx_path(prefix)):
        if path.exists() and not force:
            raise UserError(
                f"{path} exists, of unknown origin: choose another --out, or replace it with --force"
            )
    return False


def _present(plan: Sidecar, prefix: str | Path, force: bool, log: Callable[[str], None]) -> Sidecar | None:
    """The prefix's sidecar, if its data are complete and come from the same inputs with the same settings.

    Raises:
        UserError: the prefix holds something else, and `force` is not given.
    """
    found = read_sidecar(prefix)
    assert found is not None
    difference = _difference(plan, found)
    if difference and not force:
        raise UserError(
            f"{prefix} exists, made with {difference}: choose another --out, or replace it with --force"
        )
    if difference:
        return None
    try:
        return check_prefix(prefix)
    except UserError as error:
        log(f"doing it again: {error}")
        return None


def _difference(plan: Sidecar, found: Sidecar) -> str:
    """How `found` differs from what `plan` would produce, in words; empty if it does not."""
    if plan.tokenizer_sha256 != found.tokenizer_sha256:
        return "another tokenizer"
    for name in ("text_key", "append_bos", "append_eod", "dtype"):
        if getattr(plan, name) != getattr(found, name):
            return f"{name} {getattr(found, name)}"
    # Not by path: the same files may have moved.
    old, new = ([item.get("sha256") for item in sidecar.inputs or ()] for sidecar in (found, plan))
    return (
        ""
        if old == new
        else f"other inputs ({', '.join(str(item.get('path')) for item in found.inputs or ())})"
    )


def _left(inputs: Sequence[str | Path], sizes: Sequence[int], done: Mark) -> int:
    """Bytes of the inputs, on disk, that are still to be read (a compressed input counts in full)."""
    left = sum(sizes[done.file :])
    return left if done.offset == 0 or is_compressed(inputs[done.file]) else left - done.offset


def _write(
    parts: Iterator[tuple[Block, _Part]],
    output: PartialOutput,
    dtype: str,
    sizes: Sequence[int],
    bar: Progress,
) -> None:
    """Write and journal all parts.

    Raises:
        UserError: an input without documents, a full disk; and whatever `parts` raises.
    """
    with output.named_errors():
        writer = IndexedWriter(
            output.bin_file, output.idx_file, dtype, output.last.documents, output.last.tokens
        )
    for block, part in parts:
        before = output.last
        in_file = len(part.lengths) + (before.file_documents if block.start else 0)
        if block.is_last and not in_file:
            raise UserError(f"{block.path} has no documents with text")
        output.digest.update(part.tokens)
        with output.named_errors():
            writer.add(part.tokens, part.lengths)
            output.add(
                Mark(
                    block.then.file,
                    block.then.offset,
                    documents=writer.documents,
                    tokens=writer.tokens,
                    bin_bytes=before.bin_bytes + len(part.tokens),
                    text_bytes=before.text_bytes + part.text_bytes,
                    empty_documents=before.empty_documents + part.empty_documents,
                    file_documents=in_file,
                    sha256=output.digest.hexdigest(),
                    samples=tuple((before.documents + number, text) for number, text in part.samples),
                )
            )
        note = f"{writer.tokens:,} tokens" + (f", {Path(block.path).name}" if len(sizes) > 1 else "")
        if block.lines is None:
            bar.add(block.stop - block.start, note)
        elif block.is_last:
            bar.add(sizes[block.then.file - 1], note)
    with output.named_errors():
        writer.finish()


def _completed(plan: Sidecar, output: PartialOutput) -> Sidecar:
    """`plan` with counts, sizes and checksums."""
    done = output.last
    return replace(
        plan,
        documents=done.documents,
        tokens=done.tokens,
        text_bytes=done.text_bytes,
        empty_documents=done.empty_documents,
        bin_bytes=done.bin_bytes,
        idx_bytes=output.idx_path.stat().st_size,
        bin_sha256=done.sha256,
        idx_sha256=sha256_file(output.idx_path),
    )


class _Tokenize:
    """The tokens of a block's documents; built once per worker process."""

    def __init__(self, tokenizer_path: str, settings: _Settings, by_words: bool) -> None:
        import numpy as np

        tokenizer = load_tokenizer(tokenizer_path)
        if tokenizer.sha256 != settings.tokenizer_sha256:
            raise UserError(f"{tokenizer_path} changed while it was used: run again")
        self._text_key = settings.text_key
        self._itemsize = np.dtype(settings.dtype).itemsize
        self._before = _token_bytes(tokenizer.bos_id if settings.append_bos else None, settings.dtype)
        self._after = _token_bytes(tokenizer.eos_id if settings.append_eod else None, settings.dtype)
        self._encoder = BatchEncoder(tokenizer, settings.dtype, by_words)

    def __call__(self, block: Block) -> _Part:
        """
        Raises:
            UserError: a malformed line.
        """
        import numpy as np

        pieces: list[bytes] = []
        lengths: list[int] = []
        samples: list[tuple[int, str]] = []
        text_bytes = empty = 0
        around = (len(self._before) + len(self._after)) // self._itemsize
        for texts, size in _batches(documents(block, self._text_key)):
            text_bytes += size
            for text, tokens in zip(texts, self._encoder.encode(texts), strict=True):
                if not tokens:
                    empty += 1
                    continue
                if len(text) <= _LONGEST_SAMPLE:
                    samples[1:] = [(len(lengths), text)]  # the first document and, after the loop, the last
                pieces += (self._before, tokens, self._after)
                lengths.append(len(tokens) // self._itemsize + around)
        return _Part(b"".join(pieces), np.array(lengths, dtype=np.int32), text_bytes, empty, samples)


def _token_bytes(token: int | None, dtype: str) -> bytes:
    import numpy as np

    return b"" if token is None else np.array([token], dtype=dtype).tobytes()


def _batches(texts: Iterator[str]) -> Iterator[tuple[list[str], int]]:
    """Texts in batches, and the UTF-8 bytes of each batch."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text) if text.isascii() else len(text.encode())
        if size >= _BATCH_BYTES:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size
