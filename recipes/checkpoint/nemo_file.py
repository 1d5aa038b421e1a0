"""Writing and reading models in classic NeMo's .nemo layout."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.models.gpt import GPTModel

from recipes.checkpoint.archive import extract_archive, pack_archive
from recipes.checkpoint.nemo_config import from_nemo_config
from recipes.checkpoint.safety import check_metadata, load_plain
from recipes.config.schema import ModelConfig
from recipes.data.tokenizer import TextTokenizer, load_tokenizer
from recipes.errors import UserError

WEIGHTS_DIR = "model_weights"
CONFIG_FILE = "model_config.yaml"
KEY_PREFIX = "model."
EMBEDDING_KEY = f"{KEY_PREFIX}embedding.word_embeddings.weight"


def new_tokenizer_name(tokenizer_file: Path) -> str:
    """``<uuid>_<basename>``, as NeMo names artifacts."""
    return f"{uuid.uuid4().hex}_{tokenizer_file.name}"


def save_nemo(path: Path, gpt: GPTModel, config: dict[str, Any], tokenizer_file: Path) -> None:
    """Writes a .nemo from the parts that all ranks hold; the file appears whole or not at all.

    ``config`` names the tokenizer as ``nemo:<name>``; it is stored under that name.
    """
    rank_zero = dist.get_rank() == 0
    staging = path.with_name(f".{path.name}.partial")
    if rank_zero:
        shutil.rmtree(staging, ignore_errors=True)
        (staging / WEIGHTS_DIR).mkdir(parents=True)
    dist.barrier()
    try:
        dist_checkpointing.save(
            gpt.sharded_state_dict(prefix=KEY_PREFIX),
            str(staging / WEIGHTS_DIR),
            TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1),
        )
        dist.barrier()
        if rank_zero:
            (staging / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False))
            name = config["tokenizer"]["model"].removeprefix("nemo:")
            shutil.copyfile(tokenizer_file, staging / name)
            pack_archive(staging, path)
    finally:
        if rank_zero:
            shutil.rmtree(staging, ignore_errors=True)
    dist.barrier()


@dataclass(frozen=True)
class NemoModel:
    """An opened .nemo: what it describes, and where its weights lie."""

    source: Path
    config: dict[str, Any]
    model: ModelConfig
    tokenizer: TextTokenizer
    weights: Path


@contextmanager
def open_nemo(path: Path) -> Iterator[NemoModel]:
    """Opens a .nemo file, unpacked into a temporary directory, or an extracted directory as it is.

    Raises:
        UserError: hostile, damaged, or of a kind that cannot be read.
    """
    if path.is_dir():
        yield _read_directory(path, path)
        return
    with tempfile.TemporaryDirectory(prefix="nemo_") as temporary:
        directory = Path(temporary) / "model"
        extract_archive(path, directory)
        yield _read_directory(directory, path)


def _read_directory(directory: Path, source: Path) -> NemoModel:
    config = read_config(directory / CONFIG_FILE)
    tokenizer = load_tokenizer(_tokenizer_path(config, directory))
    weights = directory / WEIGHTS_DIR
    if not (weights / ".metadata").is_file():
        raise UserError(
            f"{source}: its weights are not in torch_dist format ({WEIGHTS_DIR}/.metadata is missing); "
            "only that format can be read so far"
        )
    metadata = check_metadata(weights)
    load_plain(weights / "common.pt")
    stored = metadata.state_dict_metadata.get(EMBEDDING_KEY)
    if stored is None:
        raise UserError(f"{source}: its weights hold no {EMBEDDING_KEY}, so this is no GPT model of NeMo's")
    model = from_nemo_config(config, tokenizer_vocab_size=tokenizer.vocab_size, stored_rows=stored.size[0])
    return NemoModel(source=source, config=config, model=model, tokenizer=tokenizer, weights=weights)


def read_config(path: Path) -> dict[str, Any]:
    """model_config.yaml as plain data; nothing in it is instantiated."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: holds no {path.name}, so this is no .nemo") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} is not plain YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path.name} is not a mapping")
    return config


def _tokenizer_path(config: dict[str, Any], directory: Path) -> Path:
    section = config.get("tokenizer") or {}
    name = str(section.get("model") or "")
    if section.get("library") != "sentencepiece" or not name:
        raise UserError(f"tokenizer.library={section.get('library')}: only SentencePiece models can be read so far")
    # The name comes from the file: only its last part is used, so that it cannot point elsewhere.
    return directory / Path(name.removeprefix("nemo:")).name


def load_weights(nemo: NemoModel, gpt: GPTModel) -> None:
    """Fills ``gpt`` with the stored weights, resharded to the present layout.

    Raises:
        UserError: a tensor is missing or has another shape than the configuration says.
    """
    state = gpt.sharded_state_dict(prefix=KEY_PREFIX)
    try:
        loaded = dist_checkpointing.load(state, str(nemo.weights))
    except Exception as error:
        raise UserError(f"{nemo.source}: its weights do not fit its configuration: {_last_line(error)}") from error
    gpt.load_state_dict({key.removeprefix(KEY_PREFIX): value for key, value in loaded.items() if key in state})


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
