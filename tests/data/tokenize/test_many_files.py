"""Many files, each to a prefix of its own: in any number of workers and parts, whatever becomes of one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.data.samples.indexed import check_prefix
from recipes.data.samples.source_files import open_source
from recipes.data.tokenize.many_files import Job, find_jobs, jobs_of_shard, parse_shard
from recipes.data.tokenize.preprocess import preprocess
from recipes.data.tokenizer.train import train_tokenizer
from recipes.errors import UserError
from recipes.files import sha256_file
from tests.support.compressed import compressed
from tests.support.paths import ROOT


def write_text(path: Path, lines: int, first: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f'{{"text": "boat {first + n} on the river"}}\n' for n in range(lines)))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    text = write_text(folder / "in.jsonl", 200)
    train_tokenizer([text], folder / "tok", vocab_size=290, model_type="bpe")
    return folder / "tok.model"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Four inputs, one compressed and one deeper."""
    for number, name in enumerate(("a", "b.v2", "deep/c", "d")):
        write_text(tmp_path / "in" / f"{name}.jsonl", 20 + 10 * number, 1000 * number)
    plain = tmp_path / "in" / "d.jsonl"
    shutil.copy(compressed(plain, ".gz"), tmp_path / "d.jsonl.gz")
    for leftover in (tmp_path / "in").glob("d.jsonl*"):
        leftover.unlink()
    shutil.move(tmp_path / "d.jsonl.gz", tmp_path / "in" / "d.jsonl.gz")
    return tmp_path / "in"


def run(model: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.preprocess", "--tokenizer", str(model), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, check=False
    )


def prefixes_of(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory))[:-4] for path in directory.rglob("*.idx"))


@pytest.mark.parametrize("workers", [1, 2, 6])
def test_each_file_as_by_itself(workers: int, model: Path, shards: Path, tmp_path: Path) -> None:
    done = run(model, shards, "--out-dir", tmp_path / "out", "--workers", workers)
    assert done.returncode == 0, done.stderr
    assert prefixes_of(tmp_path / "out") == ["a", "b.v2", "d", "deep/c"]
    for name, ending in (("a", ".jsonl"), ("b.v2", ".jsonl"), ("deep/c", ".jsonl"), ("d", ".jsonl.gz")):
        alone = preprocess([shards / f"{name}{ending}"], model, tmp_path / "alone")
        assert check_prefix(tmp_path / "out" / name).bin_sha256 == alone.bin_sha256
        for file in tmp_path.glob("alone*"):
            file.unlink()
    assert open_source(str(tmp_path / "out")).documents == 20 + 30 + 40 + 50
    again = run(model, shards, "--out-dir", tmp_path / "out", "--workers", workers)
    assert again.stderr.count("up to date") == 4


def test_parts_of_a_job_array(model: Path, shards: Path, tmp_path: Path) -> None:
    for task in (1, 2, 3):
        array = {"ID": str(task), "MIN": "1", "MAX": "3", "COUNT": "3"}
        names = {f"SLURM_ARRAY_TASK_{key}": value for key, value in array.items()}
        done = run(model, shards, "--out-dir", tmp_path / "out", **names)
        assert done.returncode == 0 and f"shard {task - 1} of 3" in done.stderr
    assert prefixes_of(tmp_path / "out") == ["a", "b.v2", "d", "deep/c"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_file_does_not_keep_the_others(workers: int, model: Path, shards: Path, tmp_path: Path) -> None:
    with (shards / "b.v2.jsonl").open("a") as stream:
        stream.write("no json\n")
    done = run(model, shards, "--out-dir", tmp_path / "out", "--workers", workers)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: 1 of 4 files failed: {shards}/b.v2.jsonl ({shards}/b.v2.jsonl:31: ")
    assert prefixes_of(tmp_path / "out" / "deep") == ["c"]
    assert prefixes_of(tmp_path / "out") == ["a", "d", "deep/c"]
    # Mended, only that one is done.
    write_text(shards / "b.v2.jsonl", 30, 1000)
    before = sha256_file(tmp_path / "out" / "a.json")
    done = run(model, shards, "--out-dir", tmp_path / "out", "--workers", workers)
    assert done.returncode == 0 and done.stderr.count("up to date") == 3
    assert sha256_file(tmp_path / "out" / "a.json") == before
    assert open_source(str(tmp_path / "out")).documents == 20 + 30 + 40 + 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{in}/x*", "--out-dir", "o"], "{in}/x*: no JSONL file there"),
        (["{in}/a.jsonl", "{in}/a.jsonl", "--out-dir", "o"], "would both become o/a: rename one"),
        (["{in}", "--out-dir", "o", "--shard", "4/4"], "--shard 4/4: give I/N with I from 0 to N - 1"),
        (["{in}", "--out", "o", "--shard", "0/4"], "--shard 0/4: one data set is made in one place"),
        (["{in}", "--out-dir", "o", "--workers", "0"], "--workers=0: must lie between 1 and 1,024"),
    ],
    ids=["nothing", "same_name", "shard", "shard_of_one", "workers"],
)
def test_refusals(arguments: list[str], message: str, model: Path, shards: Path) -> None:
    done = run(model, *(argument.replace("{in}", str(shards)) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and message.replace("{in}", str(shards)) in done.stderr


def test_parts_are_even_and_complete() -> None:
    jobs = [Job(f"{n}", f"{n}", size) for n, size in enumerate((90, 5, 40, 41, 10, 3, 90, 1))]
    parts = [jobs_of_shard(jobs, number, 3) for number in range(3)]
    assert sorted(job.path for part in parts for job in part) == sorted(job.path for job in jobs)
    assert [sum(job.size for job in part) for part in parts] == [95, 93, 92]
    assert [jobs_of_shard(jobs[::-1], number, 3) for number in range(3)] == parts


def test_which_part() -> None:
    assert parse_shard(None, {}) == (0, 1)
    assert parse_shard("3/16", {}) == (3, 16)
    numbers = {"ID": "5", "MIN": "0", "MAX": "7", "COUNT": "2"}
    array = {f"SLURM_ARRAY_TASK_{key}": value for key, value in numbers.items()}
    assert parse_shard("0/1", array) == (0, 1)
    with pytest.raises(UserError, match="a job array of 2 tasks from 0 to 7 has gaps"):
        parse_shard(None, array)


def test_one_data_set_of_a_directory(model: Path, shards: Path, tmp_path: Path) -> None:
    assert run(model, shards, "--out", tmp_path / "whole").returncode == 0
    assert check_prefix(tmp_path / "whole").documents == 20 + 30 + 40 + 50
    # Their names, not the order in which a file system lists them.
    assert [Path(job.path).name for job in find_jobs([str(shards)], "out")] == [
        "a.jsonl",
        "b.v2.jsonl",
        "d.jsonl.gz",
        "c.jsonl",
    ]
