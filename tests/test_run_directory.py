"""The run directory's metrics: appended, torn by crashes, continued by resumed runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from recipes.config.hydra_app import compose
from recipes.config.run_directory import resolved_yaml, run_directory_of
from recipes.errors import UserError
from recipes.run_directory import RunDirectory, read_metrics, read_metrics_log


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    config = compose(
        "pretrain", ["name=run", f"output_dir={tmp_path}", "data.seq_length=32", "trainer.max_steps=1"]
    )
    run = run_directory_of(config)
    run.create()
    run.record(resolved_yaml(config))
    return run


def step(number: int, **more: Any) -> dict[str, Any]:
    return {"step": number, "loss": 1.0 / number, **more}


def test_layout(directory: RunDirectory, tmp_path: Path) -> None:
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoints", "logs", "config.yaml"}
    assert directory.metrics_file == tmp_path / "run" / "metrics.jsonl"
    assert directory.nemo_file == tmp_path / "run" / "model.nemo"
    assert directory.index_cache == tmp_path / "run" / "index_cache"


def test_recorded_configuration_is_whole(directory: RunDirectory, tmp_path: Path) -> None:
    config = compose(
        "pretrain", ["name=run", f"output_dir={tmp_path}", "data.seq_length=32", "trainer.max_steps=1"]
    )
    assert directory.describes(resolved_yaml(config))
    assert not directory.describes(resolved_yaml(replace(config, seed=2)))
    recorded = OmegaConf.load(directory.config_file)
    assert recorded.model.num_layers == 4 and recorded.trainer.max_steps == 1
    assert not OmegaConf.missing_keys(recorded)


def test_what_is_appended_is_read(directory: RunDirectory) -> None:
    records = [
        step(1),
        step(2, text="भारत \u2028 \x85 \x1c a\nb"),
        {"step": 2, "valid.hi.loss": float("inf")},
    ]
    for record in records:
        directory.append_metrics(record)
    assert read_metrics(directory.metrics_file) == records
    assert directory.metrics_file.read_bytes().count(b"\n") == 3


def test_followers_get_what_is_on_disk(directory: RunDirectory) -> None:
    found: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    directory.followers.append(lambda record: found.append((record, read_metrics(directory.metrics_file))))
    directory.append_metrics(step(1))
    assert found == [(step(1), [step(1)])]


def test_missing_file_is_an_empty_history(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@given(cut=st.integers(1, 200))
def test_torn_line_is_passed_over_and_not_glued_to(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    directory = RunDirectory(tmp_path_factory.mktemp("torn"))
    whole = [step(n, text="कखग" * 5) for n in (1, 2)]
    for record in whole:
        directory.append_metrics(record)
    content = directory.metrics_file.read_bytes()
    cut = min(cut, len(content) - 1)
    directory.metrics_file.write_bytes(content[:-cut])
    directory.append_metrics(step(3))
    survived = [
        record for record in whole if json.dumps(record, ensure_ascii=False).encode() in content[:-cut]
    ]
    assert read_metrics(directory.metrics_file) == [*survived, step(3)]


def test_resumed_run_replaces_what_it_trained_again(directory: RunDirectory) -> None:
    def resumed(at: int) -> dict[str, Any]:
        return {"event": "resumed", "step": at, "checkpoint": f"step_{at:08}"}

    for record in [
        *(step(n) for n in range(1, 8)),
        resumed(4),
        *(step(n, again=1) for n in range(5, 10)),
        resumed(8),
        {"step": 8, "valid.en.loss": 2.0},
        resumed(6),
        step(7, again=2),
    ]:
        directory.append_metrics(record)
    history = read_metrics(directory.metrics_file)
    assert history == [
        *(step(n) for n in range(1, 5)),
        resumed(4),
        *(step(n, again=1) for n in range(5, 7)),
        resumed(6),
        step(7, again=2),
    ]


def test_a_start_takes_back_all_that_was_before(directory: RunDirectory) -> None:
    started = {"event": "started", "step": 0}
    for record in [
        {"step": 0, "valid.en.loss": 7.0},
        *(step(n) for n in range(1, 8)),
        started,
        step(1, again=1),
    ]:
        directory.append_metrics(record)
    assert read_metrics(directory.metrics_file) == [started, step(1, again=1)]


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "metrics.jsonl"
    path.write_bytes(content)
    assert all(isinstance(record["step"], int) for record in read_metrics(path))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["step", "event", "x"]), inner)
    ),
    max_leaves=6,
)
records = json_values | st.fixed_dictionaries({}, optional={"step": json_values, "event": st.just("resumed")})


@given(st.lists(records, max_size=8))
def test_arbitrary_json_never_raises(tmp_path_factory: pytest.TempPathFactory, lines: list[Any]) -> None:
    path = tmp_path_factory.mktemp("json") / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for record in read_metrics(path):
        assert isinstance(record["step"], int)


def test_deeply_nested_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("[" * 100_000 + "\n" + json.dumps(step(1)) + "\n")
    assert read_metrics(path) == [step(1)]


def log_of(folder: Path, content: bytes) -> tuple[list[dict[str, Any]], int]:
    path = folder / "metrics.jsonl"
    path.write_bytes(content)
    log = read_metrics_log(path)
    return log.appended, log.unreadable_lines


def line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


# Values as metrics have them: flat, and texts of any kind.
values = st.none() | st.integers(0, 10**6) | st.floats(allow_nan=False) | st.text(max_size=12)
written = st.dictionaries(st.text(max_size=4), values, max_size=3).flatmap(
    lambda more: st.integers(0, 10**6).map(lambda number: {"step": number} | more | {"step": number})
)


@given(st.lists(written, min_size=1, max_size=4), st.data())
def test_of_a_torn_file_every_whole_record_is_read(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], data: st.DataObject
) -> None:
    """A crash at any byte, then more lines, glued to what was there."""
    content = b"".join(line(record) + b"\n" for record in lines)
    cut = data.draw(st.integers(0, len(content)))
    begins = [sum(len(line(record)) + 1 for record in lines[:n]) for n in range(len(lines))]
    whole = [r for r, begin in zip(lines, begins, strict=True) if begin + len(line(r)) <= cut]
    torn = any(begin < cut < begin + len(line(r)) for r, begin in zip(lines, begins, strict=True))
    folder = tmp_path_factory.mktemp("torn")
    assert log_of(folder, content[:cut]) == (whole, int(torn))
    after = data.draw(st.lists(written, min_size=1, max_size=3))
    glued = content[:cut] + b"".join(line(record) + b"\n" for record in after)
    assert log_of(folder, glued) == ([*whole, *after], int(torn))


def test_a_record_glued_to_a_torn_one_may_hold_braces(tmp_path: Path) -> None:
    """The last brace of a line need not begin its record."""
    record = {"event": "sample", "step": 4, "prompt": "def f(): return {", "more": {"a": {"b": 1}}}
    for torn in (b'{"step": 3, "lo', b'{"step": 3, "x": {"y": 1}, "z": [', b'{"step": 3, "text": "{"a"{'):
        assert log_of(tmp_path, line(step(1)) + b"\n" + torn + line(record)) == ([step(1), record], 1)


def test_what_is_no_record_of_a_step_is_counted(tmp_path: Path) -> None:
    kinds: list[Any] = [[1], 7, {"loss": 1}, {"step": -1}, {"step": True}, {"step": "3"}, {"step": 1.5}]
    kinds += [{"step": 10**400}, {"step": 2**63}, {"step": float("nan")}]
    content = b"".join(json.dumps(kind).encode() + b"\n" for kind in kinds)
    # A blank line is nothing, a whole number may be written as 3.0.
    read, unreadable = log_of(tmp_path, content + b'\n  \r\n{"step": 3.0}\r\n' + b"\xff" + content[:4])
    assert (read, unreadable) == ([{"step": 3}], len(kinds) + 1)
    assert isinstance(read[0]["step"], int)


def test_a_resume_whose_own_line_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records = [step(1), step(2), {"step": 2, "valid.x.loss": 1.0}, step(3), step(2, again=1)]
    path.write_bytes(b"\n".join(map(line, records)))
    assert read_metrics(path) == [step(1), step(2, again=1)]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        read_metrics(tmp_path)
    assert read_metrics(tmp_path / "a file" / "metrics.jsonl") == []
