"""Directories from strangers: refused in one line that names the fault, nothing run."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.formats.lazy import whole
from recipes.checkpoint.formats.safetensors_file import read_safetensors
from recipes.checkpoint.huggingface.config import from_hf_config, to_hf_config
from recipes.checkpoint.huggingface.read import open_huggingface
from recipes.errors import UserError
from recipes.families.family import tensor_table
from recipes.families.model_config import ModelConfig

MODEL = ModelConfig(
    num_layers=2,
    hidden_size=8,
    ffn_hidden_size=6,
    num_attention_heads=2,
    num_query_groups=1,
    vocab_size=10,
    max_position_embeddings=16,
)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A sound directory."""
    path = tmp_path / "hf"
    path.mkdir()
    tensors = {
        name: torch.rand(shape)
        for spec in tensor_table(MODEL)
        for name, shape in zip(spec.theirs, spec.shapes(), strict=True)
    }
    save_file(tensors, path / WEIGHTS)
    config = to_hf_config(MODEL, dtype="float32", bos_id=1, eos_id=2, pad_id=None)
    (path / "config.json").write_text(json.dumps(config))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        for tensor in open_huggingface(path).tensors.values():
            tensor.load()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_sound(directory: Path) -> None:
    assert len(open_huggingface(directory).tensors) == len(tensor_table(MODEL))


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    header, numbers = header_of(content)
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def entry(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda content: with_header(content, lambda header: header[Q].update(changes))


def shifted(content: bytes) -> bytes:
    """Q lies where the next tensor does."""

    def change(header: dict[str, Any]) -> None:
        first, second = [name for name in header if name != "__metadata__"][:2]
        begin = header[second]["data_offsets"][0]
        size = header[first]["data_offsets"][1] - header[first]["data_offsets"][0]
        header[first]["data_offsets"] = [begin, begin + size]

    return with_header(content, change)


FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "bytes at 0 are asked for"),
    "short": (lambda content: content[:5], "bytes at 0 are asked for"),
    "truncated header": (lambda content: content[:40], "a header of .* bytes is impossible"),
    "truncated numbers": (lambda content: content[:-4], "damaged"),
    "longer": (lambda content: content + b"x", "holds .* bytes of numbers"),
    "huge header": (lambda content: b"\xff" * 8 + content[8:], "a header of .* bytes is impossible"),
    "no JSON": (lambda content: content[:8] + b"x" + content[9:], "not readable as JSON"),
    "deep JSON": (
        lambda content: (200_000).to_bytes(8, "little") + b"[" * 200_000 + content,
        "not readable as JSON|holds no JSON object",
    ),
    "list": (lambda content: (2).to_bytes(8, "little") + b"[]", "holds no JSON object"),
    "twice": (
        lambda content: (17).to_bytes(8, "little") + b'{"a":{}, "a":{}} ',
        "a key appears twice",
    ),
    "overlap": (shifted, "leaves a gap|overlaps"),
    "outside": (entry(data_offsets=[0, 10**12]), "does not fit its offsets"),
    "backwards": (entry(data_offsets=[256, 0]), "does not fit its offsets"),
    "negative": (entry(data_offsets=[-256, 0]), "is impossible"),
    "text offsets": (entry(data_offsets="ab"), "is impossible"),
    "huge shape": (entry(shape=[2**62, 2**62]), "does not fit its offsets"),
    "negative shape": (entry(shape=[-8, -8]), "is impossible"),
    "many axes": (entry(shape=[1] * 500), "is impossible"),
    "flag as size": (entry(shape=[True, 8]), "is impossible"),
    "unknown dtype": (entry(dtype="F8_E4M3"), "quantised"),
    "dtype of no text": (entry(dtype=["F32"]), "quantised"),
    "other dtype": (entry(dtype="F64"), "does not fit its offsets"),
    "integers": (entry(dtype="I32"), "weights must be fp32"),
    "extra key": (entry(code="x"), "is described by"),
    "other shape": (entry(shape=[4, 16]), rf"{Q} has the shape \(4, 16\)"),
}


@pytest.mark.parametrize("case", FILES)
def test_damaged_weights(case: str, directory: Path) -> None:
    change, message = FILES[case]
    (directory / WEIGHTS).write_bytes(change((directory / WEIGHTS).read_bytes()))
    assert re.search(message, refusal(directory))


def test_types_that_differ_inside_of_one_tensor(directory: Path) -> None:
    weights = load_file(directory / WEIGHTS)
    save_file(weights | {Q: weights[Q].bfloat16()}, directory / WEIGHTS)
    assert "is torch.float32, model.layers.0.self_attn.q_proj.weight is torch.bfloat16" in refusal(directory)


def test_missing_and_left_over_tensors(directory: Path) -> None:
    weights = load_file(directory / WEIGHTS)
    save_file({name: tensor for name, tensor in weights.items() if name != Q}, directory / WEIGHTS)
    assert f"{Q} is missing" in refusal(directory)
    save_file(weights | {"model.layers.0.self_attn.q_proj.bias": torch.ones(8)}, directory / WEIGHTS)
    assert "'model.layers.0.self_attn.q_proj.bias' is left over" in refusal(directory)


SHARDS: dict[str, tuple[Any, str]] = {
    "above": ("../secret.safetensors", "not the name of a file beside it"),
    "absolute": ("/etc/passwd.safetensors", "not the name of a file beside it"),
    "inside": ("a/../../secret.safetensors", "not the name of a file beside it"),
    "pickle": ("pytorch_model.bin", "not the name of a file beside it"),
    "zero": ("a\0.safetensors", "no such file"),
    "number": (7, "not the name of a file beside it"),
    "empty": ("", "not the name of a file beside it"),
    "missing": ("model-2.safetensors", "no such file"),
    "long": ("x" * 5000 + ".safetensors", "no such file"),
}


@pytest.mark.parametrize("case", SHARDS)
def test_hostile_index(case: str, directory: Path) -> None:
    shard, message = SHARDS[case]
    names = list(load_file(directory / WEIGHTS))
    (directory.parent / "secret.safetensors").write_bytes((directory / WEIGHTS).read_bytes())
    (directory / WEIGHTS).rename(directory / "model-1.safetensors")
    places = dict.fromkeys(names, "model-1.safetensors")
    (directory / INDEX).write_text(json.dumps({"weight_map": places}))
    open_huggingface(directory)
    (directory / INDEX).write_text(json.dumps({"weight_map": places | {names[0]: shard}}))
    assert message in refusal(directory)


def test_index_and_files_that_disagree(directory: Path) -> None:
    names = list(load_file(directory / WEIGHTS))
    (directory / WEIGHTS).rename(directory / "model-1.safetensors")
    for places, message in (
        (dict.fromkeys(names[1:], "model-1.safetensors"), f"{names[0]!r} is not where"),
        (dict.fromkeys([*names, "other"], "model-1.safetensors"), "'other' is missing"),
        ([], "weight_map is missing"),
        ({}, "weight_map is missing"),
    ):
        (directory / INDEX).write_text(json.dumps({"weight_map": places}))
        assert message in refusal(directory)


def test_pickled_weights_are_refused_with_a_way_out(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory / "pytorch_model.bin")
    assert "save the model with safetensors first" in refusal(directory)
    (directory / "pytorch_model.bin").unlink()
    assert f"holds neither {WEIGHTS} nor {INDEX}" in refusal(directory)


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"a": NaN', b"9" * 10_000])
def test_config_that_is_none(text: bytes, directory: Path) -> None:
    (directory / "config.json").write_bytes(text)
    assert "config.json" in refusal(directory)
    (directory / "config.json").unlink()
    assert "config.json: no such file" in refusal(directory)


VALUES: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2", None, ["llama"], {"a": 1}, 3),
    "num_hidden_layers": (0, -1, 10**12, 1.5, "2", True, [2], float("inf"), 1_999),
    "hidden_size": (0, 10**30, "8", None, 16),
    "vocab_size": (0, -5, 10**9, 11, 9, {}),
    "num_attention_heads": (0, 3, 2**31, "x"),
    "num_key_value_heads": (0, 3, 2**40, 2, []),
    "head_dim": (-4, 8, 2**20, "4"),
    "intermediate_size": (0, 7, None),
    "rms_norm_eps": (0, -1e-5, float("nan"), "1e-5", [1]),
    "rope_theta": ("10000", [1]),
    "rope_parameters": (
        {"rope_type": "yarn", "factor": 8.0},
        {"rope_theta": 0.5},
        {"rope_theta": 10000.5},
        {"rope_theta": 1e300},
        {"rope_theta": float("inf")},
        {"rope_theta": True},
        {"rope_type": ["default"]},
        [],
        "default",
    ),
    "rope_scaling": ({"type": "linear", "factor": 2.0}, {"factor": 2.0}, "linear"),
    "tie_word_embeddings": (1, "true", True),
    "hidden_act": ("gelu", 3),
    "attention_bias": (True, 0, "false"),
    "mlp_bias": (True,),
    "attention_dropout": (1.0, -0.1, "0"),
    "quantization_config": ({"bits": 4},),
    "pretraining_tp": (2, True),
}


@pytest.mark.parametrize("key", VALUES)
def test_hostile_values(key: str, directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    config.pop("rope_parameters") if key == "rope_theta" else None
    for value in VALUES[key]:
        (directory / "config.json").write_text(json.dumps(config | {key: value}))
        refusal(directory)


def test_more_heads_than_any_model_has(directory: Path) -> None:
    """Refused before anything is made for each."""
    config = json.loads((directory / "config.json").read_text())
    config |= {"num_attention_heads": 2**30, "num_key_value_heads": 2**30, "head_dim": 1}
    (directory / "config.json").write_text(json.dumps(config))
    assert "num_key_value_heads=1073741824 is more than any model has" in refusal(directory)


def test_hostile_expert_values() -> None:
    model = ModelConfig(**{**vars(MODEL), "num_moe_experts": 4, "qk_layernorm": True})
    config = to_hf_config(model, dtype="float32", bos_id=None, eos_id=None, pad_id=None)
    assert from_hf_config(config).num_moe_experts == 4
    assert from_hf_config(config | {"mlp_only_layers": [1]}).moe_layer_freq == 2
    for key, value in (
        ("num_experts", 10**9),
        ("num_experts_per_tok", 5),
        ("moe_intermediate_size", -1),
        ("mlp_only_layers", [0, 0]),
        ("mlp_only_layers", [7]),
        ("mlp_only_layers", "01"),
        ("mlp_only_layers", [10**12]),
        ("mlp_only_layers", [True]),
        ("norm_topk_prob", "yes"),
        ("decoder_sparse_step", 2),
    ):
        with pytest.raises(UserError, match=key):
            from_hf_config(config | {key: value})


def test_more_experts_than_weights(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "mixtral", "num_local_experts": 60_000, "num_experts_per_tok": 2}
    (directory / "config.json").write_text(json.dumps(config))
    assert "2 layers of 60000 experts" in refusal(directory)


def test_a_link_to_another_file_is_not_followed(directory: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password\n" * 100)
    (directory / WEIGHTS).unlink()
    (directory / WEIGHTS).symlink_to(secret)
    assert "is a link out of" in refusal(directory)


def test_random_damage(directory: Path) -> None:
    """Never anything but a refusal, or a flipped bit of a number."""
    generator = random.Random(1)
    for name in (WEIGHTS, "config.json"):
        sound = (directory / name).read_bytes()
        for _ in range(150):
            content = bytearray(sound)
            if generator.random() < 0.3:
                del content[generator.randrange(len(content)) :]
            else:
                for _ in range(generator.randrange(1, 4)):
                    place = generator.randrange(min(len(content), 2500))
                    content[place] ^= 1 << generator.randrange(8)
            (directory / name).write_bytes(content)
            try:
                for tensor in open_huggingface(directory).tensors.values():
                    tensor.load()
            except UserError as error:
                assert "\n" not in str(error)
        (directory / name).write_bytes(sound)


def damaged(header: dict[str, Any], generator: random.Random) -> None:
    """Changes an entry or two; some changes leave a sound header."""
    names = [name for name in header if name != "__metadata__"]
    first, second = generator.sample(names, 2)
    what = generator.choice(("shape", "data_offsets", "dtype", "both", "copy", "remove"))
    if what == "copy":
        header["another"] = dict(header[first])
    elif what == "remove":
        del header[first]
    elif what == "dtype":
        header[first]["dtype"] = generator.choice(("F64", "I32", "BF16", "F8_E4M3", "x"))
    elif what == "both":
        header[first], header[second] = header[second], header[first]
    elif generator.random() < 0.5:
        header[first][what], header[second][what] = header[second][what], header[first][what]
    else:
        numbers = list(header[first][what])
        place = generator.randrange(len(numbers))
        numbers[place] += generator.choice((-256, -8, -1, 1, 8, 256))
        header[first][what] = generator.choice((numbers, numbers[::-1], [*numbers, 1], numbers[1:]))


def test_nothing_is_read_that_the_safetensors_library_refuses(directory: Path) -> None:
    """Random damage to a header: what is read here, the library reads too, and with the same numbers."""
    generator = random.Random(2)
    path = directory / WEIGHTS
    sound = path.read_bytes()
    header_size = 8 + int.from_bytes(sound[:8], "little")
    read = refused = 0
    for number in range(1000):
        if number % 2:
            content = bytearray(with_header(sound, lambda header: damaged(header, generator)))
        else:
            content = bytearray(sound)
            content[generator.randrange(header_size)] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        try:
            found = read_safetensors(Blob(path, 0, len(content), str(path)))
        except UserError:
            refused += 1
            continue
        read += 1
        try:
            with safe_open(path, framework="pt") as library:
                assert set(library.keys()) == found.keys()
                for name, stored in found.items():
                    expected = library.get_tensor(name)
                    assert torch.equal(whole(name, stored).load().view(-1), expected.view(-1)), name
                    assert (stored.shape, stored.dtype) == (tuple(expected.shape), expected.dtype)
        except SafetensorError as error:
            pytest.fail(f"the library refuses it: {error}")
    assert read > 100 and refused > 500
