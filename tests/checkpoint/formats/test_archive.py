"""Unpacking archives from strangers."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.checkpoint.formats.archive import extract_archive, fitting_name, pack_archive, read_member
from recipes.errors import UserError
from tests.support.nemo_files import MAIN, read_tar, write_tar

Members = list[tuple[tarfile.TarInfo, bytes]]


def member(name: str, content: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def archive_of(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    return member(name, b"", type=kind, linkname=target)


HOSTILE: dict[str, tuple[Callable[[Path], Members], str]] = {
    "absolute": (lambda out: [member(f"{out}/evil")], "evil"),
    "parent": (lambda out: [member("../evil")], "../evil"),
    "parent_in_the_middle": (lambda out: [member("./a/../../evil")], "a/../../evil"),
    "symlink": (lambda out: [special("./link", tarfile.SYMTYPE, str(out))], "link"),
    "write_through_symlink": (
        lambda out: [special("./d", tarfile.SYMTYPE, str(out)), member("./d/evil")],
        "./d",
    ),
    "hardlink": (lambda out: [special("./link", tarfile.LNKTYPE, "/etc/passwd")], "link"),
    "character_device": (lambda out: [special("./null", tarfile.CHRTYPE)], "null"),
    "block_device": (lambda out: [special("./disk", tarfile.BLKTYPE)], "disk"),
    "fifo": (lambda out: [special("./pipe", tarfile.FIFOTYPE)], "pipe"),
    "duplicate": (lambda out: [member("./a.yaml", b"1"), member("a.yaml", b"2")], "a.yaml"),
    "file_then_directory": (lambda out: [member("./a"), special("./a", tarfile.DIRTYPE)], "./a"),
    "late": (lambda out: [member("./fine"), member("./model_weights/ok"), member("../late")], "../late"),
}


def leftovers(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*"))


def refused(archive: Path, tmp_path: Path) -> str:
    """Extraction fails with one line and leaves the target's parent as it was; the message."""
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(UserError) as caught:
        extract_archive(archive, target / "model")
    assert leftovers(target) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_member_is_named_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    members, named = HOSTILE[name]
    archive = archive_of(tmp_path / "hostile.nemo", members(outside))
    assert named in refused(archive, tmp_path)
    assert leftovers(outside) == [] and not (tmp_path / "evil").exists()
    with pytest.raises(UserError):
        read_member(archive, "a.yaml")


def test_huge_declared_size(tmp_path: Path) -> None:
    """A header that promises 1 EB, with nothing behind it."""
    archive = archive_of(tmp_path / "huge.nemo", [member("./model_config.yaml", b"a: 1")])
    content = bytearray(archive.read_bytes())
    info = tarfile.TarInfo("./huge")
    info.size = 2**60
    content[:512] = info.tobuf(tarfile.GNU_FORMAT)[:512]
    archive.write_bytes(content)
    assert "the archive is damaged" in refused(archive, tmp_path)


def test_a_gzip_bomb_is_weighed_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = archive_of(tmp_path / "plain", [member("./zeros", bytes(3_000_000))])
    bomb = tmp_path / "bomb.nemo"
    bomb.write_bytes(gzip.compress(plain.read_bytes()))
    assert bomb.stat().st_size < 10_000
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2_000_000})())
    message = refused(bomb, tmp_path)
    assert "needs 3 MB" in message and "2 MB free" in message and "./zeros" in message


def test_not_a_tar(tmp_path: Path) -> None:
    for number, content in enumerate(
        [b"", b"hello", os.urandom(5000), b"\x1f\x8b", b"\x1f\x8b" + os.urandom(99)]
    ):
        archive = tmp_path / f"{number}.nemo"
        archive.write_bytes(content)
        directory = tmp_path / str(number)
        directory.mkdir()
        message = refused(archive, directory)
        assert "not a .nemo archive" in message or "damaged" in message


@pytest.fixture(scope="module")
def whole() -> bytes:
    return (MAIN / "model.nemo").read_bytes()


@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_anywhere(compressed: bool, whole: bytes, tmp_path: Path) -> None:
    """Forty places, from the first byte to the last block that carries data."""
    data = gzip.compress(whole, 1) if compressed else whole
    # A tar without its zero blocks at the end is whole.
    end = len(data) - 9 if compressed else len(whole.rstrip(b"\0")) - 1
    files = read_tar(MAIN / "model.nemo")
    refusals = 0
    for number in range(40):
        archive = tmp_path / f"{number}.nemo"
        archive.write_bytes(data[: number * end // 39])
        target = tmp_path / f"target_{number}"
        target.mkdir()
        try:
            extract_archive(archive, target / "model")
        except UserError as error:
            assert "\n" not in str(error) and leftovers(target) == []
            refusals += 1
        else:  # Cut between two members: what there is, is whole.
            for path in (target / "model").rglob("*"):
                if path.is_file():
                    assert path.read_bytes() == files[f"./{path.relative_to(target / 'model')}"]
    assert refusals >= (39 if compressed else 30)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bits(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("flip")
    members = [member("./"), member("./a.yaml", b"a: 1\n"), member("./w/x", bytes(range(256)) * 4)]
    members[0][0].type, members[0][0].size = tarfile.DIRTYPE, 0
    content = bytearray(archive_of(directory / "a.nemo", members).read_bytes())
    if compressed := data.draw(st.booleans()):
        content = bytearray(gzip.compress(content))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content), 4096) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (directory / "b.nemo").write_bytes(content)
    inside = directory / "inside"
    inside.mkdir()
    try:
        extract_archive(directory / "b.nemo", inside / "model")
    except UserError:
        assert leftovers(inside) == [], compressed
    assert sorted(path.name for path in directory.iterdir()) == ["a.nemo", "b.nemo", "inside"]


def test_gzip_as_nemo_also_writes_it(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "z.nemo").write_bytes(gzip.compress(whole, 1))
    extract_archive(tmp_path / "z.nemo", tmp_path / "out")
    files = read_tar(MAIN / "model.nemo")
    assert {
        f"./{path.relative_to(tmp_path / 'out')}" for path in (tmp_path / "out").rglob("*") if path.is_file()
    } == set(files)


def test_extract_and_pack_again(tmp_path: Path) -> None:
    extract_archive(MAIN / "model.nemo", tmp_path / "out")
    pack_archive(tmp_path / "out", tmp_path / "again.nemo")
    assert read_tar(tmp_path / "again.nemo") == read_tar(MAIN / "model.nemo")
    with (
        tarfile.open(tmp_path / "again.nemo", "r:") as ours,
        tarfile.open(MAIN / "model.nemo", "r:") as nemos,
    ):
        assert sorted(ours.getnames()) == sorted(nemos.getnames())
        # A .nemo is given to others, and says nothing of whose files it was made.
        assert {(m.uid, m.gid, m.uname, m.gname) for m in ours.getmembers()} == {(0, 0, "", "")}
    assert read_member(tmp_path / "again.nemo", "model_config.yaml").startswith(b"restore_from_path")


def test_an_existing_directory_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="exists"):
        extract_archive(MAIN / "model.nemo", tmp_path / "out")
    assert leftovers(tmp_path) == ["mine", "out"]


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        extract_archive(MAIN / "model.nemo", tmp_path / "file" / "model")


def test_missing_member(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.nemo", {"./other": b"1"})
    with pytest.raises(UserError, match=r"holds no model_config\.yaml"):
        read_member(archive, "model_config.yaml")


def test_names_are_cut_to_fit() -> None:
    assert fitting_name("tokenizer.model", 15) == "tokenizer.model"
    assert fitting_name("tokenizer.model", 14) == "tokenize.model"
    hindi = "शब्दकोश" * 10 + ".model"
    cut = fitting_name(hindi, 65)
    assert cut.endswith(".model") and hindi.startswith(cut.removesuffix(".model"))
    assert 60 < len(cut.encode()) <= 65
    assert fitting_name("a." + "b" * 80, 20) == "a." + "b" * 18
    assert fitting_name("\udcff.model", 20) == "?.model"
