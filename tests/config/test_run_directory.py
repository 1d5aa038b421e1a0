"""The directory of a run, as a command prints it, and the configuration that is recorded there."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from recipes.config.hydra_app import compose
from recipes.config.run_directory import recorded_config, resolved_yaml
from recipes.errors import UserError
from recipes.run_directory import RunDirectory
from tests.support.spy import ENGINE, spy

MODULE = "recipes.config.run_directory"


def test_one_line_without_the_engine() -> None:
    (done,) = spy([MODULE, "experiment=quickstart", "output_dir=runs/${seed}"])
    assert (done.code, done.out, done.err) == (0, "runs/1234/quickstart\n", "")
    assert not done.imported & ENGINE


def test_mistakes_are_one_line_and_exit_code_2() -> None:
    wrong = ("outputdir=x", "data.seq_length=x")
    for done in spy(*([MODULE, "experiment=quickstart", setting] for setting in wrong)):
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done.err


@pytest.mark.parametrize("experiment", ["quickstart", "param1_2p9b", "nano_hindi_25m"])
def test_it_is_written_as_omegaconf_writes_it(experiment: str) -> None:
    """So every version has written it, and a finished run is known by the text."""
    config = compose("pretrain", [f"experiment={experiment}", "name=2024_01", "trainer.max_steps=7"])
    assert resolved_yaml(config) == OmegaConf.to_yaml(OmegaConf.structured(config))


def test_a_recorded_configuration_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = compose("pretrain", ["experiment=quickstart", "trainer.max_steps=7"])
    directory = RunDirectory(tmp_path)
    text = resolved_yaml(config)
    directory.record(text)
    assert recorded_config(directory) == config
    assert capsys.readouterr().err == ""
    # An earlier version's file does not have all keys, and has some that there are no longer.
    directory.record(
        text.replace("seed: 1234\n", "gone: 1\n").replace("  keep_last:", "  old: x\n    keep_last:")
    )
    assert recorded_config(directory) == config
    warnings = capsys.readouterr().err
    assert "gone is no setting any more" in warnings and "trainer.checkpoint.old is no setting" in warnings
    for wrong in ("trainer: {max_steps: many}\n", "a: [\n", "- 1\n"):
        directory.record(wrong)
        with pytest.raises(UserError):
            recorded_config(directory)
