"""Whole jobs through the command line: what is planted is found, interruptions and changed settings."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove", reason="needs pip install -e '.[data]'")

from recipes.data.clean.blocklists import document_hash
from recipes.files import exclusive_lock
from tests.support.clean_text import HINGLISH, MARATHI, nearly, stories, write_jsonl, write_mirror
from tests.support.html_page import Page
from tests.support.paths import ROOT

QUESTION = (
    "A farmer sold seven sacks of rice and bought nine goats "
    "with the money that a merchant from the hills paid"
)
PHONE = " Call +91 98765 43210 or write to asha@example.com."


def command(*settings: str) -> list[str]:
    return [sys.executable, "-m", "tools.clean", *settings]


def run(*settings: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def records(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


@dataclass(frozen=True)
class Job:
    """A job that has run, and what was planted in its input."""

    settings: list[str]
    out: Path
    done: subprocess.CompletedProcess[str]
    english: list[str]
    hindi: list[str]

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.out / "report.json").read_text())
        return report

    def dropped(self, name: str, reason: str) -> list[str]:
        return [record["text"] for record in records(self.out / "dropped" / name / reason)]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("clean")
    english, hindi = stories("en", 42), stories("hi", 40)
    first = [*english[:38], english[38] + PHONE]
    first += [english[i] for i in range(8)]  # exact copies, and near ones
    first += [nearly(english[i]) for i in range(8, 16)]
    first += [
        hindi[0],
        "\n".join(HINGLISH),
        "This text is too short for it.",
        "the same line and that is that\n" * 40,
    ]
    first += [f"{english[39]} {QUESTION}.", english[40] + " forbidden thing here", "<b>" + english[41]]
    other = [english[i] for i in range(16, 20)]  # copies in another source
    raw = write_jsonl(folder / "en.jsonl", first, url="https://example.com")
    with raw.open("a") as stream:
        stream.write('not json\n{"id": "x", "text": 5}\n{"text": "  "}\n\n{"text": "\\ud800"}\n')
    write_jsonl(folder / "other.jsonl.gz", other)
    write_jsonl(folder / "hi.jsonl.zst", [*hindi[1:], "\n".join(MARATHI * 2)])
    (folder / "words.txt").write_text("Forbidden Thing\n")
    (folder / "hashes.txt").write_text(document_hash("<b>" + english[41]) + "\n")
    mirror = write_mirror(folder / "mirror", {"org/quiz/default/test": [{"question": QUESTION + "?"}]})
    sources = (
        f"en: {{path: [{raw}], language: eng_Latn}}, "
        f"other: {{path: [{folder}/other.*], language: eng_Latn}}, "
        f"hi: {{path: [{folder}/hi.jsonl.zst], language: hin_Deva}}"
    )
    settings = [
        f"data.sources={{{sources}}}",
        f"output_dir={folder}/out",
        f"decontamination.mirror={mirror}",
        f"lists.words={{bad: {{path: {folder}/words.txt}}}}",
        f"lists.hashes={{known: {folder}/hashes.txt}}",
        "minhash.num_buckets=20",
        "minhash.hashes_per_bucket=5",
        "tasks=2",
        "workers=2",
    ]
    return Job(settings, folder / "out", run(*settings), english, hindi)


def test_it_ends_well(job: Job) -> None:
    assert job.done.returncode == 0, job.done.stderr
    assert "eng_Latn  exact_dedup" in job.done.stdout and "hin_Deva  quality" in job.done.stdout
    assert "Traceback" not in job.done.stderr
    assert "filter: 2 of 2 tasks" in job.done.stderr
    assert not (job.out / "work").exists()


def test_lines_that_are_no_documents(job: Job) -> None:
    reasons = job.report["sources"]["en"]["filters"]["read"]["reasons"]
    assert reasons == {"not_json": 2, "empty": 1, "no_text": 1}


def test_other_languages(job: Job) -> None:
    assert job.report["sources"]["en"]["filters"]["language"]["reasons"] == {
        "is_hin_Deva": 1,
        "is_hin_Latn": 1,
    }
    assert job.report["sources"]["hi"]["filters"]["language"]["reasons"] == {"is_mar_Deva": 1}
    assert job.dropped("language", "is_hin_Deva") == [job.hindi[0]]


def test_quality(job: Job) -> None:
    reasons = job.report["sources"]["en"]["filters"]["quality"]["reasons"]
    assert reasons["gopher_short_doc"] == 1 and reasons["dup_line_frac"] == 1


def test_duplicates_within_and_across_sources(job: Job) -> None:
    exact = job.dropped("exact_dedup", "duplicate")
    assert sorted(exact) == sorted(job.english[:8] + job.english[16:20])
    near = job.dropped("minhash", "duplicate")
    planted = {text for i in range(8, 16) for text in (job.english[i], nearly(job.english[i]))}
    assert len(planted & set(near)) == 8


def test_what_was_no_duplicate_stays(job: Job) -> None:
    kept = {record["text"] for record in records(job.out / "kept")}
    assert set(job.english[22:38]) <= kept and set(job.hindi[1:]) <= kept


def test_lists_and_benchmarks(job: Job) -> None:
    filters = job.report["languages"]["eng_Latn"]["filters"]
    assert filters["lists"]["reasons"] == {"bad": 1, "known": 1}
    assert filters["decontamination"]["reasons"] == {"org__quiz__default__test": 1}
    assert job.report["benchmark_n_grams"] == {"org/quiz/default/test": len(QUESTION.split()) - 13 + 1}


def test_masked_and_recorded(job: Job) -> None:
    texts = [record["text"] for record in records(job.out / "kept")]
    assert [text for text in texts if "<PHONE> or write to <EMAIL>." in text]
    assert not [text for text in texts if "98765" in text or "asha@" in text]
    assert job.report["languages"]["eng_Latn"]["pii"] == {"documents": 1, "email": 1, "phone": 1}
    record = next(records(job.out / "kept" / "en"))
    assert record["url"] == "https://example.com" and record["id"].startswith("en.jsonl-")
    assert (record["clean_source"], record["clean_language"]) == ("en", "eng_Latn")


def test_the_numbers_add_up(job: Job) -> None:
    for name, source in job.report["sources"].items():
        documents = [record for record in records(job.out / "kept") if record["clean_source"] == name]
        assert source["kept"]["documents"] == len(documents)
        assert source["kept"]["bytes"] == sum(len(record["text"].encode()) for record in documents)
        filters = list(source["filters"].values())
        for before, after in itertools.pairwise(filters):
            assert after["documents_in"] == before["documents_kept"]
        for counts in filters:
            assert counts["documents_dropped"] == sum(counts["reasons"].values())
            assert counts["bytes_dropped"] == counts["bytes_in"] - counts["bytes_kept"] >= 0
    dropped = sum(1 for _ in records(job.out / "dropped"))
    languages = job.report["languages"].values()
    assert dropped == sum(c["documents_dropped"] for entry in languages for c in entry["filters"].values())


def test_the_page_escapes_what_it_shows(job: Job) -> None:
    page = Page(job.out / "report.html")
    assert "exact_dedup: duplicate" in page.text and 'lang="hi"' in page.html
    assert "<b>" in page.text and "<b>" not in page.html


def test_the_same_again_and_another(job: Job) -> None:
    again = run(*job.settings)
    assert (again.returncode, again.stdout) == (0, job.done.stdout)
    assert "filter" not in again.stderr
    other = run(*job.settings, "minhash.n_grams=6")
    assert other.returncode == 2
    message = "holds a job with another minhash.n_grams: take another directory or remove this one\n"
    assert other.stderr == f"error: output_dir={job.out}: {message}"


def test_interrupted_and_continued(job: Job, tmp_path: Path) -> None:
    settings = [*job.settings, f"output_dir={tmp_path}/out", "workers=1"]
    with subprocess.Popen(command(*settings), cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
        while not (tmp_path / "out/logs/exact_find/completions/00000").exists():
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=240)
    assert (process.returncode, out) == (130, ""), err
    assert err.endswith("interrupted\n") and "Traceback" not in err
    assert not (tmp_path / "out/report.json").exists()
    first = (tmp_path / "out/logs/filter/completions/00000").stat().st_mtime_ns
    with (tmp_path / "out/lock").open("a") as stream:
        assert exclusive_lock(stream)
        second = run(*settings)
    message = f"error: output_dir={tmp_path}/out: another process works there: wait for it\n"
    assert (second.returncode, second.stderr) == (2, message)
    done = run(*settings)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/logs/filter/completions/00000").stat().st_mtime_ns == first
    ours = json.loads((tmp_path / "out/report.json").read_text())
    assert ours["sources"] == job.report["sources"]


def workers_of(parent: int) -> list[int]:
    """The worker processes of a job."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            is_child = entry.name.isdigit() and f"\nPPid:\t{parent}\n" in (entry / "status").read_text()
            if is_child and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def is_running(process: int) -> bool:
    """Not ended, nor only waiting to be asked how it ended."""
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    return False


def test_a_worker_that_is_killed_ends_the_job(job: Job, tmp_path: Path) -> None:
    settings = [*job.settings, f"output_dir={tmp_path}/out"]
    with subprocess.Popen(command(*settings), cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
        while len(workers := workers_of(process.pid)) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(workers[1], signal.SIGKILL)
        _, err = process.communicate(timeout=240)
    assert process.returncode == 2
    assert re.search(r"\nerror: a worker process died in stage \w+ \(out of memory\?\): .*\n$", err), err


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_job_that_is_killed_leaves_nothing_in_the_way(job: Job, tmp_path: Path, number: int) -> None:
    settings = [*job.settings, f"output_dir={tmp_path}/out"]
    with subprocess.Popen(command(*settings), cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
        while not (tmp_path / "out/logs/filter/completions/00000").exists():
            assert process.poll() is None
            time.sleep(0.005)
        workers = workers_of(process.pid)
        process.send_signal(number)
        process.communicate(timeout=240)  # Until the workers have closed these pipes too.
    assert len(workers) == 2 and not any(map(is_running, workers))
    done = run(*settings)
    assert done.returncode == 0, done.stderr
    ours = json.loads((tmp_path / "out/report.json").read_text())
    assert ours["sources"] == job.report["sources"]


def test_everything_off_but_masking(tmp_path: Path) -> None:
    texts = ["twice 9876543210", "twice 9876543210", "un texte très court"]
    source = write_jsonl(tmp_path / "en.jsonl", texts, clean_source="an earlier run", rank="7")
    done = run(
        f"data.sources={{en: {{path: [{source}], language: eng_Latn}}}}",
        f"output_dir={tmp_path}/out",
        *(f"{name}.enabled=false" for name in ("language", "quality", "exact_dedup", "minhash")),
        "stats.enabled=true",
        "tasks=1",
    )
    assert done.returncode == 0, done.stderr
    kept = [record["text"] for record in records(tmp_path / "out/kept")]
    assert kept == ["twice <PHONE>", "twice <PHONE>", "un texte très court"]
    assert (tmp_path / "out/stats/summary/length/00000.json").is_file()


def test_everything_dropped(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "en.jsonl", ["This is too short to be of use."] * 3)
    done = run(
        f"data.sources={{en: {{path: [{source}], language: eng_Latn}}}}",
        f"output_dir={tmp_path}/out",
        "tasks=2",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())["languages"]["eng_Latn"]
    assert report["filters"]["quality"]["reasons"] == {"gopher_short_doc": 3}
    assert report["kept"] == {"documents": 0, "bytes": 0}


FAKE_SBATCH = """#!/bin/sh
n=$(ls {folder} | wc -l)
for last; do :; done
(echo "ARGS $*"; cat "$last") > {folder}/$n
echo Submitted batch job $((n + 100))
"""


def test_slurm_jobs_wait_for_each_other(job: Job, tmp_path: Path) -> None:
    scripts, bin_folder = tmp_path / "scripts", tmp_path / "bin"
    scripts.mkdir()
    bin_folder.mkdir()
    (bin_folder / "sbatch").write_text(FAKE_SBATCH.format(folder=scripts))
    (bin_folder / "squeue").write_text(f"#!/bin/sh\ntest -e {tmp_path}/queued && echo $3\n")
    for program in bin_folder.iterdir():
        program.chmod(0o755)
    slurm = ["executor=slurm", "slurm.partition=cpu", "slurm.sbatch_args={account: text}", "workers=1"]
    slurm += [f"output_dir={tmp_path}/out", "slurm.env_command='source /venv/bin/activate'"]
    done = run(*job.settings, *slurm, PATH=f"{bin_folder}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    submitted = [path.read_text() for path in sorted(scripts.iterdir(), key=lambda path: int(path.name))]
    stages = [text for text in submitted if "merge_stats" not in text]
    names = [text.split("--job-name=")[1].split()[0] for text in stages]
    assert names == [
        f"clean_{name}"
        for name in (
            "benchmark_index",
            "filter",
            "exact_find",
            "exact_drop",
            "minhash_buckets",
            "minhash_cluster",
            "finish",
            "report",
        )
    ]
    for before, text in itertools.pairwise(stages):
        assert f"--dependency=afterok:{submitted.index(before) + 100} " in text.splitlines()[0]
    assert "#SBATCH --array=0-1%1\n" in stages[1] and "#SBATCH --array=0-19%1\n" in stages[4]
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in stages[0]
    assert "#SBATCH --account=text\n" in stages[0] and "source /venv/bin/activate\n" in stages[0]
    assert f"launch_pickled_pipeline {tmp_path}/out/logs/filter/executor.pik" in stages[1]
    (tmp_path / "queued").touch()
    again = run(*job.settings, *slurm, PATH=f"{bin_folder}:{os.environ['PATH']}")
    last = 100 + submitted.index(stages[-1])
    assert again.returncode == 2
    assert again.stderr == (
        f"error: output_dir={tmp_path}/out: job {last} is still in the queue: wait for it or cancel it\n"
    )
