"""Releases made in a pool's worker, which has imported the engine already."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from tests.support.run_cases import environment


def release_case(run: Path, out: Path, options: dict[str, Any]) -> str:
    """Makes a release; what was refused, empty if nothing was."""
    _without_launcher()
    from recipes.errors import UserError
    from recipes.release.build import write_release

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            write_release(run, out, **options)
        except UserError as error:
            return str(error)
    return ""


def _without_launcher() -> None:
    """The folder's own script is to run as a process of its own."""
    for name in [*os.environ]:
        if name not in environment():
            del os.environ[name]


def interrupted_case(run: Path, out: Path, options: dict[str, Any]) -> list[str]:
    """A release that Ctrl-C ends while it is verified: what lies beside ``out`` then."""
    from recipes.release import build

    def stop(*_: Any, **__: Any) -> Any:
        assert any(out.parent.glob(".*.partial"))
        raise KeyboardInterrupt

    build.completions = stop
    try:
        build.write_release(run, out, **options)
    except KeyboardInterrupt:
        return [path.name for path in out.parent.iterdir()]
    raise AssertionError


def compared_case(run: Path, folder: Path) -> str:
    """Compares the forms of a model that lie in a folder; what was refused."""
    from recipes.errors import UserError
    from recipes.release.build import compared
    from recipes.release.finished_run import finished_run

    with finished_run(run) as found:
        try:
            compared(found, folder)
        except UserError as error:
            return str(error)
    return ""
