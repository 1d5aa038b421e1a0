"""Files of some hundred bytes that ask for hours or gigabytes: refused in one line, at once.

Without the checks each of these, made a little larger, never ends.
"""

from __future__ import annotations

import gzip
import io
import pickle
import resource
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from recipes.checkpoint.formats import archive as archives
from recipes.checkpoint.formats.archive import extract_archive
from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.formats.safety import parse_metadata, parse_plain
from recipes.checkpoint.formats.torch_file import read_torch_file
from recipes.checkpoint.formats.yaml_file import read_yaml
from recipes.checkpoint.open import open_stored_model
from recipes.errors import UserError
from tests.support.nemo_files import COMMON, CONFIG, MAIN, METADATA, changed, write_tar

# (1,) and 20 times a tuple of the last one twice: 2**20 elements. With 60 levels hashing never ends.
NESTED = b"K\x01\x85" + b"2\x86" * 20
INDEX = b"ctorch.distributed.checkpoint.metadata\nMetadataIndex\n"


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught, open_stored_model(path) as source:
        _ = source.model
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def yaml_file(tmp_path: Path, text: str) -> Blob:
    path = tmp_path / "model_config.yaml"
    path.write_text(text)
    return Blob(path, 0, path.stat().st_size, path.name)


# YAML


def test_merge_keys(tmp_path: Path) -> None:
    lines = ["a0: &a0 {" + ", ".join(f"k{i}: {i}" for i in range(10)) + "}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 4)]
    path = changed(MAIN / "model.nemo", tmp_path / "x.nemo", CONFIG, lambda _: "\n".join(lines).encode())
    assert "more than 100,000 values" in refused(path) or "merge key" in refused(path)
    with pytest.raises(UserError, match="merge key"):
        read_yaml(yaml_file(tmp_path, "a: &a {x: 1}\nb: {<<: *a}"))


def test_aliases(tmp_path: Path) -> None:
    few = read_yaml(yaml_file(tmp_path, "a: &a [1, 2]\nb: *a\nc: {d: *a}"))
    assert few == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}
    levels = ["a0: &a0 [1, 2]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 6))]
    with pytest.raises(UserError, match="100,000 values"):
        read_yaml(yaml_file(tmp_path, "\n".join(levels)))
    chain = ["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 300))]
    with pytest.raises(UserError, match="100 levels"):
        read_yaml(yaml_file(tmp_path, "\n".join(chain)))
    with pytest.raises(UserError, match="values"):
        read_yaml(yaml_file(tmp_path, "a: &a [*a]"))


def test_numbers_without_end(tmp_path: Path) -> None:
    """YAML 1.1 has numbers to the base of 60; PyYAML's time grows with the square of their length."""
    with pytest.raises(UserError, match="digits"):
        read_yaml(yaml_file(tmp_path, "a: 1" + ":1" * 1000))
    assert read_yaml(yaml_file(tmp_path, "a: 1:30\nb: 1.5e-3\nc: '" + "1" * 1000 + "'"))["a"] == 90


# Keys of pickles

KEYS = {
    "setitem": b"}" + NESTED + b"Ns.",
    "setitems": b"}(" + NESTED + b"Nu.",
    "dict": b"(" + NESTED + b"Nd.",
    "additems": b"\x8f(" + NESTED + b"\x90.",
    "frozenset": b"(" + NESTED + b"\x91.",
    "set_called": b"cbuiltins\nset\n]" + NESTED + b"a\x85R.",
    "ordered_called": b"ccollections\nOrderedDict\n](]" + NESTED + b"aNae\x85R.",
    "obj": b"(cbuiltins\nset\n]" + NESTED + b"ao.",
    "enum_called": b"ctorch.distributed.checkpoint.planner\nWriteItemType\n" + NESTED + b"\x85R.",
    "new_enum": b"ctorch.distributed.checkpoint.planner\nWriteItemType\n" + NESTED + b"\x85\x81.",
    "in_an_object": b"}" + INDEX + b")\x81}X\x03\x00\x00\x00fqn" + NESTED + b"sbNs.",
    "huge_number": b"}\x8a\x40" + b"\x7f" * 64 + b"Ns.",
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_metadata(name: str) -> None:
    with pytest.raises(UserError, match="a key in it has more parts than any name"):
        parse_metadata(b"\x80\x04" + KEYS[name], ".metadata", 0)


def test_objects_in_objects_as_a_key() -> None:
    """A frozen dataclass is hashed by its fields, which may be such objects again: no tuple is needed."""
    content = b"\x80\x04" + INDEX + b"\x94K\x01"  # Kept as 0; then 1, kept as 1; the objects as 2, 3, ...
    for number in range(8):
        get = b"h" + bytes([number + 1])
        content += b"\x940h\x00)\x81}(X\x03\x00\x00\x00fqn" + get + b"X\x06\x00\x00\x00offset" + get + b"ub"
    with pytest.raises(UserError, match="a key in it"):
        parse_metadata(content + b"\x94}h" + bytes([9]) + b"Ns.", ".metadata", 0)


def test_keys_changed_afterwards() -> None:
    """The reader makes keys of its own of what an index says in the end."""
    from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

    index = MetadataIndex("a", torch.Size([0]))
    metadata = Metadata({}, {}, {index: None})
    object.__setattr__(index, "fqn", (("a",),))
    with pytest.raises(UserError, match="without a name"):
        parse_metadata(pickle.dumps(metadata), ".metadata", 0)


def torch_file(tmp_path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    path = tmp_path / "file.pt"
    torch.save({"a": 1}, path)
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    return path


@pytest.mark.parametrize("name", ["setitem", "setitems", "set_called", "ordered_called"])
def test_keys_of_torch_files(name: str, tmp_path: Path) -> None:
    """torch's weights_only hashes them; so does the reader of weights."""
    path = torch_file(tmp_path, b"\x80\x02" + KEYS[name])
    with pytest.raises(UserError, match="a key in it"):
        parse_plain(path.read_bytes(), COMMON)
    if name != "set_called":  # It knows no sets.
        with pytest.raises(UserError, match="a key in it"):
            read_torch_file(Blob(path, 0, path.stat().st_size, path.name))


def test_plain_data_of_many_kinds_is_read(tmp_path: Path) -> None:
    content = {
        "a": [torch.ones(2), (1, 2.5, None)],
        ("a", 1): OrderedDict(x=torch.Size([3])),
        7: {"b": b"bytes", "c": {1, 2}, "d": torch.float16, "e": True, "f": tuple(range(500))},
    }
    torch.save(content, tmp_path / "x")
    found = parse_plain((tmp_path / "x").read_bytes(), "x")
    assert found[7] == content[7] and found["a"][1] == (1, 2.5, None) and found["a", 1]["x"] == (3,)


def test_a_compressed_common_state(tmp_path: Path) -> None:
    path = torch_file(tmp_path, b"\x80\x02}.", zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        parse_plain(path.read_bytes(), COMMON)


def test_a_key_inside_of_an_archive(tmp_path: Path) -> None:
    path = changed(
        MAIN / "model.nemo", tmp_path / "x.nemo", METADATA, lambda _: b"\x80\x02" + KEYS["setitem"]
    )
    assert path.stat().st_size < 2_000_000 and "a key in it" in refused(path)


# Headers of archives


def header(size: int, kind: bytes, name: str = "x") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def both(path: Path, tmp_path: Path) -> str:
    """The message with which it is refused, opened or unpacked."""
    message = refused(path)
    with pytest.raises(UserError) as caught:
        extract_archive(path, tmp_path / "out")
    assert not (tmp_path / "out").exists() and "\n" not in str(caught.value)
    return message


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"X", b"g"])
@pytest.mark.parametrize("size", [2_000_000, 10**15, 2**62, 2**70])
def test_headers_that_claim_much(kind: bytes, size: int, tmp_path: Path) -> None:
    for place, before in enumerate((b"", header(0, tarfile.REGTYPE, "model_config.yaml"))):
        path = tmp_path / f"{place}.nemo"
        path.write_bytes(before + header(size, kind) + bytes(10_240))
        message = both(path, tmp_path)
        assert "attribute" in message


@pytest.mark.parametrize("size", [2**62, 2**63, 2**70])
def test_members_beyond_all_files(size: int, tmp_path: Path) -> None:
    path = tmp_path / "x.nemo"
    for compress in (bytes, gzip.compress):
        path.write_bytes(compress(header(size, tarfile.REGTYPE) + bytes(10_240)))
        assert "damaged" in both(path, tmp_path)


def test_a_compressed_name_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.nemo"
    with gzip.open(path, "wb", compresslevel=9) as stream:
        stream.write(header(150_000_000, tarfile.GNUTYPE_LONGNAME))
        for _ in range(150):
            stream.write(b"a" * 1_000_000)
        stream.write(bytes(10_240))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "150,000,000 bytes" in both(path, tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_many_small_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "many.nemo", {f"{number}": b"" for number in range(30)})
    monkeypatch.setattr(archives, "MOST_HEADERS", 20)
    assert "more than 20 headers" in both(path, tmp_path)
    monkeypatch.setattr(archives, "MOST_HEADERS", 1000)
    monkeypatch.setattr(archives, "LARGEST_EXTENSIONS", 3000)
    path = write_tar(tmp_path / "long.nemo", {f"{number}" * 150: b"" for number in range(10)})
    assert "attribute" not in refused(path)
    path = write_tar(tmp_path / "long.nemo", {f"{number}" * 150: b"" for number in range(10, 40)})
    assert "attribute" in both(path, tmp_path)


def test_headers_of_headers(tmp_path: Path) -> None:
    path = tmp_path / "x.nemo"
    path.write_bytes((header(1, tarfile.GNUTYPE_LONGNAME) + bytes(512)) * 3000 + bytes(10_240))
    both(path, tmp_path)


def test_attributes_are_not_kept_for_each_member(tmp_path: Path) -> None:
    path = tmp_path / "x.nemo"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(3):
            member = tarfile.TarInfo(f"लंबा नाम {number}")
            member.pax_headers = {f"comment{i}": "x" for i in range(50)}
            member.mtime = 1.5  # type: ignore[assignment]
            archive.addfile(member, io.BytesIO())
    with archives.open_archive(path) as opened:
        members = archives.checked_members(opened, "x")
    assert [member.name for member in members] == [f"लंबा नाम {number}" for number in range(3)]
    assert all(not member.pax_headers and member.mtime == 1.5 for member in members)


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_members_in_attributes(version: str, tmp_path: Path) -> None:
    """The list of holes of 1.0 is read until a newline comes, the others are put together from attributes."""
    attributes = {
        "0.0": {"GNU.sparse.size": "5", "GNU.sparse.numblocks": "0"},
        "0.1": {"GNU.sparse.map": "0,1", "GNU.sparse.size": "5"},
        "1.0": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "5"},
    }[version]
    path = tmp_path / "x.nemo"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("x")
        member.pax_headers = attributes
        archive.addfile(member, io.BytesIO())
    path.write_bytes(path.read_bytes().rstrip(b"\0") + b"1" * 5000)
    assert "sparse" in both(path, tmp_path)
