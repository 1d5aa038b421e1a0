"""Writing a .nemo in classic NeMo's layout from the parts that all ranks hold."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from megatron.core.models.gpt import GPTModel

from recipes.checkpoint.formats.archive import pack_archive
from recipes.checkpoint.formats.torch_dist_writer import extra_state_keys, make_classic
from recipes.checkpoint.nemo.classic_config import CLASSIC_TARGET, stored_tokenizer_name
from recipes.checkpoint.save.disk import failure_of
from recipes.checkpoint.save.publish import discard_partial, new_partial
from recipes.checkpoint.save.ranks import raise_together
from recipes.checkpoint.save.sharded_save import write_sharded
from recipes.checkpoint.stored.stored_tokenizer import BESIDE
from recipes.data.tokenizer.file_names import CHAT_TEMPLATE, HUGGING_FACE, TOKENIZER_MODEL
from recipes.data.tokenizer.tokenizer_files import library_of, read_tokenizer_files

WEIGHTS_DIR = "model_weights"
CONFIG_FILE = "model_config.yaml"
KEY_PREFIX = "model."


def new_tokenizer_name(tokenizer_file: Path) -> str:
    """``<uuid>_<basename>``, as NeMo names artifacts; ``<uuid>_tokenizer`` for a directory."""
    if library_of(tokenizer_file) == HUGGING_FACE:
        return f"{uuid.uuid4().hex}_tokenizer"
    return f"{uuid.uuid4().hex}_{TOKENIZER_MODEL if tokenizer_file.is_dir() else tokenizer_file.name}"


def save_nemo(
    path: Path,
    gpt: GPTModel,
    config: dict[str, Any],
    tokenizer_file: Path,
    chat_template: str | None = None,
) -> None:
    """Writes a .nemo from the parts that all ranks hold; the file appears complete or not at all.

    ``config`` names the tokenizer as ``nemo:<name>``; it is stored under that name. ``tokenizer_file`` is
    what :func:`~recipes.data.tokenizer.load_tokenizer` loads; with ``chat_template``, the model's is stored
    with it.
    """
    advice = "nothing was left behind, checkpoints are untouched"
    staging = new_partial(path, advice, WEIGHTS_DIR)

    def pack() -> None:
        layers = config["num_layers"] if config["target"] == CLASSIC_TARGET else 0
        make_classic(staging / WEIGHTS_DIR, extra_state_keys(KEY_PREFIX, layers))
        (staging / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        name = stored_tokenizer_name(config["tokenizer"])
        files = read_tokenizer_files(tokenizer_file)
        stored = files.stored_as(name)
        if chat_template is not None:
            folder = name if files.library == HUGGING_FACE else BESIDE
            stored[f"{folder}/{CHAT_TEMPLATE}"] = chat_template.encode()
        for name, content in stored.items():
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_bytes(content)
        pack_archive(staging, path)

    try:
        write_sharded(gpt.sharded_state_dict(prefix=KEY_PREFIX), staging / WEIGHTS_DIR, path, advice)
        raise_together(failure_of(pack, path, advice) if dist.get_rank() == 0 else None)
    finally:
        discard_partial(staging)
