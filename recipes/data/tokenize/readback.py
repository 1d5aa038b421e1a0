"""Read a finished data set back: does it hold what should have been written?"""

import random
from collections.abc import Sequence
from pathlib import Path

from recipes.counts import counted
from recipes.data.samples.indexed import DocumentReader
from recipes.data.tokenizer import TextTokenizer
from recipes.errors import UserError

_MOST_COMPARED = 16  # documents, including the first and the last


def read_back(
    bin_file: str | Path,
    idx_file: str | Path,
    tokenizer: TextTokenizer,
    samples: Sequence[tuple[int, str]],
    *,
    documents: int,
    tokens: int,
    append_bos: bool,
    append_eod: bool,
) -> str:
    """Read counts and some documents from the files and compare them with what went in.

    Each text is encoded again, on its own, whereas the writer encoded many at a time. The result, with BOS
    and EOS if they are added, must equal the tokens in the file.

    Args:
        bin_file: the tokens.
        idx_file: the lengths of the documents.
        tokenizer: the one that made the tokens.
        samples: numbers and NFC texts of documents.
        documents: the expected number of documents.
        tokens: the expected number of tokens.
        append_bos: whether each document begins with BOS.
        append_eod: whether each ends with EOS.

    Returns:
        What was compared, in words.

    Raises:
        UserError: something differs.
    """
    reader = DocumentReader(bin_file, idx_file)
    if (reader.documents, reader.tokens) != (documents, tokens):
        raise UserError(
            f"{bin_file} has {reader.documents} documents of {reader.tokens} tokens when read back, not "
            f"{documents} of {tokens}: the disk or the memory is faulty; run again, elsewhere"
        )
    chosen = sorted(samples)
    if len(chosen) > _MOST_COMPARED:
        inner = random.Random(tokens).sample(chosen[1:-1], _MOST_COMPARED - 2)
        chosen = [chosen[0], *sorted(inner), chosen[-1]]
    exact = 0
    for number, text in chosen:
        ids = tokenizer.encode(text)
        before = [tokenizer.bos_id] if append_bos else []
        after = [tokenizer.eos_id] if append_eod else []
        if reader[number].tolist() != [*before, *ids, *after]:
            raise UserError(
                f"document {number} of {bin_file} is not what was encoded, when read back: the disk or the "
                "memory is faulty; run again, elsewhere"
            )
        exact += tokenizer.decode(ids) == text
    return (
        f"read back {counted(len(chosen), 'document')}: tokens as encoded, {exact:,} decoded to the very text"
    )
