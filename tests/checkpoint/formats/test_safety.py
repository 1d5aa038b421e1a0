"""Checkpoints from strangers: nothing in them runs, and damage is one line."""

from __future__ import annotations

import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    TensorProperties,
    TensorStorageMetadata,
)

from recipes.checkpoint.formats.archive import extract_archive
from recipes.checkpoint.formats.safety import check_metadata, load_plain, only_plain_data
from recipes.checkpoint.open import open_stored_model
from recipes.errors import UserError
from recipes.inference.text_model import load_text_model
from tests.support.nemo_files import COMMON, CONFIG, MAIN, METADATA, changed, read_tar, write_tar


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def load(path: Path) -> None:
    load_text_model(str(path), precision="fp32", num_threads=1)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def torch_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it_ran"


def test_the_attack_works_on_an_unguarded_reader(marker: Path) -> None:
    pickle.loads(pickle.dumps(Runs(marker)))
    assert marker.exists(), "the tests below would prove nothing"


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_in_metadata_does_not_run(protocol: int, tmp_path: Path, marker: Path) -> None:
    evil = changed(
        MAIN / "model.nemo", tmp_path / "evil.nemo", METADATA, lambda _: pickle.dumps(Runs(marker), protocol)
    )
    assert ".metadata" in (message := refused(evil)) and "system" in message
    assert not marker.exists()


def test_code_hidden_deep_in_real_metadata_does_not_run(tmp_path: Path, marker: Path) -> None:
    def plant(content: bytes) -> bytes:
        metadata = pickle.loads(content)
        metadata.planner_data = {"x": [Runs(marker)]}
        return pickle.dumps(metadata)

    assert "system" in refused(changed(MAIN / "model.nemo", tmp_path / "evil.nemo", METADATA, plant))
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    ["builtins.eval", "builtins.setattr", "torch.load", "torch.hub.load", "pathlib.os.system", "os.system"],
)
def test_dotted_and_other_callables_are_refused(name: str, tmp_path: Path) -> None:
    module, _, attribute = name.partition(".") if name.count(".") == 1 else name.rpartition(".")
    if name == "pathlib.os.system":
        module, attribute = "pathlib", "os.system"  # Protocol 4 resolves dots.
    opcodes = b"\x80\x04" + b"\x8c" + bytes([len(module)]) + module.encode()
    opcodes += b"\x8c" + bytes([len(attribute)]) + attribute.encode() + b"\x93."
    pickle.loads(opcodes)  # It is a real name.
    (tmp_path / ".metadata").write_bytes(opcodes)
    with pytest.raises(UserError, match=module):
        check_metadata(tmp_path)


def test_code_in_common_pt_does_not_run(tmp_path: Path, marker: Path) -> None:
    evil = changed(
        MAIN / "model.nemo", tmp_path / "evil.nemo", COMMON, lambda _: torch_bytes({"a": Runs(marker)})
    )
    assert "common.pt" in refused(evil)
    raw = changed(MAIN / "model.nemo", tmp_path / "raw.nemo", COMMON, lambda _: pickle.dumps(Runs(marker)))
    assert "common.pt" in refused(raw)
    assert not marker.exists()


def with_metadata(tmp_path: Path, edit: Any) -> Path:
    """The fixture with its metadata object changed by ``edit(metadata)``."""

    def change(content: bytes) -> bytes:
        metadata = pickle.loads(content)
        edit(metadata)
        return pickle.dumps(metadata)

    return changed(MAIN / "model.nemo", tmp_path / "edited.nemo", METADATA, change)


def test_a_pickle_in_the_place_of_a_tensor_does_not_run(tmp_path: Path, marker: Path) -> None:
    """torch reads such objects with weights_only=False: the tensor's entry says it is one."""
    files = read_tar(MAIN / "model.nemo")
    metadata = pickle.loads(files[METADATA])
    key = "model.output_layer.weight"
    (index,) = [index for index in metadata.storage_data if index.fqn == key]
    payload = torch_bytes(Runs(marker))
    storage = metadata.storage_data[index]
    path = f"./model_weights/{storage.relative_path}"
    storage.offset, storage.length = len(files[path]), len(payload)
    files[path] += payload
    metadata.state_dict_metadata[key] = BytesStorageMetadata()
    files[METADATA] = pickle.dumps(metadata)
    refused(write_tar(tmp_path / "evil.nemo", files))
    assert not marker.exists()


def test_within_only_plain_data_torch_runs_no_pickles(marker: Path) -> None:
    with only_plain_data(), pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(torch_bytes(Runs(marker))), weights_only=False)
    assert not marker.exists()
    torch.load(io.BytesIO(torch_bytes(Runs(marker))), weights_only=False)
    assert marker.exists(), "outside it changes nothing"


def test_a_tensor_that_runs_code_does_not(tmp_path: Path, marker: Path) -> None:
    files = read_tar(MAIN / "model.nemo")
    metadata = pickle.loads(files[METADATA])
    payload = torch_bytes(Runs(marker))
    for index, storage in metadata.storage_data.items():
        if index.fqn == "model.output_layer.weight":
            path = f"./model_weights/{storage.relative_path}"
            storage.offset, storage.length = len(files[path]), len(payload)
            files[path] += payload
    files[METADATA] = pickle.dumps(metadata)
    refused(write_tar(tmp_path / "evil.nemo", files))
    assert not marker.exists()


def test_paths_in_metadata_lead_nowhere(tmp_path: Path) -> None:
    """A chunk's file lies beside the metadata: another is not opened."""

    def edit(metadata: Any) -> None:
        for storage in metadata.storage_data.values():
            storage.relative_path = "../../../../../../etc/passwd"

    assert "lies outside" in refused(with_metadata(tmp_path, edit))


def test_declared_sizes_are_checked_before_anything_is_allocated(tmp_path: Path) -> None:
    def edit(metadata: Any) -> None:
        size = torch.Size([2**40, 64])
        metadata.state_dict_metadata["model.embedding.word_embeddings.weight"] = TensorStorageMetadata(
            TensorProperties(dtype=torch.float32), size, [ChunkStorageMetadata(torch.Size([0, 0]), size)]
        )

    assert "bytes" in refused(with_metadata(tmp_path, edit))


@pytest.mark.parametrize("value", [[], {}, None, "x", 5, {"state_dict_metadata": 1}])
def test_metadata_of_something_else(value: Any, tmp_path: Path) -> None:
    refused(changed(MAIN / "model.nemo", tmp_path / "x.nemo", METADATA, lambda _: pickle.dumps(value)))


YAML = {
    "python_object": "a: !!python/object/apply:os.system ['touch {marker}']",
    "python_name": "a: !!python/name:os.system",
    "not_a_mapping": "[1, 2]",
    "empty": "",
    "bad_int": "a: !!int ''",
    "bad_timestamp": "a: 2001-99-99",
    "bad_bool": "a: !!bool perhaps",
    "deep": "a: " + "[" * 5000 + "]" * 5000,
    "not_utf8": "a: \udcff",
    "control": "a: \x00",
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_is_plain_data_or_refused(name: str, tmp_path: Path, marker: Path) -> None:
    content = YAML[name].replace("{marker}", str(marker)).encode("utf-8", "surrogateescape")
    refused(changed(MAIN / "model.nemo", tmp_path / "evil.nemo", CONFIG, lambda _: content))
    assert not marker.exists()


def test_yaml_that_grows_without_end_is_shown_short(tmp_path: Path) -> None:
    """Ten levels of ten references: 10 GB if it were printed."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 10)]
    for key in (
        "transformer_block_type",
        "activation",
        "num_layers",
        "tokenizer",
        "recipes",
        "normalization",
    ):
        bomb = "\n".join([*lines, f"{key}: *a9", ""])

        def plant(content: bytes, key: str = key, bomb: str = bomb) -> bytes:
            kept, skipping = [], False
            for line in content.decode().splitlines():
                skipping = line.startswith(f"{key}:") or (skipping and line.startswith(" "))
                if not skipping:
                    kept.append(line)
            return (bomb + "\n".join(kept) + "\n").encode()

        message = refused(changed(MAIN / "model.nemo", tmp_path / f"{key}.nemo", CONFIG, plant))
        assert len(message) < 600 and key in message


def test_a_huge_configuration_is_not_parsed(tmp_path: Path) -> None:
    path = changed(MAIN / "model.nemo", tmp_path / "x.nemo", CONFIG, lambda c: c + b"#" * 5_000_000)
    assert "bytes" in refused(path)


@pytest.mark.parametrize(
    "name", ["nemo:../../secret.model", "/{outside}/secret.model", "nemo:{outside}/secret.model"]
)
def test_a_tokenizer_elsewhere_is_not_followed(name: str, tmp_path: Path) -> None:
    """The real tokenizer lies where the path points; it must not be read from there."""
    files = read_tar(MAIN / "model.nemo")
    (tokenizer,) = [member for member in files if member.endswith("_tiny_sp.model")]
    (tmp_path / "secret.model").write_bytes(files.pop(tokenizer))
    target = name.replace("{outside}", str(tmp_path).lstrip("/") if name.startswith("/") else str(tmp_path))
    files[CONFIG] = files[CONFIG].replace(f"nemo:{tokenizer[2:]}".encode(), target.encode())
    path = write_tar(tmp_path / "evil.nemo", files)
    assert "cannot read the tokenizer" in refused(path)
    (tmp_path / "deep").mkdir()
    extract_archive(path, tmp_path / "deep" / "extracted")
    assert "cannot read the tokenizer" in refused(tmp_path / "deep" / "extracted")


def test_links_in_an_extracted_directory_are_the_users_own(tmp_path: Path) -> None:
    """A directory on one's own disk may be linked together; only archives may not hold links."""
    extract_archive(MAIN / "model.nemo", tmp_path / "extracted")
    (tmp_path / "linked").symlink_to(tmp_path / "extracted")
    with open_stored_model(tmp_path / "linked") as source:
        assert source.model.num_layers == 4


def test_missing_and_damaged_tokenizer(tmp_path: Path) -> None:
    files = read_tar(MAIN / "model.nemo")
    (tokenizer,) = [member for member in files if member.endswith("_tiny_sp.model")]
    half = write_tar(tmp_path / "half.nemo", {**files, tokenizer: files[tokenizer][:3000]})
    assert "SentencePiece" in refused(half)
    assert "tokenizer" in refused(
        write_tar(tmp_path / "none.nemo", {k: v for k, v in files.items() if k != tokenizer})
    )


@pytest.mark.parametrize("member", [METADATA, CONFIG, COMMON])
def test_fuzz(member: str, tmp_path: Path) -> None:
    """Bit flips and truncations: a model or one line, never another exception, never long."""
    extract_archive(MAIN / "model.nemo", tmp_path / "model")
    path = tmp_path / "model" / member
    content = path.read_bytes()
    generator = random.Random(f"fuzz {member}")
    outcomes = {"read": 0, "refused": 0}
    for case in range(70):
        broken = bytearray(content)
        if case % 5 == 4:
            broken = broken[: generator.randrange(len(broken))]
        for _ in range(generator.choice([1, 1, 2, 8])):
            if broken:
                broken[generator.randrange(len(broken))] ^= 1 << generator.randrange(8)
        path.write_bytes(broken)
        try:
            load(tmp_path / "model")
            outcomes["read"] += 1
        except UserError as error:
            assert "\n" not in str(error), (case, str(error))
            outcomes["refused"] += 1
    assert outcomes["refused"] > 5, outcomes


def test_fuzzed_weights(tmp_path: Path) -> None:
    """Damage in the tensors' own zip archives."""
    extract_archive(MAIN / "model.nemo", tmp_path / "model")
    path = tmp_path / "model" / "model_weights" / "__0_0.distcp"
    content = path.read_bytes()
    generator = random.Random(7)
    refusals = 0
    for case in range(40):
        broken = bytearray(content)
        if case % 2:
            broken = broken[: generator.randrange(len(broken))]
        else:
            for _ in range(200):
                broken[generator.randrange(len(broken))] ^= 1 << generator.randrange(8)
        path.write_bytes(broken)
        try:
            load(tmp_path / "model")
        except UserError as error:
            assert "\n" not in str(error)
            refusals += 1
    assert refusals >= 20


def test_plain_loader_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_plain(tmp_path / "common.pt")
    with pytest.raises(UserError, match="not a whole distributed checkpoint"):
        check_metadata(tmp_path)


def getattr_pickle(cls_module: str, cls_name: str, attribute: str) -> bytes:
    """What Python 3.11.0 to 3.11.3 write for a member of an Enum: getattr(class, name)."""
    text = f"cbuiltins\ngetattr\n(c{cls_module}\n{cls_name}\nV{attribute}\ntR."
    return text.encode()


def test_enum_members_as_early_python_311_writes_them(tmp_path: Path) -> None:
    """Such a pickle is no checkpoint by itself, but its getattr is not what it is refused for."""
    module = "torch.distributed.checkpoint.metadata"
    (tmp_path / ".metadata").write_bytes(
        getattr_pickle(module, "_MEM_FORMAT_ENCODING", "TORCH_CONTIGUOUS_FORMAT")
    )
    with pytest.raises(UserError, match="state_dict_metadata"):
        check_metadata(tmp_path)


@pytest.mark.parametrize("attribute", ["__subclasses__", "mro", "__init__", "state_dict_metadata"])
@pytest.mark.parametrize("name", ["_MEM_FORMAT_ENCODING", "Metadata"])
def test_getattr_gives_nothing_but_enum_members(name: str, attribute: str, tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(
        getattr_pickle("torch.distributed.checkpoint.metadata", name, attribute)
    )
    with pytest.raises(UserError, match="attribute"):
        check_metadata(tmp_path)
