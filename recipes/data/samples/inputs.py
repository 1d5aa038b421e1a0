"""Whether the data and the tokenizer on disk fit the configuration, before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from recipes.checks import hub_hint, refuse
from recipes.config.data_schema import DataConfig
from recipes.config.phases import sources_in_use
from recipes.config.schema import PretrainConfig
from recipes.data.samples.content import largest_id
from recipes.data.samples.indexed import Sidecar, check_prefix, sidecar_path
from recipes.data.tokenizer import load_tokenizer
from recipes.errors import UserError


def check_inputs(config: PretrainConfig) -> None:
    """Checks every file that training reads.

    Raises:
        UserError: with the key, the value and the fix.
    """
    check_tokenizer(config, check_files(config.data))


def check_files(data: DataConfig) -> dict[str, Sidecar]:
    """Checks every source and held-out set on disk; returns their sidecars by name."""
    if not data.train:
        raise UserError(
            "data.train={}: no training text; add sources, for example "
            "'data.train={en:{path:data/en,weight:0.75},hi:{path:data/hi,weight:0.25}}'"
        )
    sidecars = {}
    used = {f"data.train.{name}": data.train[name].path for name in sources_in_use(data)}
    for key, path in (used | {f"data.valid.{name}": path for name, path in data.valid.items()}).items():
        try:
            sidecars[key] = check_prefix(path)
        except UserError as error:
            raise UserError(f"{key}={path}: {error}") from None
    for key, sidecar in sidecars.items():
        needed = data.seq_length + 1
        if sidecar.tokens < needed:
            refuse(
                key, sidecar.prefix, f"holds {sidecar.tokens:,} tokens, one sample needs {needed:,}; add text"
            )
    return sidecars


def check_token_ids(config: PretrainConfig, cache_dir: Path) -> None:
    """Data whose tokenizer nobody knows hold no id beyond the model's vocabulary; padded rows do not count.

    What tools.preprocess wrote was made with the run's own tokenizer: :func:`check_tokenizer` compares them.

    Raises:
        UserError: with the largest id and the vocabulary's size.
    """
    for key, sidecar in check_files(config.data).items():
        if sidecar.tokenizer_sha256 is not None:
            continue
        largest, size = largest_id(sidecar, cache_dir), config.model.vocab_size
        if largest >= size:
            refuse(
                key,
                sidecar.prefix,
                f"holds the token id {largest:,}, model.vocab_size={size:,} allows 0 to {size - 1:,}; "
                f"{sidecar_path(sidecar.prefix)} is missing, which would say what tokenizer it was made with",
            )


def check_tokenizer(config: PretrainConfig, sidecars: dict[str, Sidecar]) -> None:
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
            f"set model.vocab_size={tokenizer.vocab_size:,}",
        )
    for key, sidecar in sidecars.items():
        if sidecar.tokenizer_sha256 is not None and sidecar.tokenizer_sha256 != tokenizer.sha256:
            refuse(key, sidecar.prefix, f"was tokenized with another tokenizer than tokenizer.model={path}")
