"""The index of benchmark n-grams, in the format that datatrove's NGramsDecontFilter reads.

datatrove's own indexer requires lighteval and its downloads; this one reads the tables of a mirror.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.decont import NGramsDecontConfig
from datatrove.utils.hashing import HashConfig, create_hash_func
from datatrove.utils.text import TextNormConfig, ngrams, simplify_text

from recipes.config.clean_schema import DecontaminationConfig
from recipes.data.benchmark_mirror import read_manifest, split_file
from recipes.data.clean.word_boundaries import ComparedWords
from recipes.data.text.compression import reading
from recipes.data.text.json_lines import BadRecord
from recipes.data.text.nfc import nfc
from recipes.data.text.parquet_rows import read_table
from recipes.errors import UserError
from recipes.files import atomic_write

# datatrove calls its default, xxhash, with text, which xxhash 4 refuses.
HASHES = HashConfig(precision=64, hash_fc="sha1")
# The default would strip vowel signs, virama and anusvara: कमल, कमाल and कमला would be the same word.
NORMALISATION = TextNormConfig(norm_unicode_diacritics=False)


def n_gram_config(n_grams: int) -> NGramsDecontConfig:
    """The settings that the index and the filter must share."""
    return NGramsDecontConfig(n_grams=n_grams, norm_config=NORMALISATION, hash_config=HASHES)


def selected_entries(config: DecontaminationConfig) -> list[str]:
    """The mirror's tables whose split is one of `config.splits`.

    Raises:
        UserError: there are none.
    """
    assert config.mirror is not None
    manifest = read_manifest(Path(config.mirror))
    entries = sorted(entry for entry in manifest if entry.rpartition("/")[2] in config.splits)
    if not entries:
        raise UserError(f"decontamination.splits={config.splits}: {config.mirror} has none of these splits")
    return entries


def write_index(config: DecontaminationConfig, folder: Path) -> dict[str, int]:
    """Writes one file of n-gram hashes per benchmark table.

    Returns:
        The number of distinct n-grams of each table; 0 if every row is shorter than `n_grams` words.
    """
    counts = {}
    for entry, hashes in _hashes(config):
        counts[entry] = len(hashes)
        path = folder / f"{entry}.index.hashes"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as stream:
            stream.write(np.array(sorted(hashes), dtype=HASHES.np_descr).tobytes())
    return counts


class BenchmarkText:
    """Finds in a text what a benchmark's table has word for word.

    Args:
        config: the mirror, and how many words in a row have to be equal.
    """

    def __init__(self, config: DecontaminationConfig) -> None:
        self.n_grams = config.n_grams
        self._hash_of, self._words = create_hash_func(HASHES), ComparedWords()
        self._tables = {number: entry for entry, hashes in _hashes(config) for number in hashes}

    def table_of(self, text: str) -> str | None:
        """The first table that has words of the text; None: there is none."""
        words = self._words.word_tokenize(simplify_text(nfc(text), NORMALISATION))
        found = (self._tables.get(self._hash_of(" ".join(words))) for words in ngrams(words, self.n_grams))
        return next((entry for entry in found if entry is not None), None)


def _hashes(config: DecontaminationConfig) -> Iterator[tuple[str, set[int]]]:
    """The n-grams of each benchmark table."""
    assert config.mirror is not None
    hash_of, words = create_hash_func(HASHES), ComparedWords()
    for entry in selected_entries(config):
        yield (
            entry,
            {
                hash_of(" ".join(n_gram))
                for text in _rows(split_file(Path(config.mirror), entry), config.ignore_fields)
                # Documents are NFC, which decomposes letters with a nukta; benchmarks come in either form.
                for n_gram in ngrams(
                    words.word_tokenize(simplify_text(nfc(text), NORMALISATION)), config.n_grams
                )
            },
        )


def _rows(path: Path, ignored: list[str]) -> Iterator[str]:
    """Each row's texts joined in the order of the columns: n-grams across question and answer count too."""
    with reading(path) as raw:
        for number, _, row in read_table(raw, str(path)):
            if isinstance(row, BadRecord):
                raise UserError(f"{path}: row {number + 1}: {row}")
            yield "\n".join(
                text for name, value in row.items() if name not in ignored for text in _texts(value)
            )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
