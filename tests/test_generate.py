"""python -m recipes.generate, python -m recipes.evaluate and nemo_inference.sh as users start them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.convert import convert
from recipes.checkpoint.formats.archive import extract_archive
from recipes.config.hydra_app import compose
from recipes.config.schema import GenerateConfig
from recipes.console import warn_once
from recipes.errors import UserError
from recipes.generate import run
from recipes.inference.kept_lines import KeptLines
from tests.support.nemo_files import FIXTURES, MAIN
from tests.support.paths import ROOT
from tests.support.run_cases import environment

MODEL = str(MAIN / "model.nemo")
SCRIPT = str(ROOT / "nemo_inference.sh")
AWKWARD = [
    "a \"double\" and a 'single' quote",
    "two\nlines",
    "$(touch it_ran) `touch it_ran` ${HOME} \\n %s",
    "भारत में 2024 में",
    "key=value [a,b] {c:d} # e",
    "-n",
    "--help",
    "ends with a backslash \\",
    "line\u2028separator\x85and\ttab",
]


def generate(tmp_path: Path, prompts: list[Any], **changes: Any) -> list[dict[str, Any]]:
    """In this process, through the whole of recipes.generate."""
    file = tmp_path / "prompts.jsonl"
    lines = [
        prompt if isinstance(prompt, bytes) else json.dumps({"text": prompt}).encode() for prompt in prompts
    ]
    file.write_bytes(b"\n".join(lines) + b"\n")
    config: GenerateConfig = compose(
        "generate", [f"gpt_model_file={MODEL}", f"prompts_jsonl={file}", "inference.tokens_to_generate=4"]
    )
    assert run(replace(config, num_threads=1, precision="fp32", **changes)) == 0
    output = Path(f"{file}.completions.jsonl")
    return [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n") if line]


def test_an_interrupted_file_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [f"The farmer of village {number} walks" for number in range(9)]
    whole = generate(tmp_path, prompts, batch_size=2)
    output = tmp_path / "prompts.jsonl.completions.jsonl"
    output.unlink()
    append, appended = KeptLines.append, []

    def interrupted(self: KeptLines, line: str) -> None:
        if len(appended) == 5:
            raise KeyboardInterrupt
        appended.append(line)
        append(self, line)

    monkeypatch.setattr(KeptLines, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, prompts, batch_size=2)
    assert not output.exists()
    monkeypatch.setattr(KeptLines, "append", append)
    with pytest.raises(UserError, match="results of other prompts, settings or another model"):
        generate(tmp_path, prompts, batch_size=2, seed=99)
    assert generate(tmp_path, prompts, batch_size=2) == whole
    assert [json.loads(line) for line in appended] == whole[:5]


def test_prompts_survive_a_jsonl_file(tmp_path: Path) -> None:
    results = generate(tmp_path, AWKWARD)
    assert [result["prompt"] for result in results] == AWKWARD
    fields = {"prompt", "completion", "token_ids", "tokens", "offsets"}
    assert all(set(result) == fields for result in results)


def test_lines_that_are_not_escaped(tmp_path: Path) -> None:
    """U+2028 may stand in JSON as it is; it ends no line."""
    raw = '{"text": "a\u2028b"}'.encode()
    assert [result["prompt"] for result in generate(tmp_path, [raw, b"", b"  ", raw])] == ["a\u2028b"] * 2


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"[1]", ":2: not a JSON object"),
        (b'{"text": 5}', ":2: 'text' is int, not text"),
        (b'{"prompt": "x"}', ":2: no text under 'text' (keys: 'prompt')"),
        (b'{"text": ', ":2: not a line of JSON"),
        (b'"text"', ":2: not a JSON object"),
        (b'{"text": "\xff"}', ":2: not UTF-8: invalid start byte at byte 10"),
        (b'{"text": "\\udcff"}', ":2: half of a surrogate pair in the text"),
        (b"[" * 100_000, ":2: not a line of JSON: nested more than 200 levels deep"),
    ],
)
def test_bad_lines_are_named(line: bytes, named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        generate(tmp_path, [b'{"text": "fine"}', line])
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_no_prompts_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prompts in it"):
        generate(tmp_path, [])


def test_text_json_and_scores_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    common = [f"gpt_model_file={MODEL}", "num_threads=1", "precision=fp32", "inference.greedy=true"]
    settings = [*common, "prompts=['A, b','नदी']", "inference.tokens_to_generate=3"]
    assert run(compose("generate", settings)) == 0
    text = capsys.readouterr().out
    assert text.startswith("A, b") and "\nनदी" in text
    assert run(compose("generate", [*settings, "json=true"])) == 0
    first, second = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert text == f"A, b{first['completion']}\nनदी{second['completion']}\n"
    assert run(compose("generate", [*settings, "json=true", "inference.compute_logprob=true"])) == 0
    scored = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(entry["logprob"]) for entry in scored] == [len(entry["tokens"]) - 1 for entry in scored]
    assert list(scored[0]) == ["prompt", "token_ids", "tokens", "offsets", "logprob"]
    assert run(compose("generate", [*settings, "inference.compute_logprob=true"])) == 0
    assert f"log-probability {sum(scored[0]['logprob']):.4f} over" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["prompts=[A]", "inference.greedy=true"], ""),
        (["prompts=[A]", "inference.greedy=true", "inference.repetition_penalty_style=ctrl"], ""),
        (["prompts=[A]", "inference.greedy=true", "inference.top_k=3"], "inference.top_k=3: without effect"),
        (
            ["prompts=[A]", "inference.greedy=true", "inference.repetition_penalty=1.3"],
            "inference.repetition_penalty=1.3: without effect, as inference.greedy=true takes the likeliest "
            "token; inference.repetition_penalty_style=ctrl counts the penalty",
        ),
        (["prompts=[A]"], "inference.repetition_penalty=1.2: as in NeMo, it divides negative logits too"),
        (["prompts=[A]", "inference.repetition_penalty=1"], ""),
        (["prompts=[A]", "inference.compute_logprob=true"], ""),
        (
            ["prompts=[A]", "inference.greedy=true", "inference.tokens_to_generate=64"],
            "inference.tokens_to_generate=64: texts end before, with the 64 tokens that the model reads",
        ),
        (
            [
                f"prompts=[A,{' a' * 40}]",
                "inference.tokens_to_generate=50",
                "inference.greedy=true",
                "inference.count_from=each",
            ],
            "inference.tokens_to_generate=50: 1 of 2 prompts leave room for",
        ),
        (
            [
                f"prompts=[{' a' * 40}]",
                "inference.tokens_to_generate=50",
                "inference.greedy=true",
                "stream=true",
            ],
            "inference.tokens_to_generate=50: a prompt leaves room for",
        ),
        (["prompts=['A b']", "inference.compute_logprob=true", "inference.tokens_to_generate=0"], ""),
        (
            ["prompts=['A b']", "inference.compute_logprob=true", "inference.top_k=3"],
            "inference.top_k=3: without effect, as inference.compute_logprob=true scores",
        ),
    ],
)
def test_surprises_are_said_once(
    settings: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_once.cache_clear()
    common = [f"gpt_model_file={MODEL}", "num_threads=1", "precision=fp32", "inference.tokens_to_generate=1"]
    for _ in range(2):
        assert run(compose("generate", [*common, *settings])) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: inference.")]
    assert len(said) == bool(message) and message in "".join(said)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["prompts=[A]", "inference.logit_bias={999: 1}"], "inference.logit_bias: id 999 does not exist"),
        (["prompts=[A]", "stream=true", "inference.logit_bias={999: 1}"], "inference.logit_bias: id 999"),
        (["prompts=[A,'']", "inference.add_BOS=false"], "prompt 2 is empty; give it text"),
        (["prompts=[A,'']", "inference.compute_logprob=true"], "prompt 2 of 1 token has nothing to score"),
    ],
)
def test_nothing_is_said_or_printed_before_a_refusal(
    settings: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_once.cache_clear()
    common = [f"gpt_model_file={MODEL}", "num_threads=1", "precision=fp32"]
    with pytest.raises(UserError) as caught:
        run(compose("generate", [*common, *settings]))
    assert message in str(caught.value)
    out, err = capsys.readouterr()
    assert out == "" and "inference." not in err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["prompts=['A','B']", "stream=true"], "stream=True: 2 prompts would be mixed; give one"),
        (["prompts=[A]", "stream=true", "json=true"], "stream=True: text is printed as it comes; json wants"),
        (["prompts=[A]", "stream=true", "inference.compute_logprob=true"], "writes no text"),
        (["prompts=[A]", "interactive=true"], "prompts=['A']: would be ignored with interactive=true"),
        (["interactive=true", "batch_size=4"], "batch_size=4: would be ignored with interactive=true"),
        (["prompts=[A]", "history_file=x"], "history_file=x: would be ignored"),
        (["prompts=[A]", "inference.all_probs=true"], "inference.all_probs=True: would be ignored"),
        (["prompts=[A]", "inference.min_p=1"], "inference.min_p=1.0: must lie between 0 and 1"),
        (["prompts=[A]", "tensor_model_parallel_size=0"], "tensor_model_parallel_size=0: must be at least 1"),
        (["prompts=[A]", "inference.repetition_penalty_style=hf"], "inference.repetition_penalty_style=hf"),
    ],
)
def test_ways_of_asking_that_do_not_go_together(settings: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        run(compose("generate", [f"gpt_model_file={MODEL}", *settings]))
    assert message in str(caught.value)


def python(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("module", "arguments", "named"),
    [
        ("recipes.generate", ["prompts=[a]", "gpt_model_file=nowhere.nemo"], "gpt_model_file=nowhere.nemo"),
        ("recipes.evaluate", ["tasks=[boolq]", "gpt_model_file=nowhere.nemo"], "gpt_model_file=nowhere.nemo"),
        ("recipes.generate", [f"gpt_model_file={MODEL}"], "prompts"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(module: str, arguments: list[str], named: str) -> None:
    done = python(module, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and named in line


def test_a_damaged_model_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    broken = tmp_path / "broken.nemo"
    broken.write_bytes(Path(MODEL).read_bytes()[:100_000])
    done = python("recipes.generate", f"gpt_model_file={broken}", "prompts=[a]")
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1
    assert "damaged" in done.stderr and "broken.nemo" in done.stderr


def script(
    *arguments: str, cwd: Path = ROOT, command: str = SCRIPT, **variables: str
) -> subprocess.CompletedProcess[str]:
    settings = (
        environment() | {"PYTHON": sys.executable, "tokens_to_generate": "3", "greedy": "true"} | variables
    )
    return subprocess.run([command, *arguments], cwd=cwd, env=settings, capture_output=True, text=True)


@pytest.mark.slow
def test_awkward_prompts_and_paths_through_the_script(tmp_path: Path) -> None:
    """A model path with quotes, spaces and what Hydra would interpolate; from another directory."""
    directory = tmp_path / 'it\'s a "dir" \\ ${x} $HOME, a=b'
    extract_archive(Path(MODEL), directory)
    prompts = [prompt for prompt in AWKWARD if "\n" not in prompt and "\u2028" not in prompt]
    done = script(directory.name, "--", *prompts, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.split("\n")
    # Byte tokens may complete to a newline, so prompts are looked for in order, not line by line.
    places = [next(i for i, line in enumerate(lines) if line.startswith(prompt)) for prompt in prompts]
    assert places == sorted(places) and not list(ROOT.glob("it_ran")) and not list(tmp_path.rglob("it_ran"))


@pytest.mark.slow
def test_newlines_through_the_script() -> None:
    done = script(MODEL, "two\nlines")
    assert done.returncode == 0 and done.stdout.startswith("two\nlines")


@pytest.mark.slow
def test_settings_after_the_script(tmp_path: Path) -> None:
    """From any directory; what is a file there is found, and its modules are not imported."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "prompts.jsonl").write_text('{"text": "A"}\n', encoding="utf-8")
    settings = [
        "inference.tokens_to_generate=2",
        "trainer.devices=1",
        "trainer.precision=32",
        "num_threads=1",
    ]
    done = script(MODEL, "prompts_jsonl=prompts.jsonl", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "prompts.jsonl.completions.jsonl").read_text("utf-8").splitlines()
    shown = script(MODEL, "A", *settings, "stream=true", cwd=tmp_path)
    assert shown.stdout == f"A{json.loads(line)['completion']}\n" and shown.stderr == ""
    done = script(f"gpt_model_file={MODEL}", "--", "A", "json=true", gpt_model_file="")
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= 2


def test_script_errors() -> None:
    done = script("A prompt", gpt_model_file="/nowhere.nemo")
    assert done.returncode == 2 and done.stderr.startswith("error: gpt_model_file=/nowhere.nemo")
    for asked in (["--help"], [MODEL, "A", "--help"]):
        done = script(*asked)
        assert done.returncode == 0 and "nemo_inference.sh [MODEL] PROMPT" in done.stdout
    done = script(MODEL, "A", "--top-k", "5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --top-k: settings are written without dashes: inference.top_k=5\n"
    done = script()
    assert done.returncode == 2 and "PROMPT" in done.stdout
    done = script(MODEL, "A", PYTHON="/nowhere/python")
    assert done.returncode == 2 and done.stderr == "error: PYTHON=/nowhere/python: no such program\n"


def test_a_python_without_the_environment(tmp_path: Path) -> None:
    """As in a fresh clone, where the script finds the system's."""
    for name, option, said in (
        ("bare", "-S", "python* has no Param Recipes (tqdm is missing): make quickstart installs it;*"),
        ("old", "--unknown", "/old is no Python 3.11 or newer: set PYTHON=.../bin/python"),
    ):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {option} "$@"\n')
        program.chmod(0o755)
        done = script(MODEL, "A", PYTHON=str(program))
        assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1
        assert fnmatch(done.stderr.strip(), f"error: *{said}"), done.stderr


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every form that is asked for."""
    directory = tmp_path_factory.mktemp("stored")
    convert(Path(MODEL), directory / "hf", "hf")
    (directory / "run" / "checkpoints").mkdir(parents=True)
    convert(Path(MODEL), directory / "run" / "checkpoints" / "step_00000001", "torch_dist")
    tokenizer = FIXTURES / "nemo2_local" / "ckpt" / "context" / "tiny_sp.model"
    (directory / "run" / "config.yaml").write_text(f"tokenizer:\n  model: {tokenizer}\n")
    (directory / "any_suffix").write_bytes(Path(MODEL).read_bytes())
    return {
        "hf": directory / "hf",
        "nemo2": FIXTURES / "nemo2_local" / "ckpt",
        "run": directory / "run",
        "step": directory / "run" / "checkpoints" / "step_00000001",
        "file": directory / "any_suffix",
        "nemo": Path(MODEL),
    }


@pytest.mark.parametrize("form", ["hf", "nemo2", "run", "step", "file", "nemo"])
def test_the_scripts_first_argument_is_any_model(form: str, stored: dict[str, Path]) -> None:
    """It goes before gpt_model_file, and is not completed as a prompt. What comes next is looked for then."""
    for variables in ({}, {"gpt_model_file": MODEL}, {"gpt_model_file": "/nowhere.nemo"}):
        done = script(str(stored[form]), "भारत", PYTHON="/nowhere/python", **variables)
        assert done.stderr == "error: PYTHON=/nowhere/python: no such program\n"
        done = script(str(stored[form]), **variables)  # No prompt is left.
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: no prompt: write one after {stored[form]}, or interactive=")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["hf", "nemo2", "file"])  # This run has no data, which completion asks for.
def test_every_model_through_the_script(form: str, stored: dict[str, Path]) -> None:
    expected = script("भारत में", "A", gpt_model_file=MODEL)
    done = script(str(stored[form]), "भारत में", "A", gpt_model_file="/nowhere.nemo")
    assert expected.returncode == done.returncode == 0, done.stderr
    assert done.stdout == expected.stdout and done.stdout.startswith("भारत में")


def test_a_run_whose_tokenizer_is_gone(stored: dict[str, Path], tmp_path: Path) -> None:
    """Or is named by a relative path, from another directory: its model.nemo holds it."""
    run_directory = tmp_path / "run"
    shutil.copytree(stored["run"], run_directory)
    for name, seen in (("data/tok.model", ", seen from the present directory"), ("/gone/tok.model", "")):
        (run_directory / "config.yaml").write_text(f"tokenizer:\n  model: {name}\n")
        with pytest.raises(UserError) as caught:
            run(compose("generate", [f"gpt_model_file={run_directory}", "prompts=[A]"]))
        said = (
            f"cannot read the tokenizer '{name}': no such file any more{seen}; the run's model.nemo holds it"
        )
        assert str(caught.value) == said


def test_script_passes_errors_of_the_job_on() -> None:
    before = {
        path for path in Path(os.environ.get("TMPDIR", "/tmp")).iterdir() if path.name.startswith("tmp.")
    }
    done = script(MODEL, "A", temperature="-1")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: inference.temperature=-1.0: must lie between 0.001 and 1000.0; for the likeliest token use "
        "inference.greedy=true"
    ]
    after = {
        path for path in Path(os.environ.get("TMPDIR", "/tmp")).iterdir() if path.name.startswith("tmp.")
    }
    assert after <= before, "the script's temporary directory is gone"
