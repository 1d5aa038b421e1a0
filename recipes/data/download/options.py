"""The options of a download."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.checks import positive, refuse
from recipes.data.download.corpora import LOCAL, TxtDocuments
from recipes.data.download.shards import Compression
from recipes.errors import UserError

DEFAULT_SHARD_BYTES = 256_000_000


@dataclass(frozen=True)
class Options:
    """The options of a download; see `python -m tools.download --help`."""

    source: str
    out: Path
    inputs: Sequence[str] = ()
    max_bytes: int | None = None
    max_tokens: int | None = None
    tokenizer: Path | None = None
    mirror: Path | None = None
    revision: str | None = None
    files: str | None = None
    text_key: str | None = None
    id_key: str | None = None
    txt_documents: TxtDocuments | None = None
    shard_bytes: int = DEFAULT_SHARD_BYTES
    compress: Compression | None = None
    dry_run: bool = False
    force: bool = False


def check(options: Options) -> None:
    """Refuse settings that contradict each other or would be ignored.

    Raises:
        UserError: the message names the option, its value and the fix.
    """
    positive("--shard-bytes", options.shard_bytes)
    for name, value in (("--max-bytes", options.max_bytes), ("--max-tokens", options.max_tokens)):
        if value is not None:
            positive(name, value)
    if options.max_bytes is not None and options.max_tokens is not None:
        refuse("--max-tokens", options.max_tokens, "there is --max-bytes already: give one budget")
    if (options.max_tokens is None) != (options.tokenizer is None):
        raise UserError("--max-tokens and --tokenizer need each other: tokens are those of that tokenizer")
    if options.source == LOCAL:
        reason = "is not for source local"
        ignored = {"--mirror": options.mirror, "--revision": options.revision, "--files": options.files}
    else:
        reason = f"is for source local only; how {options.source} is read is known"
        ignored = {
            "--text-key": options.text_key,
            "--id-key": options.id_key,
            "--txt-documents": options.txt_documents,
        }
        if options.inputs:
            raise UserError(f"{options.inputs[0]}: files are for source local only, not {options.source}")
    for name, setting in ignored.items():
        if setting is not None:
            refuse(name, setting, reason)
    if options.mirror is not None and options.revision is not None:
        refuse("--revision", options.revision, "a mirror has one revision only: leave it out")
