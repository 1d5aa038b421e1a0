"""Jobs besides pretraining: what is submitted for them, word for word, and what is refused before."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import tools.launch
from recipes.arguments import understood
from recipes.errors import UserError
from recipes.launch.job_kinds import KINDS, job_directory
from recipes.launch.launched import Launched, kind_of_jobs, log_files, remember
from recipes.launch.other_jobs import launch_job
from recipes.launch.progress import job_progress
from recipes.launch.slurm import CLEARED, JOB_SCRIPT
from tests.support.corpus import TinyData
from tests.support.paths import ROOT

CLUSTER = ["cluster=shakti_512xh100", "cluster.nodes=2", "cluster.launch.account=lm"]
ONE = ["cluster=shakti_512xh100", "cluster.nodes=1"]
SHOWN = "dry_run=true"


@pytest.fixture(autouse=True)
def clean_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CLEARED:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Looks like a checkpoint."""
    path = tmp_path / "step_00000010"
    path.mkdir()
    (path / "manifest.json").write_text("{}", encoding="utf-8")
    return path


def shown(capsys: pytest.CaptureFixture[str], job: str, settings: list[str], *tool: str) -> list[str]:
    launch_job(job, [*settings, SHOWN], list(tool))
    return shlex.split(capsys.readouterr().out)


def test_evaluation_has_a_task_for_each_gpu(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"gpt_model_file={model}", "tasks=[boolq]", "tensor_model_parallel_size=4"]
    words = shown(capsys, "evaluate", [*CLUSTER, *settings])
    assert {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--account=lm", "--exclusive"} <= set(
        words
    )
    directory = job_directory("evaluate", settings)
    assert words[words.index(JOB_SCRIPT) + 1 :] == [f"{directory}/logs/slurm", "recipes.evaluate", *settings]
    assert f"--output={directory}/logs/slurm/%j.out" in words


@pytest.fixture
def tokenizer(tiny_data: TinyData, tmp_path: Path) -> Path:
    path = tmp_path / "a b.model"
    path.write_bytes(tiny_data.tokenizer.read_bytes())
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "shards/a.jsonl"
    path.parent.mkdir()
    path.write_text('{"text": "one", "prompt": "a", "completion": "b"}\n', encoding="utf-8")
    return path


def test_preprocessing_is_an_array(tokenizer: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = (str(text.parent), "--tokenizer", str(tokenizer), "--out-dir", str(text.parent / "web"))
    tool += ("--workers", "32")
    words = shown(capsys, "preprocess", [*CLUSTER, "cluster.launch.cpus_per_task=32"], *tool)
    assert {"--array=0-1", "--cpus-per-task=32"} <= set(words)
    assert not any(word.startswith(("--nodes", "--gpus", "--exclusive")) for word in words)
    assert words[-len(tool) - 1 :] == ["tools.preprocess", *tool]


def test_a_tool_is_one_task(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = (str(model), str(tmp_path / "hf"), "--to", "hf")
    words = shown(capsys, "convert", ONE, *tool)
    assert words[-5:] == ["tools.convert", *tool]
    assert not any(word.startswith(("--gpus", "--array")) for word in words)
    local = shown(capsys, "convert", ["cluster=local", "cluster.gpus_per_node=4"], *tool)
    assert local == [sys.executable, "-m", "tools.convert", *tool]
    docker = shown(capsys, "convert", ["cluster=docker"], *tool)
    assert docker[:2] == ["docker", "run"] and docker[-6:] == ["-m", "tools.convert", *tool]
    assert "--gpus=all" not in docker


MODEL, TOKENIZER, TEXT, NEW, PLACE = "MODEL", "TOKENIZER", "TEXT", "NEW", "PLACE"
"""Stand for a model's directory, a tokenizer, a text, a path where nothing is yet, one below a file."""


@pytest.mark.parametrize(
    ("job", "tool", "why"),
    [
        ("preprocess", ["/no/such", "--tokenizer", TOKENIZER, "--out-dir", NEW], "/no/such: no JSONL file"),
        ("preprocess", [TEXT, "--tokenizer", "/no/t", "--out-dir", NEW], "cannot read the tokenizer /no/t"),
        ("preprocess", [TEXT, "--tokenizer", TOKENIZER, "--out-dir", PLACE], "Not a directory"),
        ("preprocess", [TEXT, "--tokenizer", TOKENIZER, "--out", PLACE], "Not a directory"),
        ("preprocess", [TEXT, "--tokenizer", TOKENIZER, "--out", NEW, "--text-kye", "a"], "--text-kye"),
        ("train_tokenizer", [TEXT, "/no/such.jsonl", "--out", NEW], "/no/such.jsonl"),
        ("train_tokenizer", [TEXT, "--out", PLACE], "Not a directory"),
        ("train_tokenizer", [TEXT, "--weights", "1", "2", "--out", NEW], "one positive weight per input"),
        ("tokenizer_report", ["/no/t", "--text", TEXT], "cannot read the tokenizer /no/t"),
        ("tokenizer_report", [TOKENIZER, "--text", TEXT, "/no/such.jsonl"], "/no/such.jsonl"),
        ("prepare_chats", ["/no/such", "--tokenizer", TOKENIZER, "--out", NEW], "/no/such: no JSONL file"),
        (
            "prepare_chats",
            [TEXT, "--tokenizer", TOKENIZER, "--template", "/no/x", "--out", NEW],
            "chat template /no/x",
        ),
        ("prepare_chats", [TEXT, "--tokenizer", TOKENIZER, "--out", PLACE], "Not a directory"),
        ("download", ["local", "/no/*.txt", "--out", NEW], "/no/*.txt"),
        ("download", ["wikipedia_hindi", "--out", NEW], "wikipedia_hindi"),
        ("download", ["wikipedia_hi", "--out", NEW, "--text-key", "a"], "--text-key"),
        ("download", ["wikipedia_hi", "--out", PLACE], "Not a directory"),
        ("download", ["wikipedia_hi", "--mirror", "/no/mirror", "--out", NEW], "/no/mirror"),
        ("prefetch_benchmarks", [NEW, "eval=param1_tabel"], "param1_tabel"),
        ("prefetch_benchmarks", [NEW, "--tasks", "boolqq"], "boolqq"),
        ("prefetch_benchmarks", [PLACE, "--tasks", "boolq"], "Not a directory"),
        ("prefetch_benchmarks", [NEW, "--tasks", "boolq", "--source", "/no/mirror"], "/no/mirror"),
        ("average", ["/no/run", "--last", "2"], "/no/run"),
        ("average", [MODEL, MODEL, "--out", MODEL], "exists"),
        ("pack", ["/no/dir", NEW], "/no/dir: no such directory"),
        ("pack", [MODEL, TEXT], "exists; name a new file"),
        ("release", ["/no/run", NEW, "--licence", "mit"], "/no/run"),
        ("release", [MODEL, TEXT, "--licence", "mit"], "exists"),
    ],
)
def test_what_a_tool_would_refuse_is_not_submitted(
    job: str, tool: list[str], why: str, model: Path, tokenizer: Path, text: Path, tmp_path: Path
) -> None:
    """By the tool's own checks, which leave nothing behind."""
    paths = {MODEL: model, TOKENIZER: tokenizer, TEXT: text, NEW: tmp_path / "new", PLACE: text / "below"}
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as refused:
        launch_job(job, ONE, [str(paths.get(word, word)) for word in tool])
    assert why in str(refused.value) and "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == there


@pytest.mark.parametrize(
    ("job", "tool"),
    [
        ("preprocess", [TEXT, "--tokenizer", TOKENIZER, "--out", NEW]),
        ("train_tokenizer", [TEXT, "--out", NEW]),
        ("train_tokenizer", [TEXT, "--out", NEW, "--type", "byte_bpe"]),
        ("tokenizer_report", [TOKENIZER, "--text", TEXT]),
        ("prepare_chats", [TEXT, "--tokenizer", TOKENIZER, "--out", NEW]),
        ("download", ["local", TEXT, "--out", NEW]),
        ("download", ["wikipedia_hi", "--out", NEW, "--dry-run"]),
        ("prefetch_benchmarks", [NEW, "eval=param1_table"]),
        ("prefetch_benchmarks", [NEW, "eval=param1_table", "--dry-run"]),
        ("average", [MODEL, MODEL, "--out", NEW]),
        ("pack", [MODEL, NEW]),
    ],
)
def test_a_job_that_is_launched_has_not_begun(
    job: str,
    tool: list[str],
    model: Path,
    tokenizer: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The tool's own checks end before it writes, or asks a network that this machine may not have."""
    paths = {MODEL: model, TOKENIZER: tokenizer, TEXT: text, NEW: tmp_path / "new"}
    words = [str(paths.get(word, word)) for word in tool]
    there = sorted(tmp_path.rglob("*"))
    assert shown(capsys, job, ONE, *words)[-len(words) :] == words
    assert sorted(tmp_path.rglob("*")) == there


def test_evaluation_on_this_machine(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"gpt_model_file={model}", "tasks=[boolq]"]
    words = shown(capsys, "evaluate", ["cluster=local", "cluster.gpus_per_node=2", *settings])
    assert words[1:3] == ["-m", "torch.distributed.run"] and words[-3:] == ["recipes.evaluate", *settings]


@pytest.mark.parametrize(
    ("job", "settings", "tool", "why"),
    [
        ("paint", CLUSTER, [], "job=paint: choose pretrain or one of"),
        ("evaluate", CLUSTER, ["x"], "-- x: would be ignored"),
        ("evaluate", [*CLUSTER, "gpt_model_file=/no/such.nemo", "tasks=[boolq]"], [], "/no/such.nemo"),
        ("evaluate", [*CLUSTER, "gpt_model_file=x", "tasks=[bolq]"], [], "bolq"),
        ("evaluate", [*CLUSTER, "limt=3"], [], "limt"),
        ("convert", ONE, ["a", "b", "--to", "onnx"], "onnx"),
        ("convert", ONE, ["/no/such.nemo", "b", "--to", "hf"], "/no/such.nemo"),
        ("convert", CLUSTER, ["a", "b", "--to", "hf"], "cluster.nodes=2"),
        ("convert", [*ONE, "limit=3"], ["a", "b", "--to", "hf"], "limit=3: job=convert is a tool"),
        ("preprocess", CLUSTER, ["a.jsonl", "--tokenizer", "t", "--out", "x"], "use --out-dir"),
        ("preprocess", CLUSTER, ["a", "--tokenizer", "t", "--out-dir", "x", "--shard", "0/2"], "--shard 0/2"),
        ("convert", [*ONE, "cluster.launch.chain=2"], [], "cluster.launch.chain=2"),
        ("convert", [*ONE, "cluster.launch.health.gpus=8"], [], "health.gpus=8: would be ignored"),
        ("convert", [], ["a", "b", "--to", "hf"], "no cluster"),
    ],
)
def test_refusals(job: str, settings: list[str], tool: list[str], why: str) -> None:
    with pytest.raises(UserError) as refused:
        launch_job(job, settings, tool)
    assert why in str(refused.value)


@pytest.mark.parametrize("setting", ["check=/no/such.yaml", "mirror=/no/mirror"])
def test_what_an_evaluation_would_refuse_is_not_submitted(setting: str, model: Path) -> None:
    with pytest.raises(UserError, match=setting.partition("=")[2]):
        launch_job("evaluate", [*CLUSTER, f"gpt_model_file={model}", "tasks=[boolq]", setting], [])


def test_every_kind_is_a_module() -> None:
    for name, kind in KINDS.items():
        assert (ROOT / f"{kind.module.replace('.', '/')}.py").exists(), name


def test_only_the_command_line_of_a_tool_is_read() -> None:
    from tools.convert import main

    before = list(sys.argv)
    options = understood(main, ["/no/such.nemo", "b", "--to", "hf"])
    assert options.to == "hf" and sys.argv == before
    with pytest.raises(UserError, match="--too"):
        understood(main, ["a", "b", "--too", "hf"])


def test_a_launched_job_is_followed_by_its_kind(tmp_path: Path) -> None:
    assert kind_of_jobs(tmp_path) == "pretrain"
    remember(tmp_path, Launched("12", 1.0, "sbatch x", "preprocess"))
    assert kind_of_jobs(tmp_path) == "preprocess"
    assert job_progress(tmp_path, True) == ["log        nothing yet"]
    logs = tmp_path / "logs/slurm"
    (logs / "12_0.out").write_text("one\ntwo\n", encoding="utf-8")
    assert job_progress(tmp_path, True) == [f"log        {logs / '12_0.out'}: two"]
    for name in ("9.0.node0.log", "12.0.0-0-node0.log", "12.0.1-2-node1.log"):
        (logs / name).touch()
    assert [path.name for path in log_files(tmp_path)] == ["12.0.0-0-node0.log", "12.0.1-2-node1.log"]


def test_a_job_is_launched_from_the_project_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a job takes relative paths; what runs on this machine takes them from where the user is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    refused = f"a job of Slurm runs in the project directory.*: cd {ROOT}"
    with pytest.raises(UserError, match=refused):
        launch_job("download", ["cluster=cpu_nodes", "dry_run=true"], ["fineweb", "--out", "a"])
    monkeypatch.setattr(sys, "argv", ["launch", "experiment=quickstart", "cluster=cpu_nodes", "dry_run=true"])
    with pytest.raises(UserError, match=refused):
        tools.launch.main()


def test_how_a_job_has_ended(tmp_path: Path) -> None:
    """Each part's script says its code last; one that says none was ended from outside."""
    remember(tmp_path, Launched("12", 1.0, "sbatch x", "preprocess"))
    logs = tmp_path / "logs/slurm"
    (logs / "123.out").write_text("of another job", encoding="utf-8")

    def result(*codes: int | None) -> str:
        for part, code in enumerate(codes):
            ended = "" if code is None else f"[now] job 12, restart 0: srun ended, exit code {code}\n"
            (logs / f"12_{part}.out").write_text(f"starting\n{ended}", encoding="utf-8")
        return job_progress(tmp_path, False)[1]

    again = "launched again, it goes on after what is done"
    assert result(0) == "result     complete"
    assert result(3) == f"result     exit code 3; {again}"
    assert result(2) == f"result     exit code 2; correct that first; {again}"
    outside = "ended from outside: cancelled, or by a lost node or its time limit"
    assert result(0, 1, None) == f"result     2 of 3 parts: exit code 1; {outside}; {again}"


def test_what_a_job_has_refused_with_is_told(tmp_path: Path) -> None:
    remember(tmp_path, Launched("12", 1.0, "sbatch x", "convert"))
    logs = tmp_path / "logs/slurm"
    (logs / "12.out").write_text("[now] job 12, restart 0: srun ended, exit code 2\n", encoding="utf-8")
    (logs / "12.0.node0.log").write_text("0: reading\n0: error: no room\n", encoding="utf-8")
    (logs / "12.0.node1.log").write_text("1: error: no room\n1: no error: fine\n", encoding="utf-8")
    assert job_progress(tmp_path, False)[2:] == ["said       error: no room"]
    assert len(job_progress(tmp_path, True)) == 1


@pytest.mark.parametrize("name", sorted(name for name, kind in KINDS.items() if not kind.settings))
def test_a_tool_is_only_read_before_it_is_launched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever way of reading a command line it uses, it does not begin."""
    needed = {
        "average": ["run"],
        "convert": ["a.nemo", "b", "--to", "hf"],
        "download": ["wikipedia_hi", "--out", "a"],
        "pack": ["a", "b.nemo"],
        "prefetch_benchmarks": ["mirror", "eval=minibench"],
        "prepare_chats": ["a.jsonl", "--tokenizer", "t.model", "--out", "b"],
        "preprocess": ["a.jsonl", "--tokenizer", "t.model", "--out", "b"],
        "release": ["run", "out", "--licence", "mit"],
        "tokenizer_report": ["t.model", "--text", "a.txt"],
        "train_tokenizer": ["a.jsonl", "--out", "t"],
    }
    main = importlib.import_module(KINDS[name].module).main
    options = vars(understood(main, needed[name]))
    assert needed[name][0] in (word for value in options.values() for word in np.ravel([value]).astype(str))


def test_a_cleaning_job_that_was_refused_is_one(tmp_path: Path) -> None:
    assert kind_of_jobs(tmp_path) == "pretrain"
    (tmp_path / "job.json").write_text("{}", encoding="utf-8")
    assert kind_of_jobs(tmp_path) == "clean"


def test_the_stage_in_which_cleaning_has_stopped(tmp_path: Path) -> None:
    for stage, ranks, done in (("b_first", 1, 1), ("a_second", 2, 1), ("c_third", 1, 0)):
        (tmp_path / f"logs/{stage}/completions").mkdir(parents=True)
        (tmp_path / f"logs/{stage}/ranks_to_run.json").write_text(str([*range(ranks)]), encoding="utf-8")
        for rank in range(done):
            (tmp_path / f"logs/{stage}/completions/{rank:05d}").touch()
    for stage, time in (("b_first", 1), ("a_second", 2), ("c_third", 3)):
        os.utime(tmp_path / f"logs/{stage}/ranks_to_run.json", (time, time))
    stage = f"stage      a_second: 1 of 2 tasks done; {tmp_path}/logs/a_second/slurm_logs"
    assert job_progress(tmp_path, True) == [stage]
    ended = "report     none: the job has ended before; launched again, it goes on after what is done"
    assert job_progress(tmp_path, False) == [stage, ended]
    (tmp_path / "report.json").touch()
    assert job_progress(tmp_path, False) == [f"report     {tmp_path}/report.html: the job is complete"]


def test_logs_of_a_cleaning_job(tmp_path: Path) -> None:
    (tmp_path / "logs/read/slurm_logs").mkdir(parents=True)
    (tmp_path / "logs/read/slurm_logs/7_0.out").touch()
    assert [path.name for path in log_files(tmp_path)] == ["7_0.out"]
