"""What makes a directory a checkpoint, and how damage is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.checkpoint.save.manifest import (
    MANIFEST,
    finished_checkpoints,
    newest_whole_checkpoint,
    remove_partial,
    set_aside_newer,
    step_directory,
    verify,
    write_manifest,
)
from recipes.checkpoint.save.retention import prune
from recipes.errors import UserError
from recipes.training.start import find_start


def make(checkpoints: Path, step: int) -> Path:
    directory = step_directory(checkpoints, step)
    (directory / "deeper").mkdir(parents=True)
    (directory / "common.pt").write_bytes(bytes(range(256)) + step.to_bytes(4, "big"))
    (directory / ".metadata").write_bytes(b"meta")
    (directory / "deeper" / "empty").write_bytes(b"")
    write_manifest(directory, step=step)
    return directory


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def warnings() -> list[str]:
    return []


def test_hidden_and_nested_files_are_listed(checkpoints: Path) -> None:
    manifest = verify(make(checkpoints, 7))
    assert set(manifest["files"]) == {"common.pt", ".metadata", "deeper/empty"}
    assert manifest["step"] == 7 and manifest["files"][".metadata"]["bytes"] == 4
    # sha256sum of "meta" and of nothing
    assert manifest["files"]["deeper/empty"]["sha256"].startswith("e3b0c44298fc1c149afbf4c8996fb924")


@given(place=st.integers(0, 259), bit=st.integers(0, 7))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, place: int, bit: int) -> None:
    directory = make(tmp_path_factory.mktemp("flip"), 1)
    file = directory / "common.pt"
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"common\.pt does not have the manifest's SHA-256"):
        verify(directory)


def test_without_checksums_only_sizes_are_compared(checkpoints: Path, warnings: list[str]) -> None:
    older, newer = make(checkpoints, 4), make(checkpoints, 8)
    (newer / ".metadata").write_bytes(b"atem")
    assert newest_whole_checkpoint(checkpoints, warnings.append) == older
    assert find_start(str(checkpoints.parent), full=False, sha256=True) == older
    assert newest_whole_checkpoint(checkpoints, warnings.append, sha256=False) == newer
    assert find_start(str(checkpoints.parent), full=False, sha256=False) == newer
    (newer / ".metadata").write_bytes(b"metadata")
    assert newest_whole_checkpoint(checkpoints, warnings.append, sha256=False) == older
    assert ["SHA-256" in warnings[0], "8 bytes" in warnings[1]] == [True, True]


def test_other_damage_names_the_file(checkpoints: Path) -> None:
    directory = make(checkpoints, 1)
    (directory / "common.pt").write_bytes(b"short")
    with pytest.raises(UserError, match=r"common\.pt has 5 bytes, the manifest says 260"):
        verify(directory)
    (directory / "common.pt").unlink()
    with pytest.raises(UserError, match=r"common\.pt is missing"):
        verify(directory)


@given(data=st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_manifest_is_no_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = make(tmp_path_factory.mktemp("manifest"), 1)
    content = bytearray((directory / MANIFEST).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    for _ in range(data.draw(st.integers(1, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (directory / MANIFEST).write_bytes(content)
    try:
        verify(directory)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content", ["[]", "{}", "null", '{"files": []}', '{"files": {"a": 1}}', '{"files": {"a": []}}']
)
def test_json_of_something_else(content: str, checkpoints: Path) -> None:
    directory = make(checkpoints, 1)
    (directory / MANIFEST).write_text(content)
    with pytest.raises(UserError, match="no readable manifest"):
        verify(directory)


def test_the_newest_whole_one_is_chosen_and_says_what_it_passes_over(
    checkpoints: Path, warnings: list[str]
) -> None:
    assert newest_whole_checkpoint(checkpoints, warnings.append) is None
    first, second, third = (make(checkpoints, step) for step in (10, 200, 3000))
    assert newest_whole_checkpoint(checkpoints, warnings.append) == third and warnings == []
    (third / "common.pt").write_bytes(b"")
    assert newest_whole_checkpoint(checkpoints, warnings.append) == second
    (line,) = warnings
    assert "step_00003000 is passed over" in line and "common.pt" in line
    for directory in (first, second):
        (directory / ".metadata").unlink()
    with pytest.raises(UserError, match="none of 3 checkpoints is whole"):
        newest_whole_checkpoint(checkpoints, warnings.append)


def test_unfinished_directories_do_not_exist(checkpoints: Path, warnings: list[str]) -> None:
    whole, unfinished = make(checkpoints, 5), make(checkpoints, 6)
    (unfinished / MANIFEST).unlink()
    shutil.copytree(whole, checkpoints / ".step_00000007.partial")
    (checkpoints / "step_8").mkdir()
    (checkpoints / "notes.txt").write_text("mine")
    assert finished_checkpoints(checkpoints) == [whole]
    assert newest_whole_checkpoint(checkpoints, warnings.append) == whole and warnings == []
    remove_partial(checkpoints)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["notes.txt", "step_00000005", "step_8"]


def test_damaged_newer_ones_are_set_aside_not_counted(checkpoints: Path) -> None:
    whole, damaged = make(checkpoints, 10), make(checkpoints, 20)
    set_aside_newer(checkpoints, whole)
    assert finished_checkpoints(checkpoints) == [whole]
    assert (checkpoints / f"damaged_{damaged.name}" / "common.pt").exists()
    make(checkpoints, 15)
    prune(checkpoints, keep_last=1)
    assert [path.name for path in finished_checkpoints(checkpoints)] == ["step_00000015"]
    make(checkpoints, 20)
    set_aside_newer(checkpoints, step_directory(checkpoints, 15))  # A second time under the same name.


def test_manifest_is_json_a_person_can_check(checkpoints: Path) -> None:
    content = json.loads((make(checkpoints, 3) / MANIFEST).read_text())
    assert content["format_version"] == 1 and set(content["files"]["common.pt"]) == {"bytes", "sha256"}
