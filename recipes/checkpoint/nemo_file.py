"""Writing and reading models in classic NeMo's .nemo layout."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch.distributed as dist
import yaml
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.models.gpt import GPTModel
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from recipes.checkpoint.archive import extract_archive, pack_archive
from recipes.checkpoint.disk import disk_errors, write_sharded
from recipes.checkpoint.nemo_config import from_nemo_config
from recipes.checkpoint.safety import check_metadata, load_plain, only_plain_data, reason, shown
from recipes.config.schema import ModelConfig
from recipes.config.validate_model import validate_model
from recipes.data.tokenizer import TextTokenizer, load_tokenizer
from recipes.errors import UserError
from recipes.model.accounting import kv_channels

WEIGHTS_DIR = "model_weights"
CONFIG_FILE = "model_config.yaml"
KEY_PREFIX = "model."
EMBEDDING_KEY = f"{KEY_PREFIX}embedding.word_embeddings.weight"
LAYERS_PREFIX = f"{KEY_PREFIX}decoder.layers."
LARGEST_CONFIG = 4_000_000


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
        with disk_errors(path, "nothing was left behind"):
            (staging / WEIGHTS_DIR).mkdir(parents=True)
    dist.barrier()
    try:
        with disk_errors(path, "nothing was left behind, checkpoints are untouched"):
            write_sharded(gpt.sharded_state_dict(prefix=KEY_PREFIX), staging / WEIGHTS_DIR)
            dist.barrier()
            if rank_zero:
                (staging / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
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
    shapes: dict[str, tuple[int, ...]]
    """Of the stored tensors, by name."""


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
    if not isinstance(stored, TensorStorageMetadata) or len(stored.size) != 2:
        raise UserError(f"{source}: its {EMBEDDING_KEY} is no table")
    if tokenizer.vocab_size > stored.size[0]:
        raise UserError(
            f"{source}: its tokenizer has {tokenizer.vocab_size} pieces, its embedding {stored.size[0]} rows"
        )
    model = from_nemo_config(config, tokenizer_vocab_size=tokenizer.vocab_size, stored_rows=stored.size[0])
    try:
        validate_model(model)
        _check_size(model, metadata.state_dict_metadata)
    except UserError as error:
        raise UserError(f"{source}: {CONFIG_FILE}: {error}") from None
    shapes = {
        key: tuple(item.size)
        for key, item in metadata.state_dict_metadata.items()
        if isinstance(item, TensorStorageMetadata)
    }
    return NemoModel(source, config, model, tokenizer, weights, shapes)


def _check_size(model: ModelConfig, stored: dict[str, Any]) -> None:
    """Depth and width are those of the stored tensors: nothing is built that could not be filled anyway."""
    rows, width = stored[EMBEDDING_KEY].size
    if width != model.hidden_size:
        raise UserError(f"hidden_size={model.hidden_size}, but the stored embedding is {rows} x {width}")
    numbered = set()
    for key, item in stored.items():
        if not isinstance(item, TensorStorageMetadata):
            continue
        if key.startswith(LAYERS_PREFIX):
            number = key.removeprefix(LAYERS_PREFIX).split(".")[0]
            if number.isdecimal():  # Layers of several kinds are stored one by one, equal ones stacked.
                numbered.add(number)
            elif item.size[0] != model.num_layers:
                raise UserError(
                    f"num_layers={model.num_layers}, but {key} is stored for {item.size[0]} layers"
                )
        for ending, (setting, value, axis) in _sizes_by_name(model).items():
            if key.endswith(ending) and (len(item.size) < max(1, -axis) or item.size[axis] != value):
                raise UserError(f"{setting}={value}, but {key} is {tuple(item.size)}")
    if numbered and len(numbered) != model.num_layers:
        raise UserError(f"num_layers={model.num_layers}, but {len(numbered)} layers are stored")


def _sizes_by_name(model: ModelConfig) -> dict[str, tuple[str, int | None, int]]:
    """Endings of names -> the setting that an axis of such a tensor shows."""
    heads = model.num_attention_heads * kv_channels(model)
    return {
        "mlp.linear_fc2.weight": ("ffn_hidden_size", model.ffn_hidden_size, -1),
        "self_attention.linear_proj.weight": ("num_attention_heads x kv_channels", heads, -1),
        "experts.experts.linear_fc2.weight": ("num_moe_experts", model.num_moe_experts, -3),
        "shared_experts.linear_fc2.weight": (
            "moe_shared_expert_intermediate_size",
            model.moe_shared_expert_intermediate_size,
            -1,
        ),
        "embedding.position_embeddings.weight": (
            "max_position_embeddings",
            model.max_position_embeddings,
            0,
        ),
    }


def read_config(path: Path) -> dict[str, Any]:
    """model_config.yaml as plain data; nothing in it is instantiated."""
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise UserError(
                f"{path.name} has {path.stat().st_size:,} bytes, more than any model's configuration"
            )
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: holds no {path.name}, so this is no .nemo") from None
    except UserError:
        raise
    except Exception as error:  # PyYAML lets what its constructors raise through: ValueError, KeyError ...
        raise UserError(f"{path.name} is not plain YAML: {reason(error)}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path.name} is not a mapping")
    return config


def _tokenizer_path(config: dict[str, Any], directory: Path) -> Path:
    section = config.get("tokenizer")
    if not isinstance(section, dict):
        raise UserError(f"{CONFIG_FILE}: tokenizer is no mapping")
    name = str(section.get("model") or "")
    if section.get("library") != "sentencepiece" or not name:
        library = shown(section.get("library"))
        raise UserError(f"tokenizer.library={library}: only SentencePiece models can be read so far")
    # The name comes from the file: only its last part is used, so that it cannot point elsewhere.
    return directory / PurePosixPath(name.removeprefix("nemo:")).name


def load_weights(nemo: NemoModel, gpt: GPTModel) -> None:
    """Fills ``gpt`` with the stored weights, resharded to the present layout.

    Raises:
        UserError: a tensor is missing or has another shape than the configuration says.
    """
    # Tensors only: Transformer Engine's extra state is a pickle, and without FP8 it is empty.
    everything = gpt.sharded_state_dict(prefix=KEY_PREFIX)
    state = {key: value for key, value in everything.items() if not isinstance(value, ShardedObject)}
    _compare(nemo, state)
    try:
        with only_plain_data():
            loaded = dist_checkpointing.load(state, str(nemo.weights))
    except (Exception, CheckpointException) as error:  # The latter is no Exception.
        raise UserError(
            f"{nemo.source}: its weights do not fit its configuration: {reason(error)}"
        ) from error
    weights = {key.removeprefix(KEY_PREFIX): value for key, value in loaded.items() if key in state}
    gpt.load_state_dict(weights, strict=len(state) == len(everything))


def _compare(nemo: NemoModel, wanted: dict[str, Any]) -> None:
    """The model's tensors and the stored ones are the same set, in the same shapes.

    A stored tensor that the built model has no place for means that it would compute something else.
    """
    stored = nemo.shapes
    for part in wanted.values():
        if part.key not in stored:
            raise UserError(f"{nemo.source}: {part.key} is missing, which its configuration asks for")
        shape = getattr(part, "global_shape", stored[part.key])  # Factories have none.
        if shape != stored[part.key]:
            raise UserError(
                f"{nemo.source}: {part.key} is {stored[part.key]}, its configuration asks for {tuple(shape)}"
            )
    unused = sorted(stored.keys() - {part.key for part in wanted.values()})
    if unused and parallel_state.get_pipeline_model_parallel_world_size() == 1:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise UserError(f"{nemo.source}: stores {unused[0]}{more}, which its configuration has no place for")
