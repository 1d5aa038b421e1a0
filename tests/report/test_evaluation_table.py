"""Result files and tables."""

import json
from pathlib import Path

import pytest

from recipes.config.hydra_app import compose
from recipes.config.schema import TableRow
from recipes.errors import UserError
from recipes.report.evaluation_result import EvaluationResult, Score, TaskResult, read_results, write_results
from recipes.report.evaluation_table import TableSpec, render


def published() -> TableSpec:
    config = compose("evaluate", ["gpt_model_file=x", "eval=param1_table"])
    return TableSpec(config.rows, config.columns)


def result(model: str, accuracy: float) -> EvaluationResult:
    minibench = TaskResult(
        scores={"acc,none": Score(accuracy, 0.0123), "acc_norm,none": Score(0.5)},
        n=400,
        constant_answer=0.2675,
        constant_text=0.0325,
    )
    multirc = TaskResult(scores={"acc,none": Score(accuracy, 0.01)}, n=4848, constant_answer=0.572)
    bleu = TaskResult(scores={"bleu_max,none": Score(12.5, 0.25), "bleu_acc,none": Score(0.382, 0.02)}, n=817)
    tasks = {"minibench_hi": minibench, "multirc": multirc, "truthfulqa_gen": bleu}
    return EvaluationResult(
        model=model, requested=["minibench_hi", "truthfulqa_gen"], tasks=tasks, settings={"limit": None}
    )


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    write_results(result("पराम", 0.5), path)
    assert read_results(path) == result("पराम", 0.5)
    assert "पराम" in path.read_text(encoding="utf-8")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_results(result("a", 0.5), path)
    broken = EvaluationResult(model="b", requested=[], tasks={}, settings={"limit": object()})
    with pytest.raises(TypeError):
        write_results(broken, path)
    assert read_results(path).model == "a"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]
    with pytest.raises(UserError, match="cannot make the directory"):
        write_results(result("a", 0.5), path / "below.json")


def altered(**changes: object) -> str:
    """The file of a result with some of its values replaced."""
    task = {"scores": {"acc,none": {"value": 0.5, "stderr": None}}, "n": 3, "tasks": []}
    fields: dict[str, object] = {"format": 1, "model": "m", "requested": ["t"], "tasks": {"t": task}}
    for name, value in changes.items():
        (task if name in task else fields)[name] = value
    return json.dumps(fields)


def test_the_altered_file_is_one_unless_it_is_altered(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(altered())
    assert read_results(tmp_path / "result.json").tasks["t"].scores == {"acc,none": Score(0.5)}


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "{}", '{"format": 1}', '{"format": 2, "model": "a"}', "[" * 100_000,
        altered(model=5), altered(requested=["other"]), altered(requested=[["t"]]), altered(n="3"),
        altered(scores={"acc,none": {"value": "0.5"}}), altered(scores={"acc,none": {"value": True}}),
        altered(scores={"acc,none": {"value": 0.5, "stderr": [1]}}), altered(tasks=["absent"]),
    ],
)  # fmt: skip
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"result\.json is not an evaluation result"):
        read_results(path)
    with pytest.raises(UserError, match="cannot read"):
        read_results(tmp_path / "absent.json")


def test_before_and_after() -> None:
    table = render([result("m", 0.25), result("m", 0.61)], labels=["before", "after"])
    assert table.splitlines() == [
        "| task           | metric   |       before |        after | constant answer | constant text |   n |",
        "| -------------- | -------- | -----------: | -----------: | --------------: | ------------: | --: |",
        "| minibench_hi   | acc      | 25.00 ± 1.23 | 61.00 ± 1.23 |           26.75 |          3.25 | 400 |",
        "| minibench_hi   | acc_norm |        50.00 |        50.00 |           26.75 |          3.25 | 400 |",
        "| truthfulqa_gen | bleu_max | 12.50 ± 0.25 | 12.50 ± 0.25 |               - |             - | 817 |",
        "| truthfulqa_gen | bleu_acc | 38.20 ± 2.00 | 38.20 ± 2.00 |               - |             - | 817 |",
    ]


def test_the_published_table_puts_ours_beside_theirs() -> None:
    lines = render([result("ours", 0.41)], published()).splitlines()
    cells = {line.strip("| ").partition("  ")[0]: line for line in lines if line.startswith("|")}
    assert len([line for line in lines if line.startswith("| ")]) == 2 + 15 + 1 + 2
    assert cells["task"].split()[5:8] == ["ours", "|", "Param"]
    assert [cell.strip() for cell in cells["ARC Challenge"].strip("|").split("|")] == [
        "ARC Challenge", "acc_norm", "-", "46.7", "49.7", "46.0", "47.2", "45.2", "47.4", "-", "-", "-",
    ]  # fmt: skip
    stock, true = (line for line in lines if line.startswith("| SuperGLUE - multirc"))
    assert "| 41.00 ± 1.00 |" in stock and " 39.52 (+1.5) |" in stock and " 57.20 |" in stock
    assert "| 59.00 ± 1.00 |" in true and " 60.48 (-1.5) |" in true and "| 1 - acc " in true
    # It was asked for, so it is shown, without a row in the published table.
    assert all(line.startswith("| minibench_hi  ") for line in lines[18:20])
    assert lines[-1].startswith("SuperGLUE - multirc: the stock task has its labels the wrong way round")
    (key,) = (line for line in lines if line.startswith("In brackets: by how many of its standard errors"))
    # Of two models' figures none could be told to be meant.
    both = render([result("ours", 0.41), result("yours", 0.5)], published())
    assert "(+" not in both and key not in both


def test_truncated_questions_are_told() -> None:
    short = TaskResult({"acc,none": Score(0.5)}, n=2, truncated=1234)
    whole = TaskResult({"acc,none": Score(0.5)}, n=2)
    note = "m: requests cut off at the front, being longer than it reads: boolq 1,234."
    table = render([of_tasks(["boolq", "wic"], boolq=short, wic=whole)])
    assert table.splitlines()[-1] == note
    assert "cut off" not in render([of_tasks(["wic"], wic=whole)])


def of_tasks(requested: list[str], **tasks: TaskResult) -> EvaluationResult:
    return EvaluationResult(model="m", requested=requested, tasks=tasks)


def task_cells(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")][:3] for line in lines[2:]]


def test_a_tag_is_shown_by_its_members() -> None:
    easy, hard = (TaskResult(scores={"acc,none": Score(value)}, n=2) for value in (0.5, 0.25))
    tag = TaskResult(scores={}, n=4, tasks=["arc_easy", "arc_challenge"])
    found = of_tasks(["arc_easy", "ai2_arc"], ai2_arc=tag, arc_easy=easy, arc_challenge=hard)
    assert task_cells(render([found])) == [["arc_easy", "acc", "50.00"], ["arc_challenge", "acc", "25.00"]]
    spec = TableSpec([TableRow("ARC", "arc_challenge", "acc,none", [40.0])], ["theirs"])
    assert task_cells(render([found], spec)) == [["ARC", "acc", "25.00"], ["arc_easy", "acc", "50.00"]]


def test_percent_is_not_made_percent_again() -> None:
    """lm-eval's squadv2 reports 0 to 100, other tasks the same metrics from 0 to 1."""
    good = of_tasks(
        ["squadv2", "drop"],
        squadv2=TaskResult(scores={"exact,none": Score(50.1), "f1,none": Score(61.5, 0.5)}, n=2),
        drop=TaskResult(scores={"em,none": Score(0.5), "f1,none": Score(1.0, 0.01)}, n=2),
    )
    # A figure below 1 is percent too, as the others of the task tell.
    bad = of_tasks(
        ["squadv2"], squadv2=TaskResult(scores={"f1,none": Score(0.8), "best_exact,none": Score(50.0)}, n=2)
    )
    table = render([good, bad], labels=["good", "bad"])
    cells = [[cell.strip() for cell in line.strip("|").split("|")][:4] for line in table.splitlines()[2:]]
    assert cells == [
        ["squadv2", "exact", "50.10", "-"],
        ["squadv2", "f1", "61.50 ± 0.50", "0.80"],
        ["drop", "em", "50.00", "-"],
        ["drop", "f1", "100.00 ± 1.00", "-"],
        ["squadv2", "best_exact", "-", "50.00"],
    ]
    assert "| 0.80 " in render([bad]) or " 0.80 |" in render([bad])
    complement = TableSpec([TableRow("S", "squadv2", "f1,none", complement=True)])
    assert [row[2] for row in task_cells(render([good], complement))[:2]] == ["61.50 ± 0.50", "38.50 ± 0.50"]


def test_the_published_table_is_complete() -> None:
    spec = published()
    config = compose("evaluate", ["gpt_model_file=x", "eval=param1_table"])
    assert [row.task for row in spec.rows] == config.tasks
    assert len(spec.rows) == 15 and len(spec.columns) == 6
    assert all(len(row.published) == 6 for row in spec.rows)
    assert {row.name: row.published[0] for row in spec.rows} == {
        "ARC Challenge": 46.7, "ARC Easy": 74.6, "HellaSwag": 71.4, "HellaSwag Hi": 44.1, "MMLU En": 41.4,
        "MMLU Hi": 30.7, "PIQA": 79.3, "TriviaQA": 38.5, "TruthfulQA - Gen (BLEU)": 38.2,
        "TruthfulQA - MC1 Acc": 28.0, "TruthfulQA - MC2 Acc": 43.8, "SuperGLUE - boolq": 70.6,
        "SuperGLUE - rte": 62.5, "SuperGLUE - WiC": 49.5, "SuperGLUE - multirc": 56.9,
    }  # fmt: skip


def test_every_result_has_a_label() -> None:
    with pytest.raises(UserError, match="1 labels for 2 results"):
        render([result("a", 0.1), result("b", 0.2)], labels=["before"])
