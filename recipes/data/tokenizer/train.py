"""Training a tokenizer from text files: SentencePiece unigram or BPE, or byte-level BPE."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from recipes.arguments import work_begins
from recipes.checks import refuse
from recipes.console import Progress
from recipes.counts import size_in_words
from recipes.data.text.documents import check_input
from recipes.data.tokenizer import train_byte_bpe, train_sentencepiece
from recipes.data.tokenizer.base import TextTokenizer
from recipes.data.tokenizer.file_names import HUGGING_FACE
from recipes.data.tokenizer.load import RECORD_KIND, load_tokenizer
from recipes.data.tokenizer.outputs import DirectoryOutput, ModelOutput, Output
from recipes.data.tokenizer.sampling import budgets, sample_lines, survey, temperature_shares
from recipes.data.tokenizer.tokenizer_files import TokenizerFiles
from recipes.errors import UserError
from recipes.files import sha256_file

DEFAULT_MAX_BYTES = 100_000_000
ModelType = Literal["bpe", "unigram", "byte_bpe"]


def train_tokenizer(
    inputs: Sequence[str | Path],
    prefix: str | Path,
    vocab_size: int = 16000,
    model_type: ModelType = "bpe",
    max_bytes: int | None = DEFAULT_MAX_BYTES,
    weights: Sequence[float] | None = None,
    temperature: float | None = None,
    text_key: str = "text",
    force: bool = False,
    log: Callable[[str], None] = lambda message: None,
) -> TextTokenizer:
    """Train a tokenizer and write PREFIX.model, PREFIX.vocab and PREFIX.json, or for `byte_bpe` the directory
    PREFIX with tokenizer.json.

    Args:
        inputs: `.jsonl` files with a text per line, or plain text files, perhaps compressed; for
            `temperature` one per language.
        prefix: where to write, without suffix.
        vocab_size: number of tokens, the 256 bytes and the special tokens included.
        model_type: `bpe` or `unigram` (SentencePiece), or `byte_bpe`.
        max_bytes: use at most so many bytes of text in all, drawn from all of every input; None uses all.
        weights: one per input: the shares of text they get. The largest sample with these shares is taken.
        temperature: shares proportional to size^(1/temperature): 1 keeps the sizes' proportions, large
            values make all inputs equal. Instead of `weights`.
        text_key: where the text is in a line of JSON.
        force: replace an existing tokenizer. Without, one trained from the same inputs with the same
            settings is kept as it is.
        log: gets lines of progress.

    Raises:
        UserError: an input is missing, empty or malformed; the vocabulary does not fit; PREFIX exists.
    """
    _check(inputs, vocab_size, max_bytes, weights, temperature)
    output: Output = DirectoryOutput(prefix) if model_type == "byte_bpe" else ModelOutput(prefix)
    existing = output.existing()
    output.check()
    work_begins()
    asked = {
        "model_type": model_type,
        "vocab_size": vocab_size,
        "settings": train_byte_bpe.SETTINGS if model_type == "byte_bpe" else train_sentencepiece.SETTINGS,
        "max_bytes": max_bytes,
        "temperature": temperature,
        "text_key": text_key,
    }
    if existing and not force:
        if _asked_before(output.record()) != asked | {"inputs": _identities(inputs, weights)}:
            raise UserError(
                f"{', '.join(existing)} exists already: choose another name, or replace it with --force"
            )
        log(f"{output.path}: up to date")
        return load_tokenizer(output.path)
    output.prepare()

    sources = [survey(path, text_key) for path in inputs]
    shares = list(weights) if weights is not None else None
    for source, weight in zip(sources, weights or [1.0] * len(sources), strict=True):
        source.weight = weight
        log(f"{source.path}: {size_in_words(source.text_bytes)} of text")
    if temperature is not None:
        shares = temperature_shares(sources, temperature)
    limits = budgets(sources, shares, max_bytes)
    lines = _counted(sample_lines(sources, limits, text_key, ends=model_type == "byte_bpe"), sum(limits))

    if model_type == "byte_bpe":
        files = train_byte_bpe.train_byte_bpe(lines, vocab_size)
        tokenizer = TokenizerFiles(HUGGING_FACE, str(output.path), files).load()
    else:
        from recipes.data.tokenizer.sentencepiece_model import SentencePieceTokenizer

        model = train_sentencepiece.train_sentencepiece(lines, vocab_size, model_type, log)
        tokenizer = SentencePieceTokenizer(model, str(output.path))
        files = {"model": model, "vocab": tokenizer.to_vocab().encode()}
    record = {
        "kind": RECORD_KIND,
        "format": 1,
        **asked,
        "vocab_size": tokenizer.vocab_size,
        "model_sha256": tokenizer.sha256,
        "normalization": "NFC before encoding",
        "inputs": [asdict(source) for source in sources],
    }
    output.write(files, record)
    used = ", ".join(size_in_words(source.used_bytes) for source in sources)
    log(f"{output.path}: {model_type}, {tokenizer.vocab_size:,} tokens, trained on {used}")
    return tokenizer


def _check(
    inputs: Sequence[str | Path],
    vocab_size: int,
    max_bytes: int | None,
    weights: Sequence[float] | None,
    temperature: float | None,
) -> None:
    for path in inputs:
        check_input(path)
    if vocab_size < 1 or (max_bytes is not None and max_bytes < 1):
        raise UserError("the vocabulary size and the number of bytes must be positive")
    if weights is not None and (len(weights) != len(inputs) or not min(weights) > 0):
        raise UserError(f"give one positive weight per input: {len(inputs)} inputs, weights {list(weights)}")
    if temperature is None:
        return
    if weights is not None:
        refuse("--temperature", temperature, "the weights say the shares already; leave one of them out")
    if not 1 <= temperature <= 1e6:
        refuse("--temperature", temperature, "choose 1 (the sizes' own proportions) or more")


def _counted(lines: Iterator[str], size: float) -> Iterator[str]:
    """The lines, of about so many bytes in all, with progress as they are read."""
    with Progress(int(size), label="reading") as progress:
        for line in lines:
            progress.add(len(line.encode()))
            yield line


def _identities(inputs: Sequence[str | Path], weights: Sequence[float] | None) -> list[list[Any]]:
    found = []
    for path, weight in zip(inputs, weights or [1.0] * len(inputs), strict=True):
        found.append([str(path), sha256_file(path), weight])
    return found


def _asked_before(record: dict[str, Any]) -> dict[str, Any]:
    """What the tokenizer at the output was trained for."""
    keys = ("model_type", "vocab_size", "settings", "max_bytes", "temperature", "text_key")
    sources = [[source["path"], source["sha256"], source["weight"]] for source in record.get("inputs", [])]
    return {key: record.get(key) for key in keys} | {"inputs": sources}
