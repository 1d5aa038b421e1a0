"""What a benchmark has measured, for programs: JSON lines, each written as soon as its figure is known."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """``--json FILE``."""
    parser.add_argument("--json", type=Path, help="append the figures to this file, one JSON object a line")


def record(path: Path | None, **figures: Any) -> None:
    """Appends a line; numbers are rounded to what was measured."""
    if path is None:
        return
    rounded = {
        key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in figures.items()
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(rounded, ensure_ascii=False) + "\n")
