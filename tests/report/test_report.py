"""The run report: well-formed and safe whatever the run directory holds."""

import json
import math
import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from recipes.errors import UserError
from recipes.report import write_comparison, write_report
from recipes.report.charts import log_ticks, ticks
from recipes.report.curves import MAX_POINTS, downsample, smooth
from recipes.report.figures import format_duration, format_number
from recipes.report.run_data import read_run
from recipes.report.templates import render
from tests.support.html_page import HOSTILE, Page
from tests.support.paths import ROOT


def training_line(step: int, **more: object) -> dict[str, object]:
    line: dict[str, object] = {"step": step, "consumed_samples": step * 8, "consumed_tokens": step * 1024}
    line |= {"loss": 10 / (1 + step), "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 5000.0, "mfu": None}
    return line | {"elapsed_s": step * 0.5} | more


def make_run(path: Path, lines: list[object], tail: str = "", **files: object) -> Path:
    path.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines) + tail
    (path / "metrics.jsonl").write_text(text, encoding="utf-8")
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return path


SUMMARY = {
    "wall_s": 200.0,
    "hardware": "2 CPU cores",
    "accuracy": {"hi": {"before": 0.25, "after": 0.6, "stderr": 0.02, "n": 500, "constant_answer": 0.3}},
    "resumed_at_step": 10,
    "tokens_per_second": 5000,
    "completions": [
        {"prompt": "भारत की राजधानी", "completion": " दिल्ली है।"},
        {"prompt": "The", "completion": " end"},
    ],
}


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


def test_page_is_self_contained(tmp_path: Path) -> None:
    """`Page` checks it."""
    page = Page(write_report(make_run(tmp_path / "run", [training_line(1)], summary_json=SUMMARY)))
    assert {"svg", "style"} <= {tag for tag, _ in page.tags}


def evaluation(name: str, value: float = 0.5) -> dict[str, object]:
    """A file in evaluation/, in which every text is `name`."""
    task = {
        "scores": {f"acc_{name},none": {"value": value, "stderr": 0.02}},
        "n": 500,
        "constant_answer": 0.3,
    }
    return {"format": 1, "model": name, "requested": [name], "tasks": {name: task}}


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


def test_templates_mark_nothing_as_safe() -> None:
    templates = [path for path in (ROOT / "recipes").glob("**/templates/*") if path.is_file()]
    assert len(templates) >= 7
    for path in templates:
        assert not re.search(r"\|\s*safe|autoescape|Markup", path.read_text(encoding="utf-8")), path


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        render("recipes.report/run.html")


def test_templates_are_installed_with_their_packages() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for path in (ROOT / "recipes").glob("**/templates/*.*"):
        package = ".".join(path.parents[1].relative_to(ROOT).parts)
        assert any(path.match(f"*/{pattern}") for pattern in patterns.get(package, [])), path


def test_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [training_line(1), training_line(2)], tail='{"step": 3, "lo')
    data = read_run(run)
    assert data.last_step == 2
    assert data.unreadable_lines == 1
    assert "1 line of metrics.jsonl" in Page(write_report(run)).text


def test_torn_line_with_a_whole_one_behind_it(tmp_path: Path) -> None:
    tail = (
        '{"step": 3, "lo' + json.dumps({"event": "resumed", "step": 1}) + "\n" + json.dumps(training_line(2))
    )
    data = read_run(make_run(tmp_path / "run", [training_line(1), training_line(2, loss=99.0)], tail=tail))
    assert data.resumed == [1]
    assert data.training["loss"].steps == [1, 2]
    assert data.training["loss"].last == pytest.approx(10 / 3)


def test_nan_and_null(tmp_path: Path) -> None:
    lines: list[object] = [
        training_line(1),
        training_line(2, loss=math.nan, grad_norm=math.inf, tokens_per_second=None),
        training_line(3, loss=None),
        training_line(4, loss="5", grad_norm=True, lr=[1], tokens_per_second=10**400),
    ]
    run = make_run(
        tmp_path / "run", lines, summary_json='{"wall_s": NaN, "accuracy": {"en": {"after": NaN}}}'
    )
    data = read_run(run)
    assert data.non_finite == [2, 3]
    assert data.training["loss"].steps == [1]
    assert data.training["grad_norm"].steps == [1, 3]
    assert data.training["mfu"].steps == []
    page = Page(write_report(run))
    assert "not a finite number at step 2, 3" in page.text
    assert not re.search(r"\b(nan|inf)\b", page.html)


def test_resume_replaces_the_lost_steps(tmp_path: Path) -> None:
    lines: list[object] = [training_line(step, loss=1.0) for step in range(1, 21)]
    lines += [{"step": 20, "valid.en.loss": 1.0}, {"event": "resumed", "step": 15}]
    lines += [training_line(step, loss=2.0, elapsed_s=float(step - 15)) for step in range(16, 31)]
    data = read_run(make_run(tmp_path / "run", lines))
    assert data.resumed == [15]
    assert data.training["loss"].steps == list(range(1, 31))
    assert data.training["loss"].values == [1.0] * 15 + [2.0] * 15
    assert data.valid == {}
    assert data.elapsed_s == 10.0 + 15.0
    page = Page(write_report(tmp_path / "run"))
    assert "resumed at step 15" in page.text
    assert "resumed once" in page.text


def test_seconds_of_every_process_count(tmp_path: Path) -> None:
    """The second process is slower, so that its own seconds never fall behind the first's."""
    lines: list[object] = [training_line(1, elapsed_s=2.0), training_line(2, elapsed_s=4.0)]
    lines += [{"event": "resumed", "step": 1}, training_line(2, elapsed_s=50.0)]
    lines += [{"event": "resumed", "step": 2}, training_line(3, elapsed_s=60.0)]
    data = read_run(make_run(tmp_path / "run", [*lines, {"event": "resumed", "step": 3}]))
    assert data.elapsed_s == 4.0 + 50.0 + 60.0


def test_a_start_replaces_everything(tmp_path: Path) -> None:
    """Killed before the first checkpoint, then the same command."""
    lines: list[object] = [training_line(step, loss=1.0, elapsed_s=float(step)) for step in range(1, 9)]
    lines += [{"event": "resumed", "step": 8}, training_line(9, loss=math.nan, elapsed_s=1.0)]
    lines += [
        {"event": "sample", "step": 9, "prompt": "a", "completion": "b"},
        {"step": 9, "valid.x.loss": 1.0},
    ]
    lines += [{"event": "started", "step": 0}, training_line(1, loss=2.0, elapsed_s=30.0)]
    data = read_run(make_run(tmp_path / "run", lines))
    assert data.training["loss"].steps == [1] and data.training["loss"].values == [2.0]
    assert (data.resumed, data.non_finite, data.samples, data.valid) == ([], [], [], {})
    assert data.elapsed_s == 8.0 + 1.0 + 30.0


def test_going_back_without_an_event(tmp_path: Path) -> None:
    lines: list[object] = [training_line(1), training_line(2, loss=9.0), training_line(3, loss=9.0)]
    data = read_run(make_run(tmp_path / "run", [*lines, training_line(2, loss=4.0)]))
    assert data.training["loss"].steps == [1, 2]
    assert data.training["loss"].last == 4.0


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


def test_downsampling_keeps_the_extremes_and_the_ends() -> None:
    random.seed(0)
    points = [(float(x), random.gauss(0, 1)) for x in range(123_457)]
    points[60_000] = (60_000.0, 50.0)
    points[60_001] = (60_001.0, -50.0)
    kept = downsample(points)
    assert len(kept) <= MAX_POINTS
    assert kept == sorted(set(kept)) and set(kept) <= set(points)
    assert {points[0], points[-1], points[60_000], points[60_001]} <= set(kept)
    assert downsample(points[:MAX_POINTS]) == points[:MAX_POINTS]
    for n in range(5, 40):
        assert len(downsample(points[:n], 6)) <= 6


def test_long_run_stays_small(tmp_path: Path) -> None:
    lines: list[object] = [training_line(step) for step in range(1, 20_001)]
    page = Page(write_report(make_run(tmp_path / "run", lines)))
    assert len(page.html) < 200_000
    paths = [attrs.get("d") or "" for tag, attrs in page.tags if tag == "path"]
    assert max(d.count("L") + 1 for d in paths) <= MAX_POINTS


def test_smooth_keeps_constants_and_does_not_lag_at_the_start() -> None:
    assert smooth([(float(x), 3.0) for x in range(500)]) == [(float(x), 3.0) for x in range(500)]
    steep = [(float(x), 10.0 - x if x < 8 else 2.0) for x in range(1000)]
    assert smooth(steep)[5][1] == 5.0


def test_numbers_and_ticks() -> None:
    shown = [format_number(v) for v in (0, 3e-4, 2.4123, 1234, 31_600, 999_999, 2.9e9, 5e12)]
    assert shown == ["0", "3e-4", "2.412", "1,234", "31.6k", "1,000k", "2.9B", "5T"]
    for low, high in ((0.0, 1.0), (2.31, 2.34), (-3.0, 7.0), (5.0, 5.0), (0.0, 1e9), (0.0, 3e-4)):
        values = ticks(low, high)
        assert values[0] <= low and values[-1] >= high and 3 <= len(values) <= 9
    for low, high in ((0.4, 12.0), (1.0, 1.0), (1e-8, 1e8), (3.0, 400.0)):
        values = log_ticks(low, high)
        assert values[0] <= low and values[-1] >= high and len(values) >= 2
    assert [format_duration(s) for s in (3.21, 41, 200, 18_720, 792_000)] == [
        "3.2 s",
        "41 s",
        "3 min 20 s",
        "5 h 12 min",
        "9 d 4 h",
    ]


def test_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run directory"):
        write_report(tmp_path / "missing")
    with pytest.raises(UserError, match=r"no metrics\.jsonl"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no metrics in it yet"):
        write_report(make_run(tmp_path / "empty", []))
    with pytest.raises(UserError, match="no metrics in it yet"):
        write_report(make_run(tmp_path / "events", [{"event": "resumed", "step": 3}, {"loss": 1}, [1], 7]))


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


def test_several_runs_on_one_page(tmp_path: Path) -> None:
    first = make_run(
        tmp_path / "a" / "run", [training_line(step) for step in range(1, 61)], summary_json={"wall_s": 200}
    )
    lines: list[object] = [training_line(step, loss=4.0) for step in range(1, 31)]
    lines.append({"step": 30, "valid.hi.loss": 2.5, "valid.hi.bits_per_byte": 1.25})
    second = make_run(tmp_path / "b" / "run", lines, tail='{"st')
    (second / "evaluation").mkdir()
    (second / "evaluation" / "model.json").write_text(json.dumps(evaluation("t")))
    path = write_comparison([first, second])
    assert path == first / "comparison.html"
    page = Page(path)
    cells = {name: rest for name, *rest in figures(page.html)}
    assert cells["Steps"] == ["60", "30"] and cells["Tokens"] == ["61.4k", "30.7k"]
    assert cells["Training loss, smoothed"][1] == "4" and cells["Wall time"] == ["3 min 20 s", "15 s"]
    assert cells["Validation loss, Hindi"] == ["–", "2.5"] and cells["Bits per byte, Hindi"] == ["–", "1.25"]
    assert "MFU" not in cells
    # Two runs of one name are called by their paths.
    assert f"{second}: 1 line of metrics.jsonl could not be read" in page.text
    assert f"{second}, model" in page.text and "50.00 ± 2.00" in page.text
    curves = re.findall(r"aria-label=\"Training loss\">.*?</svg>", page.html, re.S)[0]
    assert re.findall(r'class="line (c\d)"', curves) == ["c1", "c2"]
    with pytest.raises(UserError, match="is given twice"):
        write_comparison([first, second, first])


def figures(html: str) -> list[list[str]]:
    """The cells of all tables' lines."""
    lines = re.findall("<tr>(<td.*)</tr>", html)
    return [re.findall(">([^<>]*)</td>", line) for line in lines]


def test_ten_runs_have_curves_of_their_own(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"r{n}", [training_line(1), training_line(2)]) for n in range(10)]
    html = Page(write_comparison(runs)).html
    (chart,) = re.findall(r'aria-label="Learning rate">.*?</svg>', html, re.S)
    assert len(set(re.findall(r'class="line ([^"]*)"', chart))) == 10


def test_a_failed_write_leaves_the_old_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [training_line(1)])
    path = write_report(run)
    before = path.read_bytes()
    (run / "metrics.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError):
        write_report(run)
    assert path.read_bytes() == before
    assert sorted(p.name for p in run.iterdir()) == ["metrics.jsonl", "report.html"]


def report_tool(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.report", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_command_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [training_line(1)])
    out = tmp_path / "page.html"
    done = report_tool(run, "--out", out)
    assert (done.returncode, done.stdout.strip()) == (0, str(out))
    Page(out)
    missing = report_tool(tmp_path / "missing")
    assert missing.returncode == 2
    assert re.fullmatch(r"error: .*no such run directory\n", missing.stderr)
    assert report_tool(run, "--out", tmp_path / "no" / "where.html").returncode == 2
    several = report_tool(run, make_run(tmp_path / "other", [training_line(1)]))
    assert (several.returncode, several.stdout.strip()) == (0, str(run / "comparison.html"))
    twice = report_tool(run, run)
    assert (twice.returncode, twice.stderr) == (2, f"error: {run} is given twice\n")
    assert "examples:" in report_tool("--help").stdout
