"""Results are kept: an evaluation finds its own, and never takes the place of another's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recipes.checkpoint.save.manifest import write_manifest
from recipes.config.hydra_app import compose
from recipes.config.schema import EvaluateConfig
from recipes.errors import UserError
from recipes.evaluation.kept_results import find_place, free_path, model_name, settings_of
from recipes.report.evaluation_result import EvaluationResult, TaskResult, write_results
from tests.support.tiny_text_model import build_mirror


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.nemo"
    path.write_text("weights")
    return path


@pytest.fixture
def minibench(tmp_path: Path) -> Path:
    directory = tmp_path / "benchmark"
    directory.mkdir()
    for language in ("en", "hi"):
        (directory / f"{language}.jsonl").write_text("{}\n")
    return directory


def asked(model: Path, *settings: str) -> EvaluateConfig:
    config: EvaluateConfig = compose("evaluate", [f"gpt_model_file={model}", *settings])
    return config


def finish(config: EvaluateConfig) -> Path:
    """Writes the results where they belong, as if the model had been evaluated."""
    place = find_place(config)
    assert not place.finished
    tasks = {name: TaskResult(scores={}, n=1) for name in config.tasks}
    result = EvaluationResult(model_name(config), list(config.tasks), tasks, settings_of(config))
    write_results(result, place.path)
    return place.path


def test_every_evaluation_has_its_own_file(model: Path, minibench: Path) -> None:
    own = (f"minibench={minibench}", "eval=minibench")
    files = {
        "model-minibench.json": own,
        "model-arc_easy+boolq.json": ("tasks=[arc_easy,boolq]",),
        "model-arc_easy.json": ("tasks=[arc_easy]",),
        "model-arc_easy-limit5.json": ("tasks=[arc_easy]", "limit=5"),
        "model-arc_easy-3shot.json": ("tasks=[arc_easy]", "num_fewshot=3"),
        "model-param1_table.json": ("eval=param1_table",),
        "mine-arc_easy.json": ("tasks=[arc_easy]", "name=mine"),
        "model-arc_easy-2.json": ("tasks=[arc_easy]", "bootstrap_iters=5"),
        "model-arc_easy-3.json": ("tasks=[arc_easy]", "precision=fp32"),
        "model-minibench-2.json": (*own, "tasks=[minibench_en]"),
    }
    for file, settings in files.items():
        assert finish(asked(model, *settings)) == model.parent / "evaluation" / file
    for file, settings in files.items():
        place = find_place(asked(model, *settings))
        assert (place.path.name, place.finished) == (file, True)


def test_other_weights_are_another_evaluation(model: Path) -> None:
    config = asked(model, "tasks=[arc_easy]")
    finish(config)
    changed = model.stat().st_mtime_ns + 10**9
    os.utime(model, ns=(changed, changed))
    assert finish(config).name == "model-arc_easy-2.json"
    assert find_place(config).finished


def test_other_questions_are_another_evaluation(model: Path, minibench: Path, tmp_path: Path) -> None:
    config = asked(model, f"minibench={minibench}", "eval=minibench")
    finish(config)
    (minibench / "hi.jsonl").write_text("{} \n")
    assert not find_place(config).finished
    mirrored = asked(model, "tasks=[boolq]", f"mirror={build_mirror(tmp_path / 'mirror')}")
    finish(mirrored)
    assert find_place(mirrored).finished and not find_place(asked(model, "tasks=[boolq]")).finished


def test_an_evaluation_is_repeated_on_request(model: Path) -> None:
    finish(asked(model, "tasks=[arc_easy]"))
    assert finish(asked(model, "tasks=[arc_easy]", "repeat=true")).name == "model-arc_easy-2.json"


def test_files_of_others_are_left_alone(model: Path) -> None:
    other = model.parent / "evaluation" / "model-arc_easy.json"
    other.parent.mkdir()
    other.write_text("notes")
    assert finish(asked(model, "tasks=[arc_easy]")).name == "model-arc_easy-2.json"
    assert find_place(asked(model, "tasks=[arc_easy]")).finished
    assert other.read_text() == "notes" and free_path(other).name == "model-arc_easy-3.json"


def test_a_named_file_is_not_replaced(model: Path) -> None:
    output = model.parent / "mine.json"
    config = asked(model, "tasks=[arc_easy]", f"output={output}")
    assert finish(config) == output and find_place(config).finished
    for setting, difference in (("limit=1", "limit=null"), ("tasks=[boolq]", r"tasks=\[arc_easy\]")):
        message = rf"^{output} holds the results of another evaluation \({difference}\); choose another file"
        with pytest.raises(UserError, match=message):
            find_place(asked(model, "tasks=[arc_easy]", f"output={output}", setting))
    with pytest.raises(UserError, match=f"^repeat=true would replace {output}: choose another file"):
        find_place(asked(model, "tasks=[arc_easy]", f"output={output}", "repeat=true"))
    output.write_text("notes")
    with pytest.raises(UserError, match=r"is not an evaluation result: .*; choose another file, output="):
        find_place(config)


def test_results_of_a_run_and_its_checkpoints_are_in_the_run(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "mine"
    step = run / "checkpoints" / "step_00000010"
    step.mkdir(parents=True)
    (step / "weights").write_text("1")
    write_manifest(step)
    (run / "model.nemo").write_text("weights")
    names = {
        run: "mine-boolq.json",
        step: "step_00000010-boolq.json",
        run / "model.nemo": "model-boolq.json",
    }
    for model, name in names.items():
        assert finish(asked(model, "tasks=[boolq]")) == run / "evaluation" / name
        assert find_place(asked(model, "tasks=[boolq]")).finished
    newer = run / "checkpoints" / "step_00000020"
    newer.mkdir()
    (newer / "weights").write_text("2")
    write_manifest(newer)
    assert not find_place(asked(run, "tasks=[boolq]")).finished
    assert find_place(asked(step, "tasks=[boolq]")).finished


def test_long_lists_of_tasks_make_short_names(model: Path) -> None:
    tasks = [f"task_number_{number}" for number in range(40)]
    place = find_place(asked(model, f"tasks=[{','.join(tasks)}]"))
    assert place.path.name == "model-task_number_0+39_tasks.json"
