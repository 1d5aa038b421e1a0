"""The command that writes the generated corpus."""

import hashlib
import itertools
import json
import subprocess
import sys

import pytest

from recipes.data.corpus.write import make_corpus
from recipes.errors import UserError

FILES = [
    "benchmark/en.jsonl",
    "benchmark/hi.jsonl",
    "manifest.json",
    "train.en.jsonl",
    "train.hi.jsonl",
    "valid.en.jsonl",
    "valid.hi.jsonl",
]
SMALL = 60_000


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tools.make_corpus", *map(str, arguments)], capture_output=True, text=True
    )


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("size", [10_000, 150_000, 1_000_000])
def test_the_size_is_met(size, tmp_path):
    manifest, _ = make_corpus(tmp_path, size=size)
    split = {
        name: sum(entry["text_bytes"] for file, entry in manifest["files"].items() if file.startswith(name))
        for name in ("train", "valid")
    }
    # The text ends with the two documents, one in each language, that reach the size.
    assert size <= split["train"] < size + 2500
    assert size // 20 <= split["valid"] < size // 20 + 2500


def test_the_files_are_as_described(tmp_path):
    manifest, written = make_corpus(tmp_path, size=SMALL)
    assert written
    assert list(contents(tmp_path)) == FILES
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    for name, entry in manifest["files"].items():
        content = (tmp_path / name).read_bytes()
        assert entry["bytes"] == len(content)
        assert entry["rows"] == content.count(b"\n")
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    for language in ("en", "hi"):
        train, valid = (rows(tmp_path / f"{split}.{language}.jsonl") for split in ("train", "valid"))
        assert all(set(row) == {"text", "lang"} and row["lang"] == language for row in train + valid)
        assert not {row["text"] for row in train} & {row["text"] for row in valid}
        for item in rows(tmp_path / "benchmark" / f"{language}.jsonl"):
            assert set(item) == {"id", "kind", "question", "choices", "answer"}
            assert not any(f"{item['question']} " in row["text"] for row in train + valid)
    assert manifest["files"]["train.en.jsonl"]["rows"] == manifest["files"]["train.hi.jsonl"]["rows"]


def test_training_text_repeats_no_validation_document(tmp_path, monkeypatch):
    def documents(world, language, seed, split):
        texts = ["seen " * 100, "other " * 100] if split == "train" else ["seen " * 100]
        return itertools.cycle(texts)

    monkeypatch.setattr("recipes.data.corpus.write.documents", documents)
    make_corpus(tmp_path, size=SMALL)
    assert {row["text"] for row in rows(tmp_path / "valid.en.jsonl")} == {"seen " * 100}
    assert {row["text"] for row in rows(tmp_path / "train.en.jsonl")} == {"other " * 100}


def test_the_same_seed_gives_the_same_files(tmp_path):
    for name, seed, world_seed in (("a", 1, 1), ("b", 1, 1), ("c", 2, 1), ("d", 1, 2)):
        make_corpus(tmp_path / name, size=SMALL, seed=seed, world_seed=world_seed)
    a, b, c, d = (contents(tmp_path / name) for name in "abcd")
    assert a == b
    assert a["train.en.jsonl"] != c["train.en.jsonl"]
    # The benchmark belongs to the world.
    assert a["benchmark/hi.jsonl"] == c["benchmark/hi.jsonl"] != d["benchmark/hi.jsonl"]


def test_a_second_run_does_nothing(tmp_path):
    make_corpus(tmp_path, size=SMALL)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make_corpus(tmp_path, size=SMALL)[1] is False
    assert make_corpus(tmp_path, size=SMALL, force=True)[1] is False
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


@pytest.mark.parametrize(
    "damage", ["other arguments", "changed", "missing", "no manifest", "foreign", "broken manifest"]
)
def test_anything_else_is_refused_and_replaced_only_by_force(damage, tmp_path):
    size = SMALL
    make_corpus(tmp_path, size=size)
    whole = contents(tmp_path)
    if damage == "other arguments":
        make_corpus(tmp_path, size=2 * SMALL, force=True)
    elif damage == "changed":
        (tmp_path / "valid.hi.jsonl").write_text("{}\n")
    elif damage == "missing":
        (tmp_path / "train.en.jsonl").unlink()
    elif damage == "no manifest":
        (tmp_path / "manifest.json").unlink()
    elif damage == "broken manifest":
        (tmp_path / "manifest.json").write_text("[1]")
    else:
        for path in list(tmp_path.rglob("*.json*")):
            path.unlink()
    before = contents(tmp_path)
    with pytest.raises(UserError, match="--force"):
        make_corpus(tmp_path, size=size)
    assert contents(tmp_path) == before
    assert make_corpus(tmp_path, size=size, force=True)[1]
    assert contents(tmp_path) == whole


def test_other_files_survive_force(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    make_corpus(tmp_path, size=SMALL, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert make_corpus(tmp_path, size=SMALL)[1] is False


@pytest.mark.parametrize("size", [0, 9_999, 10_000_000_001])
def test_sizes_out_of_range_are_refused(size, tmp_path):
    with pytest.raises(UserError, match="size"):
        make_corpus(tmp_path / "new", size=size)
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_way_is_a_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot make the directory"):
            make_corpus(out, size=SMALL)


def test_the_command(tmp_path):
    out = tmp_path / "corpus"
    first = run("--out", out, "--bytes", "60kB", "--people", 16)
    assert (first.returncode, first.stderr) == (0, "")
    assert "train.hi.jsonl" in first.stdout
    again = run("--out", out, "--bytes", "60kB", "--people", 16)
    assert again.returncode == 0 and "nothing to do" in again.stdout


@pytest.mark.parametrize(
    "arguments", [["--bytes", "4x"], ["--people", "7"], ["--bytes", "12"]]
)  # fmt: skip
def test_the_commands_errors_are_one_line(arguments, tmp_path):
    result = run("--out", tmp_path / "out", *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_help_shows_examples():
    result = run("--help")
    assert result.returncode == 0
    assert "examples:" in result.stdout and "python -m tools.make_corpus --out" in result.stdout
