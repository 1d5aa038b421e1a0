"""Stored models from strangers, of every kind: refused by name, nothing run, nothing written elsewhere."""

from __future__ import annotations

import io
import os
import pickle
import resource
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from recipes.checkpoint.formats.archive import pack_archive
from recipes.checkpoint.formats.safety import check_metadata
from recipes.checkpoint.open import open_stored_model
from recipes.errors import UserError
from tests.support.nemo_files import FIXTURES, read_tar, write_tar
from tests.support.stored_forms import rank_files, unpacked, zarr_directory

WEIGHTS = "model_weights.ckpt"


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it_ran"


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught, open_stored_model(path) as source:
        _ = source.model
        for tensor in source.tensors.values():
            tensor.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def single(tmp_path: Path) -> Path:
    return unpacked(tmp_path / "model", FIXTURES / "classic_te_single")


def nemo2(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "nemo2_local" / "ckpt", tmp_path / "model"))


@pytest.mark.parametrize("packed", [False, True])
def test_code_in_a_weights_file(packed: bool, tmp_path: Path, marker: Path) -> None:
    model = single(tmp_path)
    torch.save({"model.output_layer.weight": Runs(marker)}, model / WEIGHTS)
    if packed:
        pack_archive(model, tmp_path / "model.nemo")
        model = tmp_path / "model.nemo"
    message = refused(model)
    assert "system" in message and WEIGHTS in message and not marker.exists()
    torch.load(single(tmp_path / "again") / WEIGHTS, weights_only=False)  # The attack itself works:
    pickle.loads(pickle.dumps(Runs(marker)))
    assert marker.exists()


def test_code_in_an_extra_state(tmp_path: Path, marker: Path) -> None:
    """They are not looked at, but a pickle that names a function is hostile all the same."""
    model = single(tmp_path)
    torch.save({"model.decoder.layers.0.mlp.linear_fc1._extra_state": Runs(marker)}, model / WEIGHTS)
    assert "system" in refused(model) and not marker.exists()


def test_code_in_one_rank_of_many(tmp_path: Path, marker: Path) -> None:
    model = rank_files(tmp_path / "model", tmp_path / "scratch", tp=2, pp=2)
    torch.save({"a": Runs(marker)}, model / "tp_rank_01_pp_rank_001" / WEIGHTS)
    message = refused(model)
    assert "tp_rank_01_pp_rank_001" in message and "system" in message and not marker.exists()


def test_a_file_of_old_torch_is_refused(tmp_path: Path, marker: Path) -> None:
    """Before torch 1.6 a weights file was several pickles one after another."""
    model = single(tmp_path)
    torch.save({"a": Runs(marker)}, model / WEIGHTS, _use_new_zipfile_serialization=False)
    assert WEIGHTS in refused(model) and not marker.exists()
    (model / WEIGHTS).write_bytes(pickle.dumps(Runs(marker)))
    assert WEIGHTS in refused(model) and not marker.exists()


def test_extra_state_files_of_zarr_are_not_opened(tmp_path: Path, marker: Path) -> None:
    model = zarr_directory(tmp_path / "model", tmp_path / "scratch", torch.float32)
    folder = model / "model_weights" / "model.decoder.layers.mlp.linear_fc1._extra_state"
    folder.mkdir()
    (folder / "shard_0_4.pt").write_bytes(pickle.dumps(Runs(marker)))
    with open_stored_model(model) as source:
        assert source.skipped == 1 and len(source.tensors) == 27
        source.tensors["output_layer.weight"].load()
    assert not marker.exists()


@pytest.mark.parametrize("file", ["weights/.metadata", "weights/common.pt", "context/model.yaml"])
def test_code_in_nemo2(file: str, tmp_path: Path, marker: Path) -> None:
    model = nemo2(tmp_path)
    if file.endswith(".yaml"):
        (model / file).write_text(f"a: !!python/object/apply:os.system [\"touch '{marker}'\"]")
    elif file.endswith(".pt"):
        torch.save({"a": Runs(marker)}, model / file)
    else:
        (model / file).write_bytes(pickle.dumps(Runs(marker)))
    message = refused(model)
    assert Path(file).name in message and not marker.exists()
    assert "system" in message or "python/object" in message


def test_what_nemo2_names_is_not_instantiated(tmp_path: Path, marker: Path) -> None:
    """io.json is Fiddle's way to build objects; model.yaml's targets are only compared."""
    model = nemo2(tmp_path)
    (model / "context" / "io.json").write_text('{"target": "os.system"}')
    text = (model / "context" / "model.yaml").read_text()
    changed = text.replace("_target_: torch.nn.functional.silu", "_target_: os.system")
    assert changed != text
    with open_stored_model(model) as source:
        assert source.model.activation == "swiglu"
    (model / "context" / "model.yaml").write_text(changed)
    assert "os.system" in refused(model)


@pytest.mark.parametrize("name", ["../secret.model", "/etc/passwd"])
def test_a_tokenizer_of_nemo2_elsewhere_is_not_followed(name: str, tmp_path: Path) -> None:
    model = nemo2(tmp_path)
    (model / "context" / "tiny_sp.model").rename(model / "secret.model")
    path = model / "context" / "model.yaml"
    path.write_text(path.read_text().replace("model_path: tiny_sp.model", f"model_path: {name}"))
    assert "cannot read the tokenizer" in refused(model)


def test_a_state_for_a_class_is_refused(tmp_path: Path) -> None:
    """BUILD on a class would change it for the whole process, with nothing but plain data."""
    opcodes = b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n(N}X\x05\x00\x00\x00wrongK\x01stb."
    (tmp_path / ".metadata").write_bytes(opcodes)
    with pytest.raises(UserError, match="changes"):
        check_metadata(tmp_path)
    pickle.loads(opcodes)  # The attack itself works:
    from torch.distributed.checkpoint.metadata import Metadata

    assert Metadata.wrong == 1  # type: ignore[attr-defined]
    del Metadata.wrong  # type: ignore[attr-defined]


def test_a_memo_number_does_not_take_memory(tmp_path: Path) -> None:
    """The C unpickler allocates twice this number of pointers: 32 GB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / ".metadata").write_bytes(b"\x80\x02}r" + struct.pack("<I", 0x7FFFFFFF) + b".")
    with pytest.raises(UserError):
        check_metadata(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def rewritten(
    path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED
) -> None:
    """A torch file with its records changed."""
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    model = single(tmp_path)
    rewritten(model / WEIGHTS, lambda _, content: content, zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(model)


@pytest.mark.parametrize("kind", ["huge", "repeated", "negative", "other_storage"])
def test_tensors_beyond_their_bytes(kind: str, tmp_path: Path) -> None:
    model = single(tmp_path)
    numbers = torch.arange(12.0)
    torch.save({"model.output_layer.weight": numbers}, model / WEIGHTS)

    def change(name: str, content: bytes) -> bytes:
        if kind == "other_storage" and name.endswith("data/0"):
            return content[:-4]
        if not name.endswith("data.pkl"):
            return content
        # A shape is (12,) and its strides (1,): K is BININT1, J is BININT.
        new = {
            "huge": b"J" + struct.pack("<i", 2**30) + b"\x85",
            "repeated": b"J" + struct.pack("<i", 2**30) + b"\x85",
            "negative": b"J" + struct.pack("<i", -5) + b"\x85",
        }.get(kind)
        shape = b"K\x0c\x85"
        if new is not None:
            assert content.count(shape) == 1
            content = content.replace(shape, new)
        if kind == "repeated":
            content = content.replace(b"K\x01\x85", b"K\x00\x85")
        return content

    rewritten(model / WEIGHTS, change)
    message = refused(model)
    assert WEIGHTS in message and ("impossible" in message or "needs more" in message or "size" in message)


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    """GNU's sparse files: a header of 512 bytes can stand for terabytes of zeros."""
    files = read_tar(FIXTURES / "classic_te_single" / "model.nemo")
    path = write_tar(tmp_path / "model.nemo", files)
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        header = archive.getmember(f"./{WEIGHTS}").offset
    content[header + 156 : header + 157] = tarfile.GNUTYPE_SPARSE
    content[header + 483 : header + 495] = b"%011o\0" % 2**31  # Its real size.
    content[header + 148 : header + 156] = b" " * 8
    total = sum(content[header : header + 512])
    content[header + 148 : header + 156] = b"%06o\0 " % total
    path.write_bytes(content)
    message = refused(path)
    assert "sparse" in message or "no readable file" in message


def test_links_and_ways_out_of_archives(tmp_path: Path) -> None:
    for name, kind in (("../evil", tarfile.REGTYPE), ("./link", tarfile.SYMTYPE), ("/evil", tarfile.REGTYPE)):
        path = tmp_path / "evil.nemo"
        with tarfile.open(path, "w") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO())
        assert name in refused(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["evil.nemo"]


def test_a_training_checkpoints_common_state(tmp_path: Path, marker: Path) -> None:
    from recipes.checkpoint.save.manifest import write_manifest

    step = tmp_path / "step_00000001"
    shutil.copytree(FIXTURES / "nemo2_local" / "ckpt" / "weights", step)
    torch.save({"recipes": {"model": Runs(marker)}}, step / "common.pt")
    write_manifest(step)
    assert "common.pt" in refused(step) and not marker.exists()
    torch.save({"recipes": {"model": {"family": "llama", "num_layers": 4, "wrong": 1}}}, step / "common.pt")
    write_manifest(step)
    assert "wrong" in refused(step)


HOSTILE_OPTIONS: dict[str, Any] = {
    "config_logger_dir": "elsewhere",  # megatron-core makes it and writes configuration, weights and tokens.
    "fp8_quantizer_factory": "os.system",
    "fp4_quantizer_factory": "os.system",
    "grad_scale_func": "os.system",
    "activation_func": "os.system",
    "timers": 1,
    "attention_backend": "local",
    "cpu_offloading": True,
    "num_layers": 4,
    "rotary_interleaved": "yes",
    "softmax_scale": float("nan"),
    "softmax_type": "learnable",
    "no_rope_freq": [1, [2]],
    "a\nb": 1,
}


@pytest.mark.parametrize("place", ["recipes", "recipes.model", "common.pt"])
@pytest.mark.parametrize("option", HOSTILE_OPTIONS)
def test_options_for_megatron_core(option: str, place: str, tmp_path: Path) -> None:
    """A file sets those that change arithmetic, in values of their type, and no other."""
    from recipes.checkpoint.save.manifest import write_manifest

    value = str(tmp_path / "elsewhere") if option == "config_logger_dir" else HOSTILE_OPTIONS[option]
    megatron = {option: value}
    path = single(tmp_path)
    with open_stored_model(path) as source:
        description = {**vars(source.model), "megatron": megatron}
    if place == "common.pt":
        path = tmp_path / "step_00000001"
        shutil.copytree(FIXTURES / "nemo2_local" / "ckpt" / "weights", path)
        torch.save({"recipes": {"model": description}}, path / "common.pt")
        write_manifest(path)
    else:
        config = yaml.safe_load((path / "model_config.yaml").read_text())
        config["recipes"] = {"megatron": megatron} if place == "recipes" else {"model": description}
        (path / "model_config.yaml").write_text(yaml.safe_dump(config))
    before = sorted(tmp_path.rglob("*"))
    assert f"megatron.{option!r}" in (message := refused(path)) or f"megatron.{option}=" in message
    assert sorted(tmp_path.rglob("*")) == before


def test_options_that_change_arithmetic_are_taken(tmp_path: Path) -> None:
    path = single(tmp_path)
    config = yaml.safe_load((path / "model_config.yaml").read_text())
    megatron = {"rotary_interleaved": True, "softmax_scale": 0.3, "no_rope_freq": [0, 1, 0, 1]}
    (path / "model_config.yaml").write_text(yaml.safe_dump({**config, "recipes": {"megatron": megatron}}))
    with open_stored_model(path) as source:
        assert source.model.megatron == megatron


def test_another_start_of_documents(tmp_path: Path) -> None:
    path = single(tmp_path)
    config = yaml.safe_load((path / "model_config.yaml").read_text())
    config["recipes"] = {"document_start": ["bos"]}
    (path / "model_config.yaml").write_text(yaml.safe_dump(config))
    with (
        open_stored_model(path) as source,
        pytest.raises(UserError, match=r"document_start=\['bos'\] is neither"),
    ):
        _ = source.document_start
