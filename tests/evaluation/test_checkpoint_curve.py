"""All checkpoints of a run, scored one after the other; what is scored already is left alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from recipes.checkpoint.save.held import hold
from recipes.checkpoint.save.manifest import finished_checkpoints
from recipes.checkpoint.save.retention import prune
from recipes.config.hydra_app import compose
from recipes.config.schema import EvaluateConfig
from recipes.errors import UserError
from recipes.evaluate import run as evaluate_job
from recipes.evaluation.kept_results import Place, find_place
from recipes.report import write_report
from recipes.report.evaluation_result import read_results
from tests.support.cases import evaluate_case
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case
from tests.support.spy import ENGINE, spy


@pytest.fixture(scope="module")
def run(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A run with four checkpoints, and the settings that evaluate them."""
    directory = tmp_path_factory.mktemp("runs")
    checkpoints = {"trainer__checkpoint__every_n_steps": "2", "trainer__checkpoint__keep_last": "9"}
    settings = tiny_data.overrides(output_dir=str(directory), trainer__max_steps="8", **checkpoints)
    (outcome,) = gloo_pool.run(1, run_case, [*settings, "save_nemo=false"])
    assert outcome.code == 0, outcome.message
    benchmark = tiny_data.directory / "corpus" / "benchmark"
    job = ["eval=minibench", f"minibench={benchmark}", "limit=10", "num_threads=1"]
    return directory / "tiny", [f"run={directory / 'tiny'}", *job]


def times(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted((run / "evaluation").glob("*.json"))}


def test_the_missing_ones_are_scored_and_all_are_shown(
    run: tuple[Path, list[str]], gloo_pool: GlooPool, capfd: pytest.CaptureFixture[str]
) -> None:
    directory, settings = run
    assert gloo_pool.run(1, evaluate_case, [*settings, "checkpoints=2"]) == [0]
    first = times(directory)
    assert list(first) == [f"step_0000000{n}-minibench-limit10.json" for n in (6, 8)]
    os.utime(directory / "evaluation" / "step_00000006-minibench-limit10.json", ns=(1, 1))
    assert gloo_pool.run(1, evaluate_case, [*settings, "checkpoints=all"]) == [0]
    both = times(directory)
    assert len(both) == 4 and both["step_00000006-minibench-limit10.json"] == 1
    assert both["step_00000008-minibench-limit10.json"] == first["step_00000008-minibench-limit10.json"]

    (again,) = spy(["recipes.evaluate", *settings])
    assert (again.code, again.err, again.imported & ENGINE) == (0, "", set())
    header, _, *lines = [line for line in again.out.splitlines() if line.startswith("|")]
    assert header.split("|")[1:4] == [" step ", " tokens ", " minibench_en acc "]
    assert [line.split("|")[1:3] for line in lines] == [
        [f" {n}    ", f" {n * 256:,}".ljust(8)] for n in (2, 4, 6, 8)
    ]
    result = read_results(directory / "evaluation" / "step_00000004-minibench-limit10.json")
    assert f" {100 * result.tasks['minibench_en'].scores['acc,none'].value:.2f} " in lines[1]

    page = write_report(directory).read_text()
    value = result.tasks["minibench_hi"].scores["acc_norm,none"].value
    assert f"acc_norm, minibench-limit10: {value:.2g} after 1,024 tokens" in page


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["checkpoints=all", "gpt_model_file=x"], r"^gpt_model_file=x: does not go with run"),
        (["output=x.json"], r"^output=x\.json: does not go with run"),
        (["check=published.yaml"], r"^check=published\.yaml: does not go with run"),
        (["checkpoints=some"], r"^checkpoints=some: must be all, or how many"),
        (["run=nowhere"], r"^run=nowhere: is no directory of a run"),
        (["run=null", "checkpoints=all"], r"^checkpoints=all: would be ignored"),
        (["run=null"], r"^gpt_model_file has no value: set it on the command line"),
    ],
)
def test_settings_that_make_no_sense(settings: list[str], message: str, run: tuple[Path, list[str]]) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_job(compose("evaluate", [*run[1], *settings]))


def test_dry_run_says_which(run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate_job(compose("evaluate", [*run[1], "limit=9", "dry_run=true"])) == 0
    out = capsys.readouterr().out
    assert out.count("would evaluate") == 4
    assert out.endswith("4 of 4 checkpoints, on minibench_en, minibench_hi\n")


@pytest.mark.parametrize(("locks", "steps"), [(True, (2, 4, 6, 8)), (False, (2, 8))])
def test_a_run_that_goes_on_deletes_none_that_is_to_be_scored(
    locks: bool,
    steps: tuple[int, ...],
    run: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the file system has locks; where it has none, they are passed over."""
    directory = tmp_path / "tiny"
    shutil.copytree(run[0], directory, ignore=shutil.ignore_patterns("evaluation"))
    asked: list[str] = []

    def as_it_saves(config: EvaluateConfig) -> Place:
        asked.append(Path(config.gpt_model_file).name)
        with hold(Path(config.gpt_model_file)):
            prune(directory / "checkpoints", keep_last=1)
        return find_place(config)

    monkeypatch.setattr("recipes.evaluate.find_place", as_it_saves)
    if not locks:
        monkeypatch.setattr("recipes.evaluate._held", lambda *_: {})
    settings = [*run[1], f"run={directory}", "limit=1", "dry_run=true"]
    assert evaluate_job(compose("evaluate", settings)) == 0
    assert asked == [f"step_0000000{step}" for step in steps]
    assert capsys.readouterr().out.count("which its run has deleted meanwhile") == 4 - len(steps)
    assert [path.name for path in finished_checkpoints(directory / "checkpoints")] == ["step_00000008"]
