"""The templates of all pages."""

import re
import tomllib

import pytest
from jinja2 import UndefinedError

from recipes.report.rendering import render
from tests.support.paths import ROOT


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
