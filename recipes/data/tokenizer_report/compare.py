"""Several tokenizers on several texts and on the built-in probes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.arguments import work_begins
from recipes.counts import counted
from recipes.data.text.compression import is_compressed
from recipes.data.text.documents import check_input, read_texts
from recipes.data.tokenizer.base import TextTokenizer
from recipes.data.tokenizer_report.measure import Measures, measure
from recipes.data.tokenizer_report.probes import PROBES
from recipes.errors import UserError
from recipes.report.figures import distinct_labels

DEFAULT_MAX_BYTES = 2_000_000


@dataclass(frozen=True)
class Comparison:
    """Measures by text or probe, then by tokenizer."""

    vocabularies: dict[str, int]
    """Tokenizer -> number of tokens, in the order given."""
    texts: dict[str, dict[str, Measures]]
    probes: dict[str, dict[str, Measures]]

    def as_dict(self) -> dict[str, Any]:
        def plain(measures: dict[str, dict[str, Measures]]) -> dict[str, Any]:
            return {
                text: {name: found.as_dict() for name, found in row.items()} for text, row in measures.items()
            }

        return {
            "vocabularies": self.vocabularies, "texts": plain(self.texts), "probes": plain(self.probes)
        }  # fmt: skip


def compare(
    tokenizers: Sequence[TextTokenizer],
    texts: Sequence[Path],
    *,
    max_bytes: int | None = DEFAULT_MAX_BYTES,
    text_key: str = "text",
    log: Callable[[str], None] = lambda message: None,
) -> Comparison:
    """Measures every tokenizer on the beginning of every text and on the probes.

    Args:
        tokenizers: called by the last part of their paths, or by the whole paths if that is ambiguous.
        texts: `.jsonl` or plain text, possibly compressed; called as by `label_of`.
        max_bytes: how much of each text is read, in whole documents; None: all of it.
        text_key: the key of the text in a line of JSON.
        log: is called with lines of progress.

    Raises:
        UserError: a text cannot be read or is empty, or a file is given twice.
    """
    for path in texts:
        check_input(path)
    work_begins()
    labels = distinct_labels([Path(tokenizer.name) for tokenizer in tokenizers], _tokenizer_label)
    named = dict(zip(labels, tokenizers, strict=True))
    measured: dict[str, dict[str, Measures]] = {}
    for label, path in zip(distinct_labels(texts, label_of), texts, strict=True):
        sample = list(_sample(path, text_key, max_bytes))
        log(f"{label}: {counted(len(sample), 'document')} of {path}")
        measured[label] = {name: measure(tokenizer, sample) for name, tokenizer in named.items()}
    return Comparison(
        vocabularies={name: tokenizer.vocab_size for name, tokenizer in named.items()},
        texts=measured,
        probes={
            probe: {name: measure(tokenizer, sentences) for name, tokenizer in named.items()}
            for probe, sentences in PROBES.items()
        },
    )


def label_of(path: Path) -> str:
    """What a text is called: `hi` for hi.jsonl, hi.jsonl.zst and train.hi.jsonl."""
    name = path.with_suffix("") if is_compressed(path) else path
    return name.stem.rsplit(".", 1)[-1] or path.name


def _tokenizer_label(path: Path) -> str:
    if path.name in ("tokenizer.json", "tokenizer.model"):
        return path.absolute().parent.name
    return path.stem if path.suffix == ".model" else path.name or str(path)


def _sample(path: Path, text_key: str, max_bytes: int | None) -> Iterator[str]:
    """The first documents, at least one."""
    read = 0
    for text in read_texts(path, text_key):
        if not text.strip():
            continue
        size = len(text.encode())
        if read and max_bytes is not None and read + size > max_bytes:
            return
        read += size
        yield text
    if not read:
        raise UserError(f"{path} has no usable text")
