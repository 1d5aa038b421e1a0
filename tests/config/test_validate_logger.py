"""Where figures go: refused before anything heavy is imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError

RUN = ("experiment=quickstart",)


def refused(*settings: str) -> str:
    with pytest.raises(UserError) as error:
        validate_pretrain(compose("pretrain", [*RUN, *settings]))
    return str(error.value)


def test_the_default_and_both() -> None:
    assert compose("pretrain", [*RUN]).logger == []
    validate_pretrain(compose("pretrain", [*RUN, "logger=[tensorboard,wandb]", "wandb.offline=true"]))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            "logger=tensorbord",
            "logger=tensorbord: choose one of tensorboard, wandb; did you mean tensorboard?",
        ),
        ("logger=[wandb,wandb]", "logger=['wandb', 'wandb']: names wandb twice"),
        ("wandb.offline=true", "wandb.offline=True: would be ignored: logger does not name wandb"),
    ],
)
def test_refused(settings: str, line: str) -> None:
    assert refused(settings) == line


@pytest.mark.parametrize("key", ["project", "entity"])
def test_an_empty_name_at_weights_and_biases(key: str) -> None:
    with pytest.raises(UserError, match=f"^wandb.{key}='': is empty; give a name, or leave it out$"):
        validate_pretrain(compose("pretrain", [*RUN, "logger=wandb", f"wandb.{key}="]))


def test_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    line = "logger=wandb: wandb is not installed: pip install -e '.[loggers]' -c constraints.txt"
    assert refused("logger=wandb") == line
    validate_pretrain(compose("pretrain", [*RUN, "logger=wandb", "dry_run=true"]))  # For another machine.


def test_a_directory_of_that_name_is_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """wandb makes one where it is started."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(__import__("sys").modules, "wandb", raising=False)
    assert "wandb is not installed" in refused("logger=wandb")
