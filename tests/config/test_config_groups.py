"""Every job lists the configuration groups that it chooses from, all of them and no other job's."""

from __future__ import annotations

import contextlib
import io
import sys

import pytest

from recipes.config.hydra_app import compose, run_job
from recipes.config.jobs import CONF_DIR, SCHEMAS, config_groups

GROUPS = {
    "pretrain": {"model", "optim", "parallel", "trainer", "experiment"},
    "generate": set(),
    "evaluate": {"eval"},
    "clean": {"data"},
    "cluster": {"cluster"},
}
REQUIRED = {
    "pretrain": ["name=x", "data.seq_length=8", "trainer.max_steps=1"],
    "evaluate": ["gpt_model_file=x"],
    "clean": ["output_dir=x"],
    "cluster": [],
}


def run(job: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int | str | None, str, str]:
    """Exit code, standard output and error of the job's command line; what it would run does nothing."""
    monkeypatch.setattr(sys, "argv", [job, *arguments])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        run_job(job, lambda config: 0)
    return end.value.code, out.getvalue(), err.getvalue()


def test_every_job_is_known_here() -> None:
    assert GROUPS.keys() == SCHEMAS.keys()
    assert set().union(*GROUPS.values()) == {path.name for path in CONF_DIR.iterdir() if path.is_dir()}


@pytest.mark.parametrize("job", GROUPS)
def test_help_lists_the_groups_of_the_job(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, text, _ = run(job, "--help", monkeypatch=monkeypatch)
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("== Configuration groups"))
    listed = {line.partition(":")[0] for line in lines[first + 1 : lines.index("", first)]}
    assert code == 0 and listed == (GROUPS[job] or {"none"})


@pytest.mark.parametrize(("job", "group"), [(job, group) for job in GROUPS for group in sorted(GROUPS[job])])
def test_every_listed_group_is_accepted(job: str, group: str) -> None:
    assert set(config_groups(job)) == GROUPS[job]
    for path in sorted((CONF_DIR / group).glob("*.yaml")):
        compose(job, [*REQUIRED[job], f"{group}={path.stem}"])


@pytest.mark.parametrize(
    ("job", "argument", "known"),
    [
        ("pretrain", "data=real_text", "model, optim, parallel, trainer, experiment"),
        ("pretrain", "eval=minibench", "model, optim, parallel, trainer, experiment"),
        ("evaluate", "parallel=single", "eval"),
        ("generate", "experiment=quickstart", "none"),
    ],
)
def test_a_group_of_another_job_is_refused_with_those_of_this_one(
    job: str, argument: str, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, error = run(job, argument, monkeypatch=monkeypatch)
    assert code == 2
    assert error == f"error: {argument}: this job has no such configuration group (it has: {known})\n"


@pytest.mark.parametrize("job", ["generate", "evaluate"])
def test_a_group_of_another_job_that_has_another_name_here(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model file is read, ``model=`` means the file."""
    code, _, error = run(job, "model=model.nemo", monkeypatch=monkeypatch)
    assert code == 2
    assert error.startswith("error: model: there is no such key; here it is gpt_model_file: A .nemo file")
    assert error.count("\n") == 1
