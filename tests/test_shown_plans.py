"""Plans that pages show are those that are printed today."""

from __future__ import annotations

import shlex

import pytest

from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.plan.dry_run import describe_run
from tests.support.paths import ROOT
from tests.support.shown_output import Output, first_stale, shown_plans
from tools import plan

SHOWN = [
    (page.name, shown)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if page.name != "decisions.md"
    for shown in shown_plans(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "shown"), SHOWN, ids=[f"{page}: {shown.command}" for page, shown in SHOWN])
def test_a_shown_plan_is_what_is_printed(
    page: str, shown: Output, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, *arguments = shlex.split(shown.command)[2:]
    if module == "tools.plan":
        monkeypatch.setattr("sys.argv", [module, *arguments])
        plan.main()
        printed = capsys.readouterr().out
    else:
        config = compose("pretrain", arguments)
        printed = describe_run(config, validate_pretrain(config))
    assert first_stale(shown.lines, printed.splitlines()) is None


def test_pages_show_plans() -> None:
    assert {page for page, _ in SHOWN} >= {"param1.md", "plan-a-run.md", "published-models.md"}


def test_figures_of_prose_are_those_of_the_plan() -> None:
    """docs/param1.md names the cost of training in its table, too."""
    page = (ROOT / "docs/param1.md").read_text(encoding="utf-8")
    [shown] = shown_plans(page)
    rows = {line.split("  ")[0]: line for line in shown.lines}
    days, hours = rows["time"].split(None, 1)[1], rows["GPU-hours"].split()[1]
    assert f"**{days}, {hours} GPU-hours**" in page


def test_stale_lines_are_found() -> None:
    printed = ["a  1", "b  2", "c  3"]
    assert first_stale(["a  1", "...", "c  3", "..."], printed) is None
    assert first_stale(["a  1", "c  3"], printed) == "c  3"
    assert first_stale(["...", "c  3", "b  2"], printed) == "b  2"
    assert first_stale(["...", "b  3"], printed) == "b  3"
