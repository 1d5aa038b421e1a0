"""A run that is asked for with other settings than it was started with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from recipes.config.hydra_app import compose
from recipes.config.run_directory import resolved_yaml, run_directory_of
from recipes.config.schema import PretrainConfig
from recipes.errors import UserError
from recipes.training.changed_settings import (
    FREE,
    announce_changes,
    changed_settings,
    changed_since,
    refuse_another_run,
    settings_record,
)

SETTINGS = [
    "name=mine",
    "data.seq_length=32",
    "trainer.max_steps=20",
    "data.train={en:{path:data/en,weight:0.75},hi:{path:data/hi,weight:0.25}}",
]


def asked(output_dir: Path, *changes: str) -> PretrainConfig:
    config = compose("pretrain", [*SETTINGS, f"output_dir={output_dir}", *changes])
    assert isinstance(config, PretrainConfig)
    return config


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    """Of a run that records SETTINGS."""
    config = asked(tmp_path)
    directory = run_directory_of(config)
    directory.create()
    directory.record(resolved_yaml(config))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("optim.lr=1e-2", "optim.lr 0.001 -> 0.01"),
        ("optim.betas=[0.8,0.99]", "optim.betas [0.9, 0.95] -> [0.8, 0.99]"),
        ("optim.lr_decay_steps=5000", "optim.lr_decay_steps null -> 5,000"),
        ("model.hidden_dropout=0.1", "model.hidden_dropout 0.0 -> 0.1"),
        ("model.megatron={softmax_scale:0.5}", "model.megatron.softmax_scale null -> 0.5"),
        ("data.train.hi.weight=0.5", "data.train.hi.weight 0.25 -> 0.5"),
        ("~data.train.hi", "data.train.hi {"),
        ("data.valid={new:data/new}", "data.valid.new null -> data/new"),
        ("trainer.precision=bf16", "trainer.precision auto -> bf16"),
        ("init_from=outputs/other", "init_from null -> outputs/other"),
        ("trainer.max_steps=10", "trainer.max_steps 20 -> 10"),
    ],
)
def test_a_finished_run_with_other_settings_is_refused(output_dir: Path, change: str, shown: str) -> None:
    config = asked(output_dir, change)
    with pytest.raises(UserError) as refusal:
        refuse_another_run(config, run_directory_of(config), 20, config.trainer.max_steps or 0)
    message = str(refusal.value)
    assert message.startswith(f"{output_dir}/mine holds 20 finished steps with other settings: {shown}")
    assert "name=..." in message and "a larger trainer.max_steps" in message and "\n" not in message


@pytest.mark.parametrize(
    "change",
    [
        "trainer.log_every_n_steps=1",
        "data.num_workers=4",
        "trainer.checkpoint.every_n_steps=5",
        "plan.mfu=0.5",
        "parallel=tp2",
        "data.train.hi.path=moved/hi",
        "model.megatron={moe_permute_fusion:true}",
    ],
)
def test_what_the_result_does_not_depend_on_is_only_named(output_dir: Path, change: str) -> None:
    config = asked(output_dir, change)
    unused = refuse_another_run(config, run_directory_of(config), 20, 20)
    assert " -> " in unused and "name" not in unused


def test_other_spellings_of_a_path(output_dir: Path) -> None:
    """make quickstart gives absolute paths, a user who goes on with its run relative ones."""
    config = asked(output_dir, "data.valid={en:data/valid_en}", "init_from=outputs/other")
    run_directory_of(config).record(resolved_yaml(config))
    (output_dir / "link").symlink_to(Path("data").resolve())
    for valid in (Path("data/valid_en").resolve(), "./data//valid_en", output_dir / "link" / "valid_en"):
        start = Path("outputs/other").resolve()
        again = asked(output_dir, f"data.valid={{en:{valid}}}", f"init_from={start}")
        assert refuse_another_run(again, run_directory_of(again), 20, 20) == ""
    other = asked(output_dir, "data.valid={en:data/valid_hi}", "init_from=outputs/other")
    with pytest.raises(UserError, match=r"data\.valid\.en data/valid_en -> data/valid_hi; set name"):
        refuse_another_run(other, run_directory_of(other), 20, 20)


def test_the_same_settings_and_those_of_another_version(output_dir: Path) -> None:
    config = asked(output_dir)
    directory = run_directory_of(config)
    assert refuse_another_run(config, directory, 20, 20) == ""
    recorded = yaml.safe_load(directory.config_file.read_text())
    del recorded["optim"]["clip_grad"]  # A key that was not there yet.
    recorded["trainer"]["gone"] = 1
    directory.record(yaml.safe_dump(recorded))
    assert changed_settings(asked(output_dir, "optim.clip_grad=3"), directory) == []
    directory.config_file.unlink()
    assert changed_settings(asked(output_dir, "optim.lr=3"), directory) == []


def test_a_run_that_was_stopped_may_be_ended_where_it_is(output_dir: Path) -> None:
    config = asked(output_dir, "trainer.max_steps=12")
    assert refuse_another_run(config, run_directory_of(config), 12, 12) == ""


def checkpoint_of(config: PretrainConfig | None, directory: Path) -> Path:
    """Its plain part; of an earlier version without a configuration."""
    directory.mkdir(exist_ok=True)
    record = {} if config is None else {"settings": settings_record(config)}
    torch.save({"recipes": record}, directory / "common.pt")
    return directory


def test_a_resumed_run_says_what_has_changed(
    output_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Since its checkpoint: a start in between may have recorded other settings in the run directory."""
    config = asked(output_dir, "optim.lr=1e-2", "trainer.max_steps=4000", "data.num_workers=2")
    directory = run_directory_of(config)
    changes = "       optim.lr 0.001 -> 0.01\n       trainer.max_steps 20 -> 4,000\n"
    announce_changes(config, directory, checkpoint_of(None, tmp_path / "earlier"))
    assert capsys.readouterr().out == f"{output_dir}/mine goes on with 2 changed settings:\n{changes}"
    checkpoint = checkpoint_of(asked(output_dir), tmp_path / "own")
    directory.record(resolved_yaml(config))
    announce_changes(config, directory, checkpoint)
    assert capsys.readouterr().out == f"{output_dir}/mine goes on with 2 changed settings:\n{changes}"
    announce_changes(asked(output_dir), directory, checkpoint)
    assert capsys.readouterr().out == ""
    announce_changes(asked(output_dir, "seed=7"), directory, checkpoint)
    assert capsys.readouterr().out == f"{output_dir}/mine goes on with changed settings: seed 1,234 -> 7\n"


def test_phases_are_compared_one_by_one(output_dir: Path, tmp_path: Path) -> None:
    used = asked(output_dir, "phases=[{until_step:5,train:{en:{}}},{train:{en:{},hi:{}}}]")
    checkpoint = checkpoint_of(used, tmp_path / "own")

    def found(phases: str) -> list[str]:
        config = asked(output_dir, f"phases=[{phases}]")
        return [str(each) for each in changed_since(config, run_directory_of(config), checkpoint)]

    assert found("{until_step:5,train:{en:{}}},{train:{en:{},hi:{}}}") == []
    assert found("{until_step:7,train:{en:{}}},{train:{en:{},hi:{weight:2}},lr:1e-4}") == [
        "phases.0.until_step 5 -> 7",
        "phases.1.train.hi.weight 1.0 -> 2.0",
        "phases.1.lr null -> 0.0001",
    ]
    assert found("{until_step:5,train:{en:{}}},{until_step:9,train:{en:{},hi:{}}},{seq_length:16}") == [
        "phases.1.until_step null -> 9",
        "phases.2 null -> {seq_length: 16}",
    ]
    assert found("{train:{en:{}}}") == [
        "phases.0.until_step 5 -> null",
        "phases.1 {train: {en: {loss_weight: null, tokens: null, weight: 1.0}, "
        "hi: {loss_weight: null, tokens: null, weight: 1.0}}} -> null",
    ]


def test_many_differences_are_cut(output_dir: Path) -> None:
    config = asked(
        output_dir, *(f"optim.{key}=0.5" for key in ("lr", "min_lr", "eps", "clip_grad", "muon_beta2"))
    )
    with pytest.raises(UserError, match="and 1 more; set name="):
        refuse_another_run(config, run_directory_of(config), 20, 20)


def test_free_keys_are_keys() -> None:
    recorded = settings_record(asked(Path("outputs"), "phases=[{}]"))
    recorded["phases"] = dict(enumerate(recorded["phases"]))
    for pattern in FREE:
        node = recorded
        for part in pattern.split("."):
            node = next(iter(node.values())) if part == "*" else node[part]
