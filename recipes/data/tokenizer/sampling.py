"""Which text a tokenizer is trained on: lines of all inputs in the wanted shares, read as a stream."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.data.text.documents import check_input, read_texts
from recipes.errors import UserError
from recipes.files import sha256_file
from recipes.rounding import sum_in_order

_LONGEST_LINE = 16_000  # characters; 4 bytes each at most, within SentencePiece's max_sentence_length


@dataclass
class TrainingInput:
    """One input of a training, as its record has it."""

    path: str
    bytes: int
    sha256: str
    text_bytes: int
    """UTF-8 bytes of all of its lines."""
    used_bytes: int = 0
    """Those that training saw."""
    weight: float = 1.0


def survey(path: str | Path, text_key: str) -> TrainingInput:
    """Read an input once: every line of it is sound, and how much text there is.

    Raises:
        UserError: it is missing, malformed, or has no text.
    """
    size = check_input(path)
    text_bytes = sum(len(line.encode()) for text in read_texts(path, text_key) for line in lines_of(text))
    if not text_bytes:
        raise UserError(f"{path} has no usable text")
    return TrainingInput(str(path), size, sha256_file(path), text_bytes)


def budgets(
    sources: Sequence[TrainingInput], shares: Sequence[float] | None, max_bytes: int | None
) -> list[float]:
    """How many bytes to use of each input: the most that sizes, shares and `max_bytes` in all allow.

    No text is used twice: with shares, the input that is smallest for its share limits the others.
    """
    sizes = [source.text_bytes for source in sources]
    wanted = shares if shares is not None else [float(size) for size in sizes]
    unit = min(size / share for size, share in zip(sizes, wanted, strict=True))
    if max_bytes is not None:
        unit = min(unit, max_bytes / sum_in_order(wanted))
    return [unit * share for share in wanted]


def temperature_shares(sources: Sequence[TrainingInput], temperature: float) -> list[float]:
    """Shares proportional to size^(1/temperature), which sum to 1 (Conneau and Lample 2019, section 3.1)."""
    largest = max(source.text_bytes for source in sources)
    raised = [(source.text_bytes / largest) ** (1 / temperature) for source in sources]
    total = sum_in_order(raised)
    return [share / total for share in raised]


def sample_lines(
    sources: Sequence[TrainingInput], limits: Sequence[float], text_key: str, ends: bool = False
) -> Iterator[str]:
    """Lines of all inputs within their limits, counting them in `used_bytes`.

    Lines are drawn, not documents, so that a limit smaller than one long document is still used; at random,
    so that documents that alternate (by language, say) do not fall in step with it; with a fixed seed.
    """
    for source, limit in zip(sources, limits, strict=True):
        generator = random.Random(0)
        share = limit / source.text_bytes
        for text in read_texts(source.path, text_key):
            for line in lines_of(text, ends):
                # Without its end, as the survey counted.
                size = len(line.rstrip("\n").encode())
                if source.used_bytes + size <= limit and generator.random() <= share:
                    source.used_bytes += size
                    yield line


def lines_of(text: str, ends: bool = False) -> Iterator[str]:
    """The lines of a text that say something, cut at spaces where they are long; `ends`: with their newlines.

    SentencePiece gets none: each stays one token, its byte's. Otherwise pieces would grow across lines.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        if ends and number + 1 < len(lines):
            # What a paragraph ends with: blank lines are no lines of their own.
            blank = number + 1 < len(lines) - 1 and not lines[number + 1].strip()
            line += "\n\n" if blank else "\n"
        while len(line) > _LONGEST_LINE:
            cut = line.rfind(" ", 1, _LONGEST_LINE)
            cut = cut if cut > 0 else _LONGEST_LINE
            yield line[:cut]
            line = line[cut:]
        if line.strip():
            yield line
