"""Files that are whole or not there whatever happens, and locks between processes."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.errors import UserError
from recipes.files import (
    LockHeld,
    atomic_write,
    check_writable,
    exclusive_lock,
    partial_directory,
    remove_stale,
    sha256_file,
)
from tests.support.privileges import run_bound


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_bytes_and_text(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.bin") as stream:
        stream.write(b"\x00\xff")
    with atomic_write(str(tmp_path / "b.txt"), "w") as text:
        text.write("हिन्दी\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b.txt").read_text(encoding="utf-8") == "हिन्दी\n"
    assert names(tmp_path) == ["a.bin", "b.txt"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1), UserError("x")])
def test_failure_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_write(path, "w") as stream:
        stream.write("new")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_the_old_file_stays_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with atomic_write(path, "w") as stream:
        stream.write("new")
        stream.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_symbolic_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "real").write_text("old")
    (tmp_path / "link").symlink_to("sub/real")
    with atomic_write(tmp_path / "link", "w") as stream:
        stream.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "sub" / "real").read_text() == "new"


def test_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(UserError, match="not a regular file"), atomic_write(path):
            pass
    with (
        pytest.raises(UserError, match=r"cannot write .*/none/a: No such file or directory"),
        atomic_write(tmp_path / "none" / "a"),
    ):
        pass


def test_a_directory_that_takes_no_files(tmp_path: Path) -> None:
    """The temporary file beside the target is what cannot be made; the message is about the target."""
    message = r"cannot write /proc/a: No such file or directory \("
    with pytest.raises(UserError, match=message), atomic_write("/proc/a"):
        pass
    read_only = tmp_path / "read_only"
    read_only.mkdir(mode=0o500)
    code = (
        "import sys; from recipes.files import atomic_write; from recipes.cli import run_tool\n"
        "def main():\n    with atomic_write(sys.argv[1]): pass\nrun_tool(main)\n"
    )
    for mode, target in ((0o500, read_only / "a"), (0, read_only / "a")):
        read_only.chmod(mode)
        done = run_bound(sys.executable, "-c", code, target)
        read_only.chmod(0o700)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: cannot write {target}: Permission denied (")
    assert names(read_only) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_injected_disk_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    message = rf"cannot write .*/a: {os.strerror(code)} \(.* GB free\)"
    with pytest.raises(UserError, match=message), atomic_write(tmp_path / "a") as stream:
        stream.write(b"x")
    assert names(tmp_path) == []


def test_errors_of_other_files_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        (tmp_path / "input").read_bytes()
    with pytest.raises(ConnectionResetError), atomic_write(tmp_path / "a"):
        raise ConnectionResetError(errno.ECONNRESET, "gone")
    assert names(tmp_path) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_disk_full(tiny_disk: Path) -> None:
    (tiny_disk / "a").write_text("old")
    message = r"cannot write .*/a: No space left on device \(.* GB free\)"
    with pytest.raises(UserError, match=message), atomic_write(tiny_disk / "a") as stream:
        for _ in range(100):
            stream.write(bytes(10_000))
    assert names(tiny_disk) == ["a"]
    assert (tiny_disk / "a").read_text() == "old"


def test_file_size_limit(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from recipes.files import atomic_write; from recipes.cli import run_tool\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "def main():\n    with atomic_write(sys.argv[1]) as f: f.write(bytes(100_000))\nrun_tool(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot write {tmp_path}/a: File too large")
    assert names(tmp_path) == []


def test_killed_writer_is_cleaned_up_after(tmp_path: Path) -> None:
    path = tmp_path / "a"
    code = (
        "import sys, time; from recipes.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as f:\n"
        "    f.write(b'half'); f.flush(); print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        (temporary,) = names(tmp_path)
        # While the writer lives, its file is nobody's to remove.
        assert remove_stale(path)
        assert names(tmp_path) == [temporary]
        assert not remove_stale(tmp_path / "other")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not path.exists()
    with atomic_write(path) as stream:
        stream.write(b"whole")
    assert names(tmp_path) == ["a"]
    assert path.read_bytes() == b"whole"


HOLDER = """
import os, sys, time
from recipes.files import exclusive_lock
stream = open(sys.argv[1], "w")
assert exclusive_lock(stream, inherited=sys.argv[2] == "inherited")
if os.fork() == 0:
    time.sleep(60)
    os._exit(0)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["inherited", "own"])
def test_a_lock_ends_with_its_process_or_with_the_last_forked_one(tmp_path: Path, kind: str) -> None:
    inherited = kind == "inherited"
    line = [sys.executable, "-c", HOLDER, str(tmp_path / "lock"), kind]
    with (
        subprocess.Popen(line, stdout=subprocess.PIPE, start_new_session=True) as process,
        (tmp_path / "lock").open("a") as stream,
    ):
        try:
            assert process.stdout and process.stdout.readline() == b"held\n"
            with pytest.raises(LockHeld, match=r"^taken$"):
                exclusive_lock(stream, "taken", inherited=inherited)
            process.kill()
            process.wait()
            if inherited:
                with pytest.raises(LockHeld):
                    exclusive_lock(stream)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        assert exclusive_lock(stream, inherited=inherited, patience_s=10)


def test_waiting_for_a_lock(tmp_path: Path) -> None:
    told: list[str] = []
    with (tmp_path / "lock").open("w") as first, (tmp_path / "lock").open("w") as second:
        assert exclusive_lock(first)
        with pytest.raises(LockHeld):
            exclusive_lock(second, on_wait=lambda: told.append("at once"))
        assert told == []

        def let_go() -> None:
            told.append("waiting")
            first.close()

        assert exclusive_lock(second, patience_s=60, on_wait=let_go)
    assert told == ["waiting"]


def test_what_has_no_locks_goes_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a").open("w"), (tmp_path / "a").open("rb") as for_reading:
        assert not exclusive_lock(for_reading, inherited=False)  # The kernel refuses; no other has it.

    def unsupported(file: object, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    (tmp_path / ".a.12345678.tmp").touch()
    monkeypatch.setattr("fcntl.flock", unsupported)
    with atomic_write(tmp_path / "a", "w") as stream:
        stream.write("new")
    assert (tmp_path / "a").read_text() == "new"
    # Its writer may be alive.
    assert not remove_stale(tmp_path / "a") and names(tmp_path) == [".a.12345678.tmp", "a"]


def test_a_place_is_tried_without_a_trace(tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("old")
    for path in (there, tmp_path / "new.json", tmp_path / "not" / "yet" / "new.json"):
        check_writable(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["there.json"] and there.read_text() == "old"
    for path in (tmp_path, there / "below.json", there / "far" / "below.json"):
        with pytest.raises(UserError, match=f"cannot write {path}: "):
            check_writable(path)


def test_a_read_only_place_is_noticed(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    code = "import sys; from recipes.files import check_writable; check_writable(sys.argv[1])"
    for path in (tmp_path / "new.json", tmp_path / "below" / "new.json"):
        done = run_bound(sys.executable, "-c", code, path)
        assert f"UserError: cannot write {path}: Permission denied" in done.stderr


def test_strangers_are_left_alone(tmp_path: Path) -> None:
    others = [".a.tmp", ".a.b.12345678.tmp", "a.12345678.tmp", ".a.12345678.tmp.x"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".a.12345678.tmp").touch()
    assert not remove_stale(tmp_path / "a")
    assert names(tmp_path) == sorted(others)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    with pytest.raises(UserError, match="cannot read"):
        sha256_file(tmp_path / "none")


# Directories


def test_a_directory_appears_whole_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        if not (tmp_path / "new" / "a").exists():
            synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    with partial_directory(tmp_path / "new" / "a") as directory:
        (directory / "inside").mkdir()
        (directory / "inside" / "file").write_text("x")
        assert names(tmp_path / "new") == [".a.partial"]
    assert names(tmp_path / "new") == ["a"]
    made = tmp_path / "new" / "a"
    assert {path.stat().st_ino for path in (made, *made.rglob("*"))} <= synced
    assert (made / "inside" / "file").read_text() == "x"


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), UserError("x")])
def test_a_directory_that_fails_leaves_things_as_they_were(
    tmp_path: Path, error: BaseException, replace: bool
) -> None:
    if replace:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "old").touch()
    with pytest.raises(type(error)), partial_directory(tmp_path / "a", replace=replace) as directory:
        (directory / "new").touch()
        raise error
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["a", "a/old"] * replace


def test_a_directory_that_is_there_is_kept_or_replaced(tmp_path: Path) -> None:
    (tmp_path / "a" / "old").mkdir(parents=True)
    with (
        pytest.raises(UserError, match=f"{tmp_path / 'a'}: cannot be written: Directory not empty"),
        partial_directory(tmp_path / "a") as directory,
    ):
        (directory / "new").touch()
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["old"]
    (tmp_path / "link").symlink_to("a")
    with partial_directory(tmp_path / "link", replace=True) as directory:
        (directory / "new").touch()
    assert names(tmp_path) == ["a", "link"] and names(tmp_path / "a") == ["new"]
    assert (tmp_path / "link").is_symlink()


def test_a_replaced_directory_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "old").mkdir(parents=True)
    rename = Path.rename

    def refuse_the_second(self: Path, target: Path) -> Path:
        if self.name == ".a.partial":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self), None, str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_second)
    with (
        pytest.raises(UserError, match="a: cannot be written: No space left on device"),
        partial_directory(tmp_path / "a", replace=True),
    ):
        pass
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["old"]


def test_one_writer_of_a_directory_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys, time; from recipes.files import partial_directory\n"
        "with partial_directory(sys.argv[1]) as d:\n"
        "    (d / 'sub').mkdir(); (d / 'sub' / 'half').touch(); (d / 'link').symlink_to(d.parent / 'mine')\n"
        "    print('ready', flush=True); time.sleep(60)\n"
    )
    (tmp_path / "mine").write_text("kept")
    line = [sys.executable, "-c", code, str(tmp_path / "a")]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        with (
            pytest.raises(LockHeld, match="a is being written by another process"),
            partial_directory(tmp_path / "a"),
        ):
            pass
        assert names(tmp_path / ".a.partial") == ["link", "sub"]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert names(tmp_path) == [".a.partial", "mine"]
    with partial_directory(tmp_path / "a") as directory:
        assert names(directory) == []
    assert names(tmp_path) == ["a", "mine"] and (tmp_path / "mine").read_text() == "kept"


def test_links_and_files_in_the_way_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    (tmp_path / ".a.partial").symlink_to("mine")
    (tmp_path / ".b.partial").touch()
    for target in (tmp_path / "a", tmp_path / "b", tmp_path / ".b.partial" / "c"):
        with (
            pytest.raises(UserError, match=f"^{target}: cannot be written: "),
            partial_directory(target),
        ):
            pass
    assert names(tmp_path) == [".a.partial", ".b.partial", "mine"] and names(tmp_path / "mine") == ["notes"]


def test_a_full_disk_under_a_directory(tiny_disk: Path) -> None:
    with (
        pytest.raises(UserError, match=f"^{tiny_disk}/a: cannot be written: No space left on device$"),
        partial_directory(tiny_disk / "a") as directory,
    ):
        (directory / "big").write_bytes(bytes(100_000))
    assert names(tiny_disk) == []


def test_errors_of_other_files_pass_a_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input"), partial_directory(tmp_path / "a"):
        (tmp_path / "input").read_bytes()
    assert names(tmp_path) == []
