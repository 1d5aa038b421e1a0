"""The jobs' command lines: one line for the user's mistakes, at once, without importing the engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.spy import ENGINE, Spied, spy

REFUSED = [
    (
        "pretrain",
        ["experiment=quickstart", "model.num_layer=3"],
        "model.num_layer: there is no such key; did you mean model.num_layers?",
    ),
    ("pretrain", ["experiment=quickstart", "lr=3"], "lr: there is no such key; did you mean optim.lr?"),
    (
        "pretrain",
        ["experiment=quickstart", "zzzz=3"],
        "zzzz: there is no such key; --cfg job prints all keys",
    ),
    ("pretrain", ["experiment=quickstart", "+model.colour=red"], "model.colour: there is no such key"),
    (
        "pretrain",
        ["experiment=quickstart", "model.num_layers=many"],
        "model.num_layers=many: must be a whole number such as 2000, 2e3, 2k, 1.5M, 2B or 7.5T",
    ),
    ("pretrain", ["experiment=quickstart", "optim.betas=[0.9]"], "optim.betas=[0.9]: give two numbers"),
    (
        "pretrain",
        ["experiment=quickstart", "trainer.precision=fp4"],
        "trainer.precision=fp4: choose one of auto, bf16, fp32, fp16, fp8",
    ),
    ("pretrain", ["experiment=nothing"], "experiment=nothing: there is no such option; choose one of gemma3"),
    ("pretrain", ["model=tinny"], "model=tinny: there is no such option; did you mean tiny?"),
    ("pretrain", ["experiment=quickstart", "model.num_layers"], "model.num_layers"),
    (
        "pretrain",
        ["experiment=quickstart", "data.train.en.weigth=1"],
        "data.train.en.weigth: there is no such key",
    ),
    (
        "pretrain",
        ["experiment=quickstart", "+data.train.en.colour=1"],
        "data.train.en.colour: there is no such key",
    ),
    (
        "pretrain",
        ["experiment=quickstart", "data.train.de={path:x}"],
        "data.train.de: give a new entry as a whole, 'data.train={de:",
    ),
    (
        "pretrain",
        ["experiment=quickstart", "+data.train.de.path=x"],
        "data.train.de: give a new entry as a whole",
    ),
    (
        "pretrain",
        ["experiment=quickstart", "plan=measure"],
        "plan=measure: holds several settings: give one of them, such as plan.device=...",
    ),
    ("pretrain", ["experiment=quickstart", "trainer.guards=3"], "trainer.guards=3: holds several settings"),
    ("pretrain", ["name=x"], "data.seq_length has no value: set it on the command line, data.seq_length=..."),
    (
        "pretrain",
        ["experiment=quickstart", "data_dir=nowhere"],
        "nowhere/train_en.bin does not exist: give the prefix",
    ),
    (
        "pretrain",
        ["name=x", "--epochs=3"],
        "--epochs: settings are key=value, without dashes; epochs: there is",
    ),
    (
        "pretrain",
        ["--experiment", "quickstart"],
        "settings are written without dashes: experiment=quickstart",
    ),
    ("pretrain", ["--max-steps=5"], "--max-steps: settings are written without dashes: trainer.max_steps=5"),
    ("pretrain", ["name=x", "--multi"], "--multi: there is no such option; did you mean --multirun?"),
    ("pretrain", ["name=x", "-x"], "unrecognized arguments: -x"),
    ("pretrain", ["--shell-completion"], "for example --shell-completion install=bash"),
    ("pretrain", ["--info", "nothing"], "invalid choice: 'nothing'"),
    ("pretrain", ["trainer=null"], "trainer=null: choose one of default, or leave it out"),
    ("pretrain", ["experiment="], "experiment=: choose one of gemma3_hindi_270m, lumen"),
    ("pretrain", ["model=3"], "model=3: choose one of gemma3_hindi_270m"),
    ("pretrain", ["=3"], "=3: settings are written key=value"),
    ("pretrain", ["name=x", "optim.lr=null"], "optim.lr=null: must have a value"),
    ("pretrain", ["quickstart"], "settings are written key=value; did you mean experiment=quickstart?"),
    ("pretrain", ["name=x", "max_steps"], "settings are written key=value: trainer.max_steps=..."),
    (
        "pretrain",
        ["name=x", "optim.lr=1e-3,1e-2"],
        "optim.lr=1e-3,1e-2: write a list in brackets, [a,b]; with",
    ),
    (
        "pretrain",
        ["name=x", "trainer.max_steps=1.5"],
        "trainer.max_steps=1.5: must be a whole number such as 2000, 2e3, 2k, 1.5M, 2B or 7.5T (Optimizer",
    ),
    (
        "pretrain",
        ["name=x", "trainer.max_tokens=1.0005k"],
        "trainer.max_tokens=1.0005k: must be a whole number",
    ),
    ("pretrain", ["name=x", "data.train={en:{path:x,tokens:1.5}}"], "must be a whole number"),
    (
        "pretrain",
        ["name=x", "optim.lr=fast"],
        "optim.lr=fast: must be a number (Peak learning rate; with muon, of the matrices)",
    ),
    ("pretrain", ["name=x", "data.skip=[5]"], "data.skip=[5]: must be a list of lists of whole numbers, [["),
    ("pretrain", ["name=x", "data.skip=[[a,b]]"], "data.skip=[[a,b]]: must be a list of lists of whole"),
    ("pretrain", ["name=x", "optim.groups=3"], "optim.groups=3: must be a list of settings, [{key:value"),
    ("pretrain", ["name=x", "optim.groups=[{lr_mult:a}]"], "optim.groups: lr_mult=a: must be a number"),
    ("pretrain", ["name=x", "data.train=3"], "data.train=3: must be settings, {key:value,...} (Name of"),
    (
        "pretrain",
        ["name=x", "trainer.gradient_clip_val=1"],
        "trainer.gradient_clip_val: there is no such key; here it is optim.clip_grad: Largest global",
    ),
    (
        "pretrain",
        ["name=x", "trainer.accelerator=gpu"],
        "and nothing to set: CUDA is used where there is any",
    ),
    (
        "pretrain",
        ["name=x", "data.seq_length=8", "trainer.max_steps=1", "trainer.precision=bf16-mixed"],
        "trainer.precision=bf16-mixed: choose one of auto, bf16, fp32, fp16, fp8; here it is bf16",
    ),
    (
        "pretrain",
        ["help=trainer.compil"],
        "trainer.compil: there is no such key; did you mean trainer.compile?",
    ),
    (
        "pretrain",
        ["experiment=quickstart", "data.valid={}"],
        "data.valid={}: would change nothing: entries stay until removed, ~data.valid.en ~data.valid.hi",
    ),
    (
        "pretrain",
        ["experiment=quickstart", "~data.valid"],
        "~data.valid: cannot be removed as a whole: give it a value, or remove entries of it",
    ),
    ("pretrain", ["name=x", "--cfg", "jobs"], "argument --cfg/-c: invalid choice: 'jobs'"),
    ("generate", ["prompts=[x]"], "gpt_model_file has no value"),
    ("generate", ["gpt_model_file=no.nemo", "prompts=[x]"], "gpt_model_file=no.nemo: no such file"),
    (
        "generate",
        ["gpt_model_file=no.nemo", "temperature=1"],
        "temperature: there is no such key; did you mean inference.temperature?",
    ),
    ("evaluate", ["gpt_model_file=no.nemo", "eval=minibench"], "gpt_model_file=no.nemo: no such file"),
    (
        "evaluate",
        ["gpt_model_file=x", "eval=tables"],
        "eval=tables: there is no such option; choose one of bits_per_byte, indic, "
        "indic_reasoning, lumen, minibench, param1_table, smoke",
    ),
    (
        "evaluate",
        ["gpt_model_file=no.nemo", "tasks=[arc_eazy]"],
        "lm-eval has no task 'arc_eazy': did you mean arc_easy",
    ),
    (
        "evaluate",
        [
            "gpt_model_file=tests/fixtures/nemo/classic_te_single/model.nemo",
            "tasks=[boolq]",
            "rows=[{name:X,task:x,metric:acc}]",
        ],
        "rows[0].metric=acc: give lm-eval's full name, acc,none",
    ),
    (
        "evaluate",
        [
            "gpt_model_file=tests/fixtures/nemo/classic_te_single/model.nemo",
            "eval=param1_table",
            "+rows.0.nonsense=1",
        ],
        "rows[0].nonsense: there is no such key",
    ),
    (
        "evaluate",
        ["gpt_model_file=tests/fixtures/nemo/classic_te_single/model.nemo", "rows=[{name:X,tusk:x}]"],
        "rows: its entries have no key 'tusk'; did you mean task?",
    ),
    (
        "evaluate",
        [
            "gpt_model_file=tests/fixtures/nemo/classic_te_single/model.nemo",
            "tasks=[boolq]",
            "rows=[{name:X,task:x}]",
        ],
        "rows[0].metric has no value: set it on the command line, rows.0.metric=...",
    ),
]


HYDRA = "recipes.config.hydra_app"


@pytest.fixture(scope="module")
def refusals() -> list[Spied]:
    """What each of REFUSED answers."""
    return spy(*([f"recipes.{job}", *arguments] for job, arguments, _ in REFUSED), preload=HYDRA)


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[f"{job} {' '.join(a)}" for job, a, _ in REFUSED])
def test_mistakes_are_one_line_and_2(number: int, refusals: list[Spied]) -> None:
    code, out, err, imported = refusals[number]
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert REFUSED[number][2] in err
    assert out == ""
    assert not imported & ENGINE


def test_help() -> None:
    jobs = ("pretrain", "generate", "evaluate")
    for job, (code, out, err, imported) in zip(
        jobs, spy(*([f"recipes.{job}", "--help"] for job in jobs)), strict=True
    ):
        assert (code, err, imported & ENGINE) == (0, "", set())
        assert f"python -m recipes.{job}" in out and "Examples" in out
        assert "Settings (key=value)" in out and "help=KEY explains" in out


def test_dry_run_and_cfg_need_no_engine() -> None:
    settings = ["name=try", "model=tiny", "data.seq_length=128", "trainer.max_steps=100"]
    dry, cfg = spy(
        ["recipes.pretrain", *settings, "dry_run=true"], ["recipes.pretrain", *settings, "--cfg", "job"]
    )
    for code, _, err, imported in (dry, cfg):
        assert (code, err, imported & ENGINE) == (0, "", set())
    assert "tokens per step" in dry.out and "max_steps: 100" in cfg.out


def test_nothing_is_written(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "recipes.pretrain",
        "experiment=quickstart",
        f"output_dir={tmp_path}/out",
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seeds", ["-1,1", "1,-1"])
def test_sweep_does_not_hide_a_refusal(tmp_path: Path, seeds: str) -> None:
    run_settings = ["name=try", "data.seq_length=32", "trainer.max_steps=1", "dry_run=true"]
    sweep = [f"hydra.sweep.dir={tmp_path}", f"seed={seeds}"]
    (done,) = spy(["recipes.pretrain", "--multirun", *run_settings, *sweep])
    assert (done.code, done.imported & ENGINE) == (2, set())
    assert done.err == "error: seed=-1: must lie between 0 and 2,147,483,647\n"
    assert done.out.count("tokens per step") == (0 if seeds.startswith("-") else 1)


def test_sweep_runs_do_not_leak_into_each_other(tmp_path: Path) -> None:
    run_settings = ["name=try", "data.seq_length=32", "trainer.max_steps=1", "dry_run=true"]
    sweep = [f"hydra.sweep.dir={tmp_path}", "model=tiny,llama_10m", "parallel.world_size=1,2"]
    run_settings += ["trainer.global_batch_size=16"]
    (done,) = spy(["recipes.pretrain", "--multirun", *run_settings, *sweep])
    assert (done.code, done.err) == (0, "")
    layouts = [line.split()[-1] for line in done.out.splitlines() if line.startswith("layout")]
    vocabularies = [line.split()[1] for line in done.out.splitlines() if line.startswith("vocabulary")]
    assert layouts == ["1", "2", "1", "2"]
    assert vocabularies == ["2,048", "2,048", "16,000", "16,000"]
