"""The fixtures' model written in further forms that NeMo has written, by code of our own."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor

from recipes.checkpoint.formats.archive import extract_archive
from tests.support.nemo_files import FIXTURES, MAIN

LAYERS, FFN = 4, 192
BY_ROWS = ("word_embeddings.weight", "output_layer.weight", "linear_qkv.weight", "query_key_value.weight")
BY_COLUMNS = (
    "linear_proj.weight",
    "linear_fc2.weight",
    "self_attention.dense.weight",
    "dense_4h_to_h.weight",
)
GATED = ("linear_fc1.weight", "dense_h_to_4h.weight")


def unpacked(directory: Path, fixture: Path = MAIN) -> Path:
    """The fixture's .nemo as a directory."""
    extract_archive(fixture / "model.nemo", directory)
    return directory


def local_state(directory: Path) -> dict[str, Tensor]:
    """The fixture's tensors under local layers' names, read by torch itself."""
    source = unpacked(directory, FIXTURES / "classic_local_single")
    state = torch.load(source / "model_weights.ckpt", weights_only=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def empty_model(directory: Path, **changes: object) -> Path:
    """The fixture without its weights: configuration (changed) and tokenizer."""
    source = unpacked(directory, FIXTURES / "classic_local_single")
    (source / "model_weights.ckpt").unlink()
    config = yaml.safe_load((source / "model_config.yaml").read_text())
    (source / "model_config.yaml").write_text(yaml.safe_dump({**config, **changes}))
    return source


def shard(name: str, tensor: Tensor, rank: int, ranks: int) -> Tensor:
    """What tensor-parallel ``rank`` holds."""
    if name.endswith(GATED):
        gate, up = tensor.chunk(2)
        return torch.cat([gate.chunk(ranks)[rank], up.chunk(ranks)[rank]])
    if name.endswith(BY_ROWS):
        return tensor.chunk(ranks)[rank].clone()
    if name.endswith(BY_COLUMNS):
        return tensor.chunk(ranks, dim=1)[rank].clone()
    return tensor.clone()


def rank_files(
    directory: Path, scratch: Path, tp: int, pp: int = 1, rename: Callable[[str], str] = str
) -> Path:
    """``mp_rank_NN`` or ``tp_rank_NN_pp_rank_NNN``, each stage counting its layers from 0."""
    state = local_state(scratch)
    # The yaml's sizes are those of the last training run, and need not be true of the files.
    empty_model(directory, tensor_model_parallel_size=1)
    per_stage = LAYERS // pp
    for stage in range(pp):
        for rank in range(tp):
            part = {}
            for name, tensor in state.items():
                if ".layers." in name:
                    number = int(name.split(".layers.")[1].split(".")[0])
                    if number // per_stage != stage:
                        continue
                    name = name.replace(f".layers.{number}.", f".layers.{number % per_stage}.")
                elif stage != (0 if "embedding" in name else pp - 1):
                    continue
                part[rename(name)] = shard(rename(name), tensor, rank, tp)
            folder = f"mp_rank_{rank:02d}" if pp == 1 else f"tp_rank_{rank:02d}_pp_rank_{stage:03d}"
            (directory / folder).mkdir()
            torch.save(part, directory / folder / "model_weights.ckpt")
    return directory


def legacy_name(name: str) -> str:
    """As NeMo's own GPT of before megatron-core called it (mcore_gpt: false)."""
    for new, old in (
        ("model.decoder.", "model.language_model.encoder."),
        ("model.embedding.", "model.language_model.embedding."),
        ("model.output_layer.", "model.language_model.output_layer."),
        ("self_attention.linear_qkv.", "self_attention.query_key_value."),
        ("self_attention.linear_proj.", "self_attention.dense."),
        ("pre_mlp_layernorm.", "post_attention_layernorm."),
        ("mlp.linear_fc1.", "mlp.dense_h_to_4h."),
        ("mlp.linear_fc2.", "mlp.dense_4h_to_h."),
    ):
        name = name.replace(new, old)
    return name


def zarr_directory(directory: Path, scratch: Path, dtype: torch.dtype, tp: int = 1) -> Path:
    """Stacked arrays under Transformer Engine's names; ``tp`` ranks' chunks; common.pt as megatron-core's."""
    fused = {
        "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
        "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
    }
    stacked: dict[str, dict[int, Tensor]] = {}
    for name, tensor in local_state(scratch).items():
        place = 0
        if ".layers." in name:
            head, rest = name.split(".layers.")
            number, rest = rest.split(".", 1)
            name, place = f"{head}.layers.{fused.get(rest, rest)}", int(number)
        stacked.setdefault(name, {})[place] = tensor
    empty_model(directory, nemo_version="1.23.0", dist_ckpt_format="zarr")
    weights = directory / "model_weights"
    weights.mkdir()
    torch.save({}, weights / "common.pt")
    (weights / "metadata.json").write_text(json.dumps({"sharded_backend": "zarr"}))
    for name, layers in stacked.items():
        tensor = torch.stack([layers[place] for place in sorted(layers)]).to(dtype)
        if ".layers." not in name:
            tensor = tensor[0]
        write_array(weights / name, tensor, _chunk(name, tensor, tp))
    return directory


def _chunk(name: str, tensor: Tensor, tp: int) -> list[int]:
    chunk = list(tensor.shape)
    if ".layers." in name:
        chunk[0] = 1
    if name.endswith(GATED):
        chunk[1] //= 2 * tp
    elif name.endswith(BY_ROWS):
        chunk[-2] //= tp
    elif name.endswith(BY_COLUMNS):
        chunk[-1] //= tp
    return chunk


def write_array(folder: Path, tensor: Tensor, chunk: list[int]) -> None:
    """One zarr v2 array without a compressor; bf16 with its non-standard name."""
    folder.mkdir()
    names = {torch.float32: "<f4", torch.bfloat16: "bfloat16"}
    (folder / ".zarray").write_text(
        json.dumps(
            {
                "chunks": chunk,
                "compressor": None,
                "dtype": names[tensor.dtype],
                "fill_value": None,
                "filters": None,
                "order": "C",
                "shape": list(tensor.shape),
                "zarr_format": 2,
            }
        )
    )
    counts = [side // step for side, step in zip(tensor.shape, chunk, strict=True)]
    for place in torch.cartesian_prod(*[torch.arange(count) for count in counts]).reshape(-1, len(counts)):
        box = tuple(slice(int(p) * c, (int(p) + 1) * c) for p, c in zip(place, chunk, strict=True))
        content = tensor[box].contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        (folder / ".".join(str(int(p)) for p in place)).write_bytes(content)


def compressed(source: Path, target: Path) -> Path:
    """A .nemo as NeMo's ``r:gz``."""
    target.write_bytes(gzip.compress(source.read_bytes(), compresslevel=1))
    return target
