"""Whether the data and the tokenizer on disk fit the configuration, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recipes.checks import hub_hint, refuse
from recipes.config.phases import sources_in_use
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of
from recipes.data.samples.content import largest_id
from recipes.data.samples.indexed import DocumentReader, Sidecar, bin_path, idx_path, sidecar_path
from recipes.data.samples.source_files import SourceFiles, open_source, shown_path
from recipes.data.tokenizer import TextTokenizer, load_tokenizer
from recipes.errors import UserError
from recipes.families.model_config import AUTO


def check_inputs(config: PretrainConfig) -> TextTokenizer:
    """Checks every file that training reads; returns the tokenizer.

    Raises:
        UserError: with the key, the value and the fix.
    """
    sources = check_files(config)
    tokenizer = check_tokenizer(config, sources)
    if config.data.conversations:
        chat_template_of(sources)
    elif config.data.reset_attention_mask:
        _check_document_ends(sources, tokenizer)
    return tokenizer


def _check_document_ends(sources: dict[str, SourceFiles], tokenizer: TextTokenizer) -> None:
    """Documents end with the token by which they are told apart; of foreign data the first one is read."""
    for key, source in sources.items():
        for file in source.files:
            ends = file.append_eod
            if ends is None:
                first = DocumentReader(bin_path(file.prefix), idx_path(file.prefix))[0]
                ends = len(first) > 0 and int(first[-1]) == tokenizer.eos_id
            if not ends:
                refuse(
                    key,
                    file.prefix,
                    "its documents do not end with the tokenizer's end token, by which "
                    "data.reset_attention_mask=true tells them apart; run tools.preprocess without "
                    "--no-append-eod, or set it to false",
                )


def check_files(config: PretrainConfig) -> dict[str, SourceFiles]:
    """Checks every source and held-out set on disk; returns their files by key."""
    data = config.data
    if not data.train:
        raise UserError(
            "data.train={}: no training text; add sources, for example "
            "'data.train={en:{path:data/en,weight:0.75},hi:{path:data/hi,weight:0.25}}'"
        )
    sources = {}
    used = {f"data.train.{name}": data.train[name].path for name in sources_in_use(config)}
    for key, path in (used | {f"data.valid.{name}": path for name, path in data.valid.items()}).items():
        try:
            sources[key] = open_source(path)
        except UserError as error:
            raise UserError(f"{key}={shown_path(path)}: {error}") from None
    longest = max(segment.seq_length for segment in timeline_of(config).segments)
    for key, source in sources.items():
        if _holds_conversations(key, source, data.conversations):
            continue
        needed = (longest if key.startswith("data.train.") else data.seq_length) + 1
        if source.tokens < needed:
            refuse(key, source.path, f"holds {source.tokens:,} tokens, one sample needs {needed:,}; add text")
    return sources


def _holds_conversations(key: str, source: SourceFiles, wanted: bool) -> bool:
    """Whether that is what it holds; refuses anything else than what is wanted."""
    for file in source.files:
        if (file.answers_sha256 is not None) != wanted:
            what = "is not by tools.prepare_chats" if wanted else "holds conversations"
            refuse(key, file.prefix, f"{what}, and data.conversations={str(wanted).lower()}")
    return wanted


def chat_template_of(sources: Mapping[str, SourceFiles]) -> str:
    """The template that all conversations were written by: it is stored with the model.

    Raises:
        UserError: there are several.
    """
    first: Sidecar | None = None
    for key, source in sources.items():
        for file in source.files:
            first = first or file
            if file.chat_template != first.chat_template:
                refuse(key, file.prefix, f"was written by another chat template than {first.prefix}")
    assert first is not None and first.chat_template is not None
    return first.chat_template


def check_token_ids(config: PretrainConfig, cache_dir: Path) -> None:
    """Data whose tokenizer nobody knows hold no id beyond the model's vocabulary; padded rows do not count.

    What tools.preprocess wrote was made with the run's own tokenizer: :func:`check_tokenizer` compares them.

    Raises:
        UserError: with the largest id and the vocabulary's size.
    """
    for key, source in check_files(config).items():
        for file in source.files:
            if file.tokenizer_sha256 is not None:
                continue
            largest, size = largest_id(file, cache_dir), config.model.vocab_size
            if largest >= size:
                refuse(
                    key,
                    file.prefix,
                    f"holds the token id {largest:,}, model.vocab_size={size:,} allows 0 to {size - 1:,}; "
                    f"{sidecar_path(file.prefix)} is missing, which would say what tokenizer it was "
                    "made with",
                )


def check_tokenizer(config: PretrainConfig, sources: dict[str, SourceFiles]) -> TextTokenizer:
    """The tokenizer exists, fits the model's vocabulary, and is the one that the data was made with."""
    path = config.tokenizer.model
    if path is None:
        raise UserError("tokenizer.model=null: name the tokenizer that the data was made with")
    if not Path(path).exists():
        hub = hub_hint(path)
        refuse(
            "tokenizer.model",
            path,
            f"no such file; {hub or 'train one with python -m tools.train_tokenizer'}",
        )
    tokenizer = load_tokenizer(path)
    if tokenizer.vocab_size > config.model.vocab_size:
        refuse(
            "tokenizer.model",
            path,
            f"has {tokenizer.vocab_size:,} pieces, more than model.vocab_size={config.model.vocab_size:,}; "
            f"set model.vocab_size={AUTO}",
        )
    for key, source in sources.items():
        for file in source.files:
            if file.tokenizer_sha256 not in (None, tokenizer.sha256):
                refuse(key, file.prefix, f"was tokenized with another tokenizer than tokenizer.model={path}")
    return tokenizer
