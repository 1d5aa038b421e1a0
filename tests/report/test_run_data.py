"""What is read of a run directory, whatever it holds."""

import json
import math
import re
from pathlib import Path

import pytest

from recipes.errors import UserError
from recipes.report import write_report
from recipes.report.run_data import Series, read_run
from tests.support.html_page import Page
from tests.support.report_runs import make_run, training_line


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


def test_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run directory"):
        write_report(tmp_path / "missing")
    with pytest.raises(UserError, match=r"no metrics\.jsonl"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no metrics in it yet"):
        write_report(make_run(tmp_path / "empty", []))
    with pytest.raises(UserError, match="no metrics in it yet"):
        write_report(make_run(tmp_path / "events", [{"event": "resumed", "step": 3}, {"loss": 1}, [1], 7]))


def test_a_curve_between_its_points() -> None:
    """Tokens of a checkpoint that no line was logged for; steps may have become larger."""
    tokens = Series([10, 20], [100.0, 400.0])
    assert [tokens.at(step) for step in (0, 5, 10, 15, 20, 21)] == [0.0, 50.0, 100.0, 250.0, 400.0, 430.0]
    assert Series([4], [8.0]).at(6) == 12.0
