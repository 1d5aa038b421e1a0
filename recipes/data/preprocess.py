"""JSONL to Megatron's .bin/.idx: documents as tokens, in parallel, in constant memory.

Inputs are cut into byte ranges of a few MB. Worker processes tokenize them; the parent writes their results
in the order of the inputs, so any number of workers gives the same bytes. Only a bounded number of ranges is
under way at a time.
"""

import hashlib
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from recipes.data.indexed import (
    IndexedWriter,
    Sidecar,
    bin_path,
    check_prefix,
    idx_path,
    read_sidecar,
    sidecar_path,
    token_dtype,
)
from recipes.data.progress import Progress
from recipes.data.text import BadLine, check_input, read_jsonl
from recipes.data.tokenizer import TextTokenizer, load_tokenizer
from recipes.errors import UserError
from recipes.files import atomic_write, remove_stale, sha256_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_RANGE_BYTES = 4 << 20  # of an input, per task
_BATCH_BYTES = 1 << 20  # of text, per call of SentencePiece
_TASKS_PER_WORKER = 3  # under way at a time: one at work, the others waiting on either side


@dataclass(frozen=True)
class _Settings:
    """What decides the tokens, apart from inputs and tokenizer."""

    text_key: str
    append_bos: bool
    append_eod: bool
    dtype: str


@dataclass(frozen=True)
class _Part:
    """The documents of one byte range."""

    tokens: bytes
    lengths: "npt.NDArray[np.int32]"
    text_bytes: int
    empty_documents: int


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

    Each document is NFC normalised and ends with EOS; documents without tokens are left out and counted.
    When the prefix already holds just this, nothing is done. A killed run leaves no file under these names.

    Args:
        inputs: JSONL files, a document per line, in the order in which they are written.
        tokenizer_path: a .model.
        prefix: where to write, without suffix.
        workers: processes; 1 works in this one.
        text_key: where a document's text is.
        append_bos: begin each document with BOS.
        append_eod: end each document with EOS.
        force: replace what the prefix holds.
        log: gets the messages at start and end.
        progress: show rate and remaining time on stderr.

    Raises:
        UserError: an input is malformed (with file and line) or has no documents; PREFIX holds something
            else and `force` is not given; the disk is full; another process writes PREFIX.
    """
    if workers < 1:
        raise UserError(f"workers must be at least 1, not {workers}")
    tokenizer = load_tokenizer(tokenizer_path)
    if append_bos and tokenizer.bos_id is None:
        raise UserError(f"{tokenizer_path} has no BOS token: leave --append-bos out")
    sizes = [check_input(path) for path in inputs]
    modified_before = [Path(path).stat().st_mtime_ns for path in inputs]
    bin_path(prefix).parent.mkdir(parents=True, exist_ok=True)
    busy = [remove_stale(path(prefix)) for path in (bin_path, idx_path, sidecar_path)]
    if any(busy):
        raise UserError(f"another process is writing {prefix}.bin: wait for it, or choose another prefix")

    plan = Sidecar(
        prefix=str(prefix),
        documents=0,
        tokens=0,
        dtype=token_dtype(tokenizer.vocab_size),
        bin_bytes=0,
        idx_bytes=0,
        append_eod=append_eod,
        append_bos=append_bos,
        text_key=text_key,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        inputs=tuple(
            {"path": str(path), "bytes": size, "sha256": sha256_file(path)}
            for path, size in zip(inputs, sizes, strict=True)
        ),
    )
    present = _present(plan, prefix, force, log)
    if present:
        log(f"{prefix}: up to date ({present.documents} documents, {present.tokens} tokens)")
        return present

    started = time.monotonic()
    settings = _Settings(text_key, append_bos, append_eod, plan.dtype)
    # Left in reverse order: the sidecar appears last.
    with (
        atomic_write(sidecar_path(prefix), "w") as sidecar_file,
        atomic_write(bin_path(prefix)) as bin_file,
        atomic_write(idx_path(prefix)) as idx_file,
    ):
        with (
            closing(_parts(inputs, sizes, tokenizer, settings, workers)) as parts,
            Progress(sum(sizes), enabled=progress) as shown,
        ):
            sidecar = _write(parts, plan, bin_file, idx_file, shown)
        for path, modified in zip(inputs, modified_before, strict=True):
            if Path(path).stat().st_mtime_ns != modified:
                raise UserError(f"{path} changed while it was read: run again when it is complete")
        sidecar_file.write(sidecar.to_json())
        sidecar_file.flush()
        # All that takes time or can fail is done before the old data goes: what is left are three renames.
        # The old description goes first, so that a kill among them leaves none that is wrong.
        for file in (sidecar_file, bin_file, idx_file):
            os.fsync(file.fileno())
        sidecar_path(prefix).unlink(missing_ok=True)
    seconds = max(time.monotonic() - started, 1e-9)
    empty = f", {sidecar.empty_documents} empty ones left out" if sidecar.empty_documents else ""
    log(
        f"{prefix}: {sidecar.documents} documents{empty}, {sidecar.tokens} tokens, "
        f"{sidecar.text_bytes} bytes of text ({(sidecar.text_bytes or 0) / sidecar.tokens:.2f} per token) "
        f"in {seconds:.1f} s, {sum(sizes) / seconds / 1e6:.1f} MB/s"
    )
    return sidecar


def _present(plan: Sidecar, prefix: str | Path, force: bool, log: Callable[[str], None]) -> Sidecar | None:
    """The prefix's sidecar if it is whole and was made from the same inputs with the same settings.

    Raises:
        UserError: the prefix holds something else, and `force` is not given; or a .json that is not ours,
            which is refused even then.
    """
    found = read_sidecar(prefix)
    if found is None:
        for path in (bin_path(prefix), idx_path(prefix)):
            if path.exists() and not force:
                raise UserError(
                    f"{path} exists, of unknown origin: choose another --out, or replace it with --force"
                )
        return None
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
    """In words, why `found` is not what `plan` would make; empty if it is."""
    if plan.tokenizer_sha256 != found.tokenizer_sha256:
        return "another tokenizer"
    for name in ("text_key", "append_bos", "append_eod", "dtype"):
        if getattr(plan, name) != getattr(found, name):
            return f"{name} {getattr(found, name)}"
    # Not by path: the same data may have moved.
    old, new = ([item.get("sha256") for item in sidecar.inputs or ()] for sidecar in (found, plan))
    return (
        ""
        if old == new
        else f"other inputs ({', '.join(str(item.get('path')) for item in found.inputs or ())})"
    )


def _write(
    parts: Iterator[tuple[_Part, int]],
    plan: Sidecar,
    bin_file: BinaryIO,
    idx_file: BinaryIO,
    shown: "Progress",
) -> Sidecar:
    """Write all parts; `plan` completed with counts, sizes and checksums."""
    writer = IndexedWriter(bin_file, idx_file, plan.dtype)
    text_bytes = empty = 0
    bin_digest = hashlib.sha256()
    for part, input_bytes in parts:
        writer.add(part.tokens, part.lengths)
        bin_digest.update(part.tokens)
        text_bytes += part.text_bytes
        empty += part.empty_documents
        shown.add(input_bytes, writer.tokens)
    if not writer.documents:
        names = ", ".join(str(item["path"]) for item in plan.inputs or ())
        raise UserError(f"no documents with text in {names}")
    writer.finish()
    idx_digest = hashlib.sha256()
    idx_file.seek(0)
    while block := idx_file.read(1 << 20):
        idx_digest.update(block)
    return replace(
        plan,
        documents=writer.documents,
        tokens=writer.tokens,
        text_bytes=text_bytes,
        empty_documents=empty,
        bin_bytes=os.fstat(bin_file.fileno()).st_size,
        idx_bytes=os.fstat(idx_file.fileno()).st_size,
        bin_sha256=bin_digest.hexdigest(),
        idx_sha256=idx_digest.hexdigest(),
    )


def _parts(
    inputs: Sequence[str | Path],
    sizes: Sequence[int],
    tokenizer: TextTokenizer,
    settings: _Settings,
    workers: int,
) -> Generator[tuple[_Part, int], None, None]:
    """Each byte range's documents, in order, and the range's size.

    Raises:
        UserError: a malformed line (the first one in the order of the inputs), an input without documents.
    """
    ranges = [
        (str(path), start, min(start + _RANGE_BYTES, size))
        for path, size in zip(inputs, sizes, strict=True)
        for start in range(0, size, _RANGE_BYTES)
    ]
    ends = dict(zip(map(str, inputs), sizes, strict=True))
    documents = dict.fromkeys(ends, 0)
    for (path, start, stop), part in _run(ranges, tokenizer, settings, min(workers, len(ranges))):
        documents[path] += len(part.lengths)
        if stop == ends[path] and not documents[path]:
            raise UserError(f"{path} has no documents with text")
        yield part, stop - start


_Range = tuple[str, int, int]


def _run(
    ranges: Sequence[_Range], tokenizer: TextTokenizer, settings: _Settings, workers: int
) -> Iterator[tuple[_Range, _Part]]:
    """Each range with its part, in order."""
    if workers == 1:
        for item in ranges:
            yield item, _tokenize(item, tokenizer, settings)
        return
    # Spawned, not forked: a forked process would hold the lock on our temporary files beyond our death.
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(tokenizer, settings),
    )
    try:
        waiting: deque[tuple[_Range, Future[_Part]]] = deque()
        for item in ranges:
            waiting.append((item, pool.submit(_work, item)))
            if len(waiting) >= _TASKS_PER_WORKER * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    except BrokenProcessPool:
        raise UserError("a worker process died (out of memory?): try fewer --workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: tuple[TextTokenizer, _Settings] | None = None


def _start_worker(tokenizer: TextTokenizer, settings: _Settings) -> None:
    global _worker
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    parent = multiprocessing.parent_process()

    def follow_parent() -> None:
        # A killed parent cannot end its workers, and they would wait for tasks for ever.
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
    _worker = (tokenizer, settings)


def _work(item: _Range) -> _Part:
    assert _worker is not None
    return _tokenize(item, *_worker)


def _tokenize(item: _Range, tokenizer: TextTokenizer, settings: _Settings) -> _Part:
    """The tokens of the documents that begin in a byte range.

    Raises:
        UserError: a malformed line.
    """
    import numpy as np

    path, start, stop = item
    dtype = np.dtype(settings.dtype)
    before = np.array([tokenizer.bos_id] if settings.append_bos else [], dtype=dtype)
    after = np.array([tokenizer.eos_id] if settings.append_eod else [], dtype=dtype)
    arrays: list[npt.NDArray[Any]] = []
    lengths: list[int] = []
    text_bytes = empty = 0
    try:
        with Path(path).open("rb") as stream:
            for texts, size in _batches(stream, settings.text_key, start, stop):
                text_bytes += size
                for tokens in tokenizer.encode_batch(texts):
                    if not len(tokens):
                        empty += 1
                        continue
                    arrays += (before, tokens.astype(dtype), after)
                    lengths.append(len(before) + len(tokens) + len(after))
    except BadLine as bad:
        raise bad.at(path) from None
    data = np.concatenate(arrays).tobytes() if arrays else b""
    return _Part(data, np.array(lengths, dtype=np.int32), text_bytes, empty)


def _batches(stream: BinaryIO, text_key: str, start: int, stop: int) -> Iterator[tuple[list[str], int]]:
    """Documents in batches, and the UTF-8 bytes of each batch."""
    texts: list[str] = []
    size = 0
    for text in read_jsonl(stream, text_key, start, stop):
        texts.append(text)
        size += len(text.encode())
        if size >= _BATCH_BYTES:
            yield texts, size
            texts, size = [], 0
    if texts:
        yield texts, size
