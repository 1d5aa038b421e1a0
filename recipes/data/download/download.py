"""Download a corpus: from rows to shards, up to a budget, continuing where the last run ended.

Only finished shards count. A shard appears whole, and after it the manifest that names it and the next row,
so a run killed at any moment repeats only the shard it was writing.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.arguments import work_begins
from recipes.checks import refuse
from recipes.console import Progress
from recipes.counts import counted, size_in_words
from recipes.data.download import manifest as manifests
from recipes.data.download.corpora import LOCAL, CorpusSource, Keys, TxtDocuments, find_source
from recipes.data.download.corpus_files import Listing, local_listing, mirror_listing
from recipes.data.download.manifest import Budget, Manifest, Position, Shard
from recipes.data.download.options import Options, check
from recipes.data.download.rows import Row, read_rows
from recipes.data.download.shards import open_shard, shard_name, to_line
from recipes.errors import UserError
from recipes.files import check_writable, exclusive_lock, make_directory

if TYPE_CHECKING:
    from recipes.data.tokenizer import TextTokenizer


def download(options: Options, log: Callable[[str], None] = print, progress: bool = False) -> Manifest:
    """Write DIR/<source>-00000.jsonl, ..., and DIR/manifest.json.

    Returns:
        The manifest: what DIR holds now (in a dry run, what it already held).

    Raises:
        UserError: settings that do not fit together, no network, damaged files, malformed local files (with
            file and line), or a DIR that holds another download.
    """
    check(options)
    source = find_source(options.source)
    found = None if options.force else manifests.load(options.out)
    if found and not found.shards:
        found = None  # It failed before the first shard; the cause may have been fixed since.
    tokenizer = _tokenizer(options.tokenizer)
    if not options.dry_run:
        check_writable(options.out / manifests.NAME)
    listing = _listing(source, options, found)
    _check_apart(listing, options.out)
    work_begins()
    plan = _plan(source, options, listing, tokenizer)
    current = plan if found is None else _continued(found, plan, options)
    if options.dry_run:
        _describe(current, plan, listing, log)
        return current
    if current.status != "in progress":
        log(f"up to date: {_summary(current)}")
        return current
    with _alone_in(options.out):
        _clear(options, current)
        current.save(options.out)
        if current.shards:
            log(f"continuing after {current.shards[-1].name}")
        rows = _rows(listing, _keys(source, options), _txt_documents(source, options), current.position)
        documents = _documents(rows, current, tokenizer, strict=source.name == LOCAL)
        with _progress(current, listing, progress) as bar:
            _write(current, documents, options, bar, _stored_before(current, listing))
    if not current.shards:
        raise UserError(f"{options.source} has no documents with text")
    log(f"{options.out}: {_summary(current)}")
    return current


def _tokenizer(path: Path | None) -> "TextTokenizer | None":
    if path is None:
        return None
    from recipes.data.tokenizer import load_tokenizer

    return load_tokenizer(path)


def _listing(source: CorpusSource, options: Options, found: Manifest | None) -> Listing:
    """The corpus's files; if DIR holds an earlier download, those of its revision."""
    if source.name == LOCAL:
        return local_listing(options.inputs)
    if source.repo is None:
        for name, value in (("--revision", options.revision), ("--files", options.files)):
            if value is not None:
                refuse(name, value, f"is for repositories on the hub; {source.name} is one file elsewhere")
    if options.mirror is not None:
        return mirror_listing(source, options.mirror, options.files)
    work_begins()
    from recipes.data.download.network import remote_listing  # huggingface_hub takes a second to import

    begun_with = found.revision if found and found.source == source.name else None
    return remote_listing(source, options.revision or (begun_with if source.repo else None), options.files)


def _keys(source: CorpusSource, options: Options) -> Keys:
    return Keys(options.text_key or "text", options.id_key) if source.name == LOCAL else source.keys


def _check_apart(listing: Listing, out: Path) -> None:
    """Check that no output is read as input, and no input is replaced.

    Raises:
        UserError: an input is in DIR.
    """
    for file in listing.files:
        if file.path is not None and file.path.resolve().parent == out.resolve():
            refuse("--out", out, f"{file.name} lies there: choose a directory without inputs")


def _txt_documents(source: CorpusSource, options: Options) -> TxtDocuments:
    return options.txt_documents or source.txt_documents


def _plan(
    source: CorpusSource, options: Options, listing: Listing, tokenizer: "TextTokenizer | None"
) -> Manifest:
    """The manifest of a download that has not started."""
    if options.max_tokens is not None:
        budget = Budget("tokens", options.max_tokens)
    else:
        budget = Budget(None if options.max_bytes is None else "bytes", options.max_bytes)
    settings = {
        "files": options.files,
        "shard_bytes": options.shard_bytes,
        "compress": options.compress,
        "tokenizer_sha256": tokenizer.sha256 if tokenizer else None,
    }
    if source.name == LOCAL:
        keys = _keys(source, options)
        how = _txt_documents(source, options)
        settings |= {"text_key": keys.text, "id_key": keys.id, "txt_documents": how}
    return Manifest(
        source=source.name,
        page=source.page,
        licence=source.licence,
        origin=listing.origin,
        revision=listing.revision,
        settings=settings,
        budget=budget,
        files=[file.identity() for file in listing.files],
    )


def _continued(found: Manifest, plan: Manifest, options: Options) -> Manifest:
    """The manifest of what DIR holds, with the new budget.

    Raises:
        UserError: it belongs to another download, or DIR already holds more than the budget.
    """
    if differs := manifests.difference(found, plan):
        raise UserError(
            f"{options.out} holds another download ({differs}): choose another --out, or --force to replace "
            "it"
        )
    wanted = plan.budget.amount
    has = found.counted(plan.budget.unit)
    before = found.budget.amount if found.budget.unit == plan.budget.unit else None
    if wanted is not None and has >= wanted and (before is None or wanted < before):
        raise UserError(
            f"{options.out} holds {has:,} {plan.budget.unit} already, more than {wanted:,}: raise the "
            "budget, or --force to begin again"
        )
    found.budget = plan.budget
    found.revision = found.revision or plan.revision
    if found.status != "complete":
        found.status = "in progress" if wanted is None or has < wanted else "budget reached"
    return found


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Create DIR, and keep other runs out of it while the block runs.

    Raises:
        UserError: it cannot be written, or another run is writing to it.
    """
    make_directory(out)
    try:
        descriptor = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    try:
        exclusive_lock(descriptor, f"{out} is being written by another process")
        yield
    finally:
        os.close(descriptor)


def _clear(options: Options, current: Manifest) -> None:
    """With --force, remove the download in DIR; check that nothing else would be replaced.

    Raises:
        UserError: DIR holds shards of unknown origin.
    """
    out = options.out
    old = manifests.read(out)
    known = _names(old) if old else set()
    if options.force:
        for name in known:
            (out / name).unlink(missing_ok=True)
    elif old:
        known |= _names(current)
    for path in sorted(out.iterdir()):
        if re.fullmatch(manifests.SHARD, path.name) and path.name not in known:
            raise UserError(
                f"{path} is of no download that {out / manifests.NAME} knows: move it away, or choose "
                "another --out"
            )


def _names(manifest: Manifest) -> set[str]:
    """A download's shards and the next one, whose writer may have died before the manifest named it."""
    following = shard_name(manifest.source, len(manifest.shards), manifest.settings["compress"])
    return {shard.name for shard in manifest.shards} | {following}


@dataclass(slots=True)
class _Document:
    """A document about to be written.

    Args:
        amount: how much of the budget it uses.
        after: the row that follows it.
        skipped: rows up to it that are not documents, counted by reason.
        stored: bytes of the source's files read so far.
    """

    line: bytes
    text_bytes: int
    tokens: int | None
    amount: int
    after: Position
    skipped: dict[str, int]
    stored: int


def _rows(
    listing: Listing, keys: Keys, txt_documents: TxtDocuments, position: Position
) -> Iterator[tuple[int, int, Row]]:
    """All rows from `position` on, also malformed ones, each with its file and the bytes before that file."""
    before = sum(file.size for file in listing.files[: position.file])
    for place in range(position.file, len(listing.files)):
        file = listing.files[place]
        start = position.row if place == position.file else 0
        for row in read_rows(file, keys, txt_documents, start):
            yield place, before, row
        before += file.size


def _documents(
    rows: Iterator[tuple[int, int, Row]], current: Manifest, tokenizer: "TextTokenizer | None", strict: bool
) -> Iterator[_Document]:
    """The documents among `rows`, up to the one that reaches the budget.

    If the rows end before the budget is reached, `current` is set to complete but not saved.

    Raises:
        UserError: a malformed row, if `strict`.
    """
    unit, wanted = current.budget.unit, current.budget.amount
    has, skipped = current.counted(unit), Counter(current.skipped)
    for place, before, row in rows:
        if row.problem and strict:
            raise UserError(f"{row.place}: {row.problem}{row.detail}")
        if row.problem or not row.text.strip():
            skipped[row.problem or "empty text"] += 1
            continue
        text_bytes = len(row.text.encode())
        tokens = len(tokenizer.encode(row.text)) if tokenizer else None
        amount = text_bytes if tokens is None else tokens
        after, line = Position(place, row.number + 1), to_line(row, current.source)
        yield _Document(line, text_bytes, tokens, amount, after, dict(skipped), before + row.stored)
        has += amount
        if wanted is not None and has >= wanted:
            current.status = "budget reached"
            return
    current.status = "complete"
    current.position, current.skipped = Position(len(current.files), 0), dict(skipped)


def _write(
    current: Manifest, documents: Iterator[_Document], options: Options, bar: Progress, stored: int
) -> None:
    """Write the documents as shards, saving the manifest after each."""
    pending = next(documents, None)
    while pending is not None:
        name = shard_name(current.source, len(current.shards), options.compress)
        count = text_bytes = tokens = line_bytes = 0
        with open_shard(options.out / name, options.compress) as shard:
            while pending is not None and (
                not count or line_bytes + len(pending.line) <= options.shard_bytes
            ):
                shard.write(pending.line)
                last, count, line_bytes = pending, count + 1, line_bytes + len(pending.line)
                text_bytes, tokens = text_bytes + last.text_bytes, tokens + (last.tokens or 0)
                pending = next(documents, None)
                bar.add(last.stored - stored if current.budget.unit is None else last.amount)
                stored = last.stored
            shard.finish()
        counted = None if last.tokens is None else tokens
        current.shards.append(Shard(name, count, text_bytes, counted, shard.size, shard.sha256))
        if current.status != "complete":
            current.position, current.skipped = last.after, last.skipped
        current.save(options.out)
    if current.status == "complete":
        current.save(options.out)  # The remaining rows may all be no documents.


def _stored_before(current: Manifest, listing: Listing) -> int:
    """The total size of the finished files."""
    return sum(file.size for file in listing.files[: current.position.file])


def _progress(current: Manifest, listing: Listing, enabled: bool) -> Progress:
    """Progress over the rest of the budget, or of the corpus's files."""
    unit, wanted = current.budget.unit, current.budget.amount
    if wanted is not None:
        wanted -= current.counted(unit)
        if unit == "tokens":
            return Progress(wanted, " tokens", enabled=enabled)
        return Progress(wanted, label="text", enabled=enabled)
    total = sum(file.size for file in listing.files) - _stored_before(current, listing)
    return Progress(total, label="files", enabled=enabled)


def _summary(current: Manifest) -> str:
    tokens = "" if current.tokens is None else f", {current.tokens:,} tokens"
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(current.skipped.items()))
    return (
        f"{counted(current.documents, 'document')}, {size_in_words(current.text_bytes)} of text{tokens} in "
        f"{counted(len(current.shards), 'shard')}; {current.status}"
        f"{'; skipped: ' if skipped else ''}{skipped}"
    )


def _describe(current: Manifest, plan: Manifest, listing: Listing, log: Callable[[str], None]) -> None:
    """Log what a run would do."""
    stored = sum(file.size for file in listing.files)
    budget = "everything" if plan.budget.unit is None else f"{plan.budget.amount:,} {plan.budget.unit}"
    log(f"source    {plan.source} {plan.page}".rstrip())
    log(f"licence   {plan.licence}")
    log(f"from      {plan.origin}, revision {plan.revision or 'unknown'}")
    log(f"files     {len(listing.files):,} with {size_in_words(stored)}, from {listing.files[0].name}")
    log(f"wanted    {budget}")
    log(f"there     {_summary(current) if current.shards else 'nothing'}")
