"""How often each source is read, as a plan says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.errors import UserError
from recipes.plan.epochs import MANY_EPOCHS, epoch_rows, source_uses
from tests.support.phase_cases import PHASES, TOKENS, config_of, write_sources
from tests.support.sources import SEQ_LENGTH, run_config, write_source


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sources")
    write_sources(path)
    return path


def test_epochs(directory: Path) -> None:
    config = config_of(dict.fromkeys(TOKENS, 1.0), PHASES, directory, steps=40)
    uses = {use.name: use for use in source_uses(config)}
    assert {name: use.tokens_drawn // SEQ_LENGTH for name, use in uses.items()} == {
        "en": 188, "hi": 106, "code": 26,
    }  # fmt: skip
    for name, use in uses.items():
        assert use.tokens_available == TOKENS[name]
        assert use.epochs == pytest.approx(
            use.tokens_drawn // SEQ_LENGTH / ((TOKENS[name] - 1) // SEQ_LENGTH)
        )
    names = [name for name, _ in epoch_rows(config)]
    assert names.count("  warning") == 0
    few = run_config({"en": (directory / "en", 1.0), "code": (directory / "code", 1.0)}, max_steps=40)
    warnings = [text for name, text in epoch_rows(few) if name == "  warning"]
    assert MANY_EPOCHS == 4 and len(warnings) == 1 and "code is read 14.5 times" in warnings[0]


def test_epochs_of_what_is_not_there(tmp_path: Path) -> None:
    config = config_of({"en": 1.0}, directory=tmp_path)
    assert epoch_rows(config)[0][1].endswith("640 tokens, data not found, epochs unknown")
    write_source(tmp_path / "en", 5)
    assert epoch_rows(config)[0][1].endswith("holds 5: less than one sample")
    (tmp_path / "en.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"en\.bin is truncated"):
        epoch_rows(config)


def test_no_torch_for_a_dry_run() -> None:
    import subprocess
    import sys

    code = "import sys, recipes.plan.dry_run, recipes.plan.epochs; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
