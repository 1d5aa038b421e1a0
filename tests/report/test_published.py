"""Published figures: which rows agree with them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from recipes.config.hydra_app import compose
from recipes.config.jobs import CONF_DIR
from recipes.config.schema import TableRow
from recipes.errors import UserError
from recipes.report.evaluation_result import EvaluationResult, Score, TaskResult
from recipes.report.published import agreement_table, agreements, read_published, refuse_disagreement

TABLE = [
    TableRow("ARC Easy", "arc_easy", "acc_norm,none", [74.6]),
    TableRow("SuperGLUE - boolq", "boolq", "acc,none", [70.6]),
    TableRow("HellaSwag", "hellaswag", "acc_norm,none", []),
]


def result(**scores: Score) -> EvaluationResult:
    tasks = {
        "arc_easy": TaskResult({"acc_norm,none": scores["arc"]}, n=4),
        "boolq": TaskResult({"acc,none": scores["boolq"]}, n=2),
    }
    return EvaluationResult("ours", list(tasks), tasks)


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "published.yaml"
    path.write_text(text)
    return path


FIGURES = """
columns: [Param 1, Other]
rows:
  ARC Easy: [74.6, 80.3]
  boolq: [70.6, 73.7]
  HellaSwag: [71.4, 73.0]
"""


def test_rows_agree_within_two_standard_errors(tmp_path: Path) -> None:
    path = file(tmp_path, FIGURES)
    ours = result(arc=Score(0.730, 0.009), boolq=Score(0.720, 0.0068))
    found = agreements(ours, read_published(path, None, TABLE))
    assert agreement_table(found).splitlines() == [
        "| row               | agrees        |         ours | published | standard errors |",
        "| ----------------- | ------------- | -----------: | --------: | --------------: |",
        "| ARC Easy          | yes           | 73.00 ± 0.90 |      74.6 |            -1.8 |",
        "| SuperGLUE - boolq | NO            | 72.00 ± 0.68 |      70.6 |            +2.1 |",
        "| HellaSwag         | not evaluated |            - |      71.4 |               - |",
    ]
    with pytest.raises(
        UserError, match=r"^check=x: 1 of 2 rows differ .* errors: SuperGLUE - boolq \(\+2.1\)$"
    ):
        refuse_disagreement(found, "x")
    other = agreements(ours, read_published(path, "Other", TABLE))
    assert [round(entry.distance or 0.0, 1) for entry in other] == [-8.1, -2.5, 0.0]
    refuse_disagreement(found[:1] + found[2:], "x")
    with pytest.raises(UserError, match=r"^check=x: none of its rows was evaluated"):
        refuse_disagreement(found[2:], "x")


def test_documents_that_all_score_the_same_are_judged_by_the_spread_of_the_published_share(
    tmp_path: Path,
) -> None:
    """Two wrong answers say little about 50 %; four are two standard errors from it, and a bit from 60 %."""
    for figure, n, distance in ((50, 2, -math.sqrt(2)), (50, 4, -2.0), (60, 4, -math.sqrt(6))):
        ours = EvaluationResult("ours", ["boolq"], {"boolq": TaskResult({"acc,none": Score(0.0, 0.0)}, n=n)})
        found = agreements(ours, read_published(file(tmp_path, f"rows: {{boolq: {figure}}}"), None, TABLE))
        assert found[0].distance == pytest.approx(distance)
        assert agreement_table(found).endswith(" over as many: SuperGLUE - boolq.\n")
        if abs(distance) <= 2:
            refuse_disagreement(found, "x")
        else:
            with pytest.raises(UserError, match=r"1 of 1 rows differ .* boolq \(-2.4\)$"):
                refuse_disagreement(found, "x")


def test_what_has_no_spread_at_all_agrees_with_itself_alone(tmp_path: Path) -> None:
    """Where shares are all or nothing, and for figures that are no shares."""
    path = file(tmp_path, "rows: {ARC Easy: 100, boolq: 0.0}")
    found = agreements(result(arc=Score(1.0, 0.0), boolq=Score(1.0, 0.0)), read_published(path, None, TABLE))
    assert [entry.distance for entry in found] == [0.0, None]
    assert "| no standard error |" in agreement_table(found).splitlines()[3]
    with pytest.raises(UserError, match=r"^check=x: none of its rows was evaluated"):
        refuse_disagreement(found[1:], "x")


def test_a_table_of_conf_is_read_as_well() -> None:
    rows = compose("evaluate", ["gpt_model_file=x", "eval=param1_table"]).rows
    published = read_published(CONF_DIR / "eval" / "param1_table.yaml", "qwen-2.5-3B (PT)", rows)
    assert [row.figure for row in published] == [row.published[5] for row in rows]


def test_a_file_that_names_its_tasks_needs_no_table(tmp_path: Path) -> None:
    path = file(tmp_path, "rows: [{name: Yes or no, task: boolq, metric: 'acc,none', published: 50.0}]")
    (row,) = read_published(path, None, [])
    assert (row.name, row.task, row.metric, row.figure) == ("Yes or no", "boolq", "acc,none", 50.0)
    with pytest.raises(UserError, match=r"no row is named 'boolq'; the table has none: write each as \{name"):
        read_published(file(tmp_path, "rows: {boolq: 3}"), None, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: {ARC Eazy: 3}", "no row is named 'ARC Eazy'; did you mean ARC Easy?"),
        ("columns: [a, b]\nrows: {boolq: 3}", "boolq has 1 figures for 2 columns"),
        ("rows: {boolq: high}", "it does not hold `rows` of published figures"),
        ("boolq: 3", "it does not hold `rows`"),
        ("[", "it does not hold `rows`"),
        ("5", "it does not hold `rows`"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(UserError) as refused:
        read_published(path, None, TABLE)
    assert str(refused.value).startswith(f"check={path}: {message}")
    with pytest.raises(UserError, match=r"^check_column=X: .* has 'a'"):
        read_published(file(tmp_path, "columns: [a]\nrows: {boolq: 3}"), "X", TABLE)


def test_a_metric_that_the_task_does_not_have(tmp_path: Path) -> None:
    """lm-eval's names end in their filter's."""
    path = file(tmp_path, "rows: [{name: BoolQ, task: boolq, metric: acc, published: [70.6]}]")
    ours = result(arc=Score(0.7, 0.01), boolq=Score(0.7, 0.01))
    with pytest.raises(UserError, match=r"^check: BoolQ: metric=acc: boolq has acc,none; name one of them$"):
        agreements(ours, read_published(path, None, TABLE))
