"""Several runs on one page."""

import json
import re
from pathlib import Path

import pytest

from recipes.errors import UserError
from recipes.report import write_comparison
from tests.support.html_page import Page
from tests.support.report_runs import evaluation, make_run, training_line


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


def test_memory_updates_and_experts_are_compared(tmp_path: Path) -> None:
    more = {"update_ratio": 1e-3, "weight_norm": 20.0, "memory_bytes": 3 * 2**30, "moe.max_load": 1.2}
    lines = [training_line(step, tokens_per_second_per_device=2500.0, **more) for step in range(1, 5)]
    first, second = (make_run(tmp_path / name, list(lines)) for name in "ab")
    page = Page(write_comparison([first, second]))
    cells = {name: rest for name, *rest in figures(page.html)}
    assert cells["Memory"] == ["3.0\u00a0GiB"] * 2 and cells["Tokens/s per device"] == ["2,500"] * 2
    for title in ("Size of the update", "Weight norm", "Fullest expert"):
        chart = re.findall(rf'aria-label="{title}">.*?</svg>', page.html, re.S)[0]
        assert len(re.findall(r'class="line (c\d)"', chart)) == 2


def test_ten_runs_have_curves_of_their_own(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"r{n}", [training_line(1), training_line(2)]) for n in range(10)]
    html = Page(write_comparison(runs)).html
    (chart,) = re.findall(r'aria-label="Learning rate">.*?</svg>', html, re.S)
    assert len(set(re.findall(r'class="line ([^"]*)"', chart))) == 10
