"""Writing a .nemo in classic NeMo's layout, and filling a GPTModel from any stored model."""

from __future__ import annotations

import uuid
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.models.gpt import GPTModel

from recipes.checkpoint.formats.archive import pack_archive
from recipes.checkpoint.formats.names import leading_axes, name_at, names_of
from recipes.checkpoint.formats.torch_dist_writer import extra_state_keys, make_classic
from recipes.checkpoint.nemo.classic_config import CLASSIC_TARGET, stored_tokenizer_name
from recipes.checkpoint.save.disk import failure_of
from recipes.checkpoint.save.publish import discard_partial, new_partial
from recipes.checkpoint.save.ranks import raise_together
from recipes.checkpoint.save.sharded_save import write_sharded
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.data.tokenizer.file_names import HUGGING_FACE, TOKENIZER_MODEL
from recipes.data.tokenizer.tokenizer_files import library_of, read_tokenizer_files
from recipes.errors import UserError
from recipes.model.init import sharded_tensors

WEIGHTS_DIR = "model_weights"
CONFIG_FILE = "model_config.yaml"
KEY_PREFIX = "model."


def new_tokenizer_name(tokenizer_file: Path) -> str:
    """``<uuid>_<basename>``, as NeMo names artifacts; ``<uuid>_tokenizer`` for a directory."""
    if library_of(tokenizer_file) == HUGGING_FACE:
        return f"{uuid.uuid4().hex}_tokenizer"
    return f"{uuid.uuid4().hex}_{TOKENIZER_MODEL if tokenizer_file.is_dir() else tokenizer_file.name}"


def save_nemo(path: Path, gpt: GPTModel, config: dict[str, Any], tokenizer_file: Path) -> None:
    """Writes a .nemo from the parts that all ranks hold; the file appears complete or not at all.

    ``config`` names the tokenizer as ``nemo:<name>``; it is stored under that name. ``tokenizer_file`` is
    what :func:`~recipes.data.tokenizer.load_tokenizer` loads.
    """
    advice = "nothing was left behind, checkpoints are untouched"
    staging = new_partial(path, advice, WEIGHTS_DIR)

    def pack() -> None:
        layers = config["num_layers"] if config["target"] == CLASSIC_TARGET else 0
        make_classic(staging / WEIGHTS_DIR, extra_state_keys(KEY_PREFIX, layers))
        (staging / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        stored = read_tokenizer_files(tokenizer_file).stored_as(stored_tokenizer_name(config["tokenizer"]))
        for name, content in stored.items():
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_bytes(content)
        pack_archive(staging, path)

    try:
        write_sharded(gpt.sharded_state_dict(prefix=KEY_PREFIX), staging / WEIGHTS_DIR, path, advice)
        raise_together(failure_of(pack, path, advice) if dist.get_rank() == 0 else None)
    finally:
        discard_partial(staging)


@torch.no_grad()
def load_weights(source: StoredModel, gpt: GPTModel) -> None:
    """Fills ``gpt`` with this rank's part of the stored weights under the present layout.

    Raises:
        UserError: a tensor is missing or has another shape than the configuration says.
    """
    shards = list(sharded_tensors(gpt))
    _compare(source, shards)
    for shard in shards:
        assert shard.data is not None
        # Leading axes of a sharded key number layers and experts; a stored tensor is of one layer and expert.
        leading = leading_axes(shard.key)
        within = shard.global_offset[leading:]
        own = leading - shard.prepend_axis_num  # Leading axes that this rank's tensor has too.
        for place in product(*map(range, shard.local_shape[:own])):
            above = shard.global_offset[: leading - own]
            counted = tuple(a + b for a, b in zip(shard.global_offset[leading - own :], place, strict=False))
            tensor = source.tensors[name_at(shard.key, above + counted)]
            tensor.box(within, shard.local_shape[own:]).read_into(shard.data[place])


def _compare(source: StoredModel, shards: list[ShardedTensor]) -> None:
    """Checks that the model's tensors and the stored ones are the same set, in the same shapes.

    A stored tensor that has no place in the model means that the model would compute something else.
    """
    wanted: set[str] = set()
    for key, shape in {shard.key: tuple(shard.global_shape) for shard in shards}.items():
        asked = shape[leading_axes(key) :]
        for _, name in names_of(key, shape):
            wanted.add(name)
            if name not in source.tensors:
                raise UserError(f"{source.path}: {name} is missing, which its configuration asks for")
            if source.tensors[name].shape != asked:
                stored = source.tensors[name].shape
                raise UserError(f"{source.path}: {name} is {stored}, its configuration asks for {asked}")
    unused = sorted(source.tensors.keys() - wanted)
    if unused and parallel_state.get_pipeline_model_parallel_world_size() == 1:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise UserError(f"{source.path}: stores {unused[0]}{more}, which its configuration has no place for")
