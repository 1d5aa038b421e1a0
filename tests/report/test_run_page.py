"""The page of a run: well-formed and safe whatever the run directory holds."""

import json
import re
from pathlib import Path

import pytest

from recipes.errors import UserError
from recipes.report import write_comparison, write_report
from recipes.report.curves import MAX_POINTS
from recipes.report.run_data import read_run
from tests.support.html_page import HOSTILE, Page
from tests.support.report_runs import SUMMARY, evaluation, make_run, training_line


def test_full_run(tmp_path: Path) -> None:
    lines: list[object] = [training_line(step) for step in range(1, 101)]
    lines.append({"step": 100, "valid.en.loss": 2.5, "valid.en.bits_per_byte": 1.2, "valid.hi.loss": 2.0})
    path = write_report(make_run(tmp_path / "run", lines, config_yaml="a: 1\n", summary_json=SUMMARY))
    assert path == tmp_path / "run" / "report.html"
    page = Page(path)
    for shown in ("Loss", "Throughput", "Gradient norm", "Learning rate", "Accuracy", "Completions", "a: 1"):
        assert shown in page.text
    assert "validation, English: 2.5 at step 100" in page.text
    hindi = [attrs for tag, attrs in page.tags if tag == "p" and attrs.get("lang") == "hi"]
    assert len(hindi) == 2
    assert "दिल्ली है।" in page.text
    assert "3 min 20 s" in page.text


def test_figures_of_averaged_weights(tmp_path: Path) -> None:
    lines: list[object] = [training_line(step) for step in range(1, 101)]
    plain = make_run(tmp_path / "plain", [*lines, {"step": 100, "valid.en.bits_per_byte": 1.2}])
    figures = {"valid.en.loss": 2.5, "valid.en.ema_loss": 2.25, "valid.en.ema_bits_per_byte": 1.125}
    run = make_run(tmp_path / "run", [*lines, {"step": 100, **figures}])
    page = Page(write_report(run))
    assert "validation, English, averaged weights: 2.25 at step 100" in page.text
    assert "English, ema loss" in page.text
    both = Page(write_comparison([run, plain], tmp_path / "both.html"))
    assert "Bits per byte, English, averaged weights" in both.text and "1.125" in both.text
    alone = Page(write_comparison([plain, make_run(tmp_path / "other", lines)], tmp_path / "alone.html"))
    assert "averaged weights" not in alone.text


def test_page_is_self_contained(tmp_path: Path) -> None:
    """`Page` checks it."""
    page = Page(write_report(make_run(tmp_path / "run", [training_line(1)], summary_json=SUMMARY)))
    assert {"svg", "style"} <= {tag for tag, _ in page.tags}


def test_hostile_texts_are_escaped(tmp_path: Path) -> None:
    summary = {
        "hardware": HOSTILE,
        "accuracy": {HOSTILE: {"before": 0.1, "after": 0.2, "stderr": 0.1, "n": 5, "constant_answer": 0.2}},
        "completions": [{"prompt": HOSTILE, "completion": HOSTILE + "\ud800"}],
    }
    lines: list[object] = [
        training_line(1),
        {"step": 1, f"valid.{HOSTILE}.loss": 1.0, f"valid.x.{HOSTILE}": 2.0},
    ]
    lines.append({"step": 1, "event": "sample", "prompt": HOSTILE, "completion": HOSTILE})
    run = make_run(tmp_path / "a<b>&", lines, config_yaml=HOSTILE, summary_json=summary)
    (run / "evaluation").mkdir()
    (run / "evaluation" / "<b>.json").write_text(json.dumps(evaluation(HOSTILE)))
    (run / "evaluation" / "<script>.json").write_text("{")
    page = Page(write_report(run))
    assert "a<b>&" in page.text and "evaluation/<script>.json could not be read" in page.text
    # Hardware; a tile, a key and a dot of the chart for the set, and two lines of the table; a bar chart and
    # its reading; two completions; the configuration; task and metric.
    page.check_hostile(1 + 3 + 2 + 2 + 4 + 1 + 2)
    both = Page(write_comparison([run, make_run(tmp_path / "<script>", lines)], tmp_path / "both.html"))
    assert "a<b>&, <b>" in both.text and "<script>" in both.text
    # A line of the table and a chart's title for the set; task and metric.
    both.check_hostile(2 + 2)


@pytest.mark.parametrize(
    "line",
    [
        {"step": 0, "loss": 3.0},
        {"step": 7, "lr": 0.0},
        {"step": 7, "grad_norm": -1.0, "loss": 1e300},
        {"step": 7, "valid.a.b.loss": 1.0},
        {"step": 2**60, "loss": 1e-300},
    ],
)
def test_minimal_runs(tmp_path: Path, line: dict[str, object]) -> None:
    """One line is a run; there is no validation, no configuration and no summary."""
    page = Page(write_report(make_run(tmp_path / "run", [line])))
    assert "Accuracy" not in page.text and "Completions" not in page.text


@pytest.mark.parametrize(
    "summary", ["[1]", "{", "[" * 100_000, '{"completions": [1, {"prompt": 3}], "accuracy": [2]}']
)
def test_broken_summary(tmp_path: Path, summary: str) -> None:
    Page(write_report(make_run(tmp_path / "run", [training_line(1)], summary_json=summary)))


def test_huge_spike_gets_a_logarithmic_axis(tmp_path: Path) -> None:
    lines: list[object] = [
        training_line(step, grad_norm=500.0 if step == 50 else 0.5) for step in range(1, 101)
    ]
    assert "Logarithmic scale" in Page(write_report(make_run(tmp_path / "run", lines))).text


def test_long_run_stays_small(tmp_path: Path) -> None:
    lines: list[object] = [training_line(step) for step in range(1, 20_001)]
    page = Page(write_report(make_run(tmp_path / "run", lines)))
    assert len(page.html) < 200_000
    paths = [attrs.get("d") or "" for tag, attrs in page.tags if tag == "path"]
    assert max(d.count("L") + 1 for d in paths) <= MAX_POINTS


def test_evaluations_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [training_line(1)])
    assert "Evaluations" not in Page(write_report(run)).text
    (run / "evaluation").mkdir()
    for name, value in (("before", 0.25), ("after", 0.613)):
        (run / "evaluation" / f"{name}.json").write_text(json.dumps(evaluation("minibench_hi", value)))
    (run / "evaluation" / "other.json").write_text('{"format": 7}')
    data = read_run(run)
    assert list(data.evaluations) == ["after", "before"]
    page = Page(write_report(run))
    (row,) = re.findall(r"<tr><td class=\"words\">minibench_hi</td>.*</tr>", page.html)
    assert re.findall(">([^<>]+)</td>", row)[2:] == ["61.30 ± 2.00", "25.00 ± 2.00", "30.00", "500"]
    assert "evaluation/other.json could not be read and is left out" in page.text


def test_every_set_of_tasks_has_its_own_table(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [training_line(1)])
    (run / "evaluation").mkdir()
    for file, task in (("a", "boolq"), ("b", "piqa"), ("c", "boolq")):
        (run / "evaluation" / f"{file}.json").write_text(json.dumps(evaluation(task)))
    section = Page(write_report(run)).html.partition("Evaluations")[2]
    tables = [re.findall(">([^<>]+)</t[hd]>", table) for table in section.split("</table>")[:2]]
    assert [table[:4] for table in tables] == [
        ["task", "metric", "a", "c"],
        ["task", "metric", "b", "constant answer"],
    ]


def test_a_failed_write_leaves_the_old_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [training_line(1)])
    path = write_report(run)
    before = path.read_bytes()
    (run / "metrics.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError):
        write_report(run)
    assert path.read_bytes() == before
    assert sorted(p.name for p in run.iterdir()) == ["metrics.jsonl", "report.html"]


def test_parts_of_the_model(tmp_path: Path) -> None:
    """Of many layers the first, the middle and the last; experts by their own chart."""

    def line(step: int) -> dict[str, object]:
        names = [f"layer_{layer:02}.{part}" for layer in range(12) for part in ("attention", "mlp")]
        of_parts = {f"grad_norm.{name}": 0.1 * step for name in (*names, "embedding", "vectors")}
        return training_line(step, **of_parts, **{"moe.max_load": 1.5, "moe.load.layer_01": [0.5, 1.5]})

    run = make_run(tmp_path / "run", [line(step) for step in range(1, 6)])
    page = Page(write_report(run))
    assert "Gradient norm by part" in page.text and "Experts" in page.text
    assert "Weight norm by part" not in page.text
    for layer in ("00", "05", "11"):
        assert f"layer {layer}, attention" in page.text and f"layer {layer}, mlp" in page.text
    assert "layer 01" not in page.text and "layer 06" not in page.text
