"""Where two runs begin to differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.report_runs import make_run, training_line

CODE = {"python": "3.11.4", "torch": "2.13.0", "commit": "abc"}
DATA = {"hi": {"content": "f00d" * 8, "tokens": 1_000_000}}
CONFIG = "name: a\ntrainer: {max_steps: 40, log_every_n_steps: 1}\noptim: {lr: 0.001}\n"


def run_of(path: Path, losses: dict[int, float], config: str = CONFIG, **about: object) -> Path:
    first = {"event": "first_step", "step": 1, "code": CODE, "data": DATA} | about
    lines: list[object] = [first, *(training_line(step, loss=loss) for step, loss in losses.items())]
    return make_run(path, lines, config_yaml=config)


def compare(*arguments: str | Path) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "tools.compare_runs", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def losses(*, until: int = 40, other_from: int = 100) -> dict[int, float]:
    return {step: 5 - step / 100 + (step >= other_from) * 1e-6 * step for step in range(1, until + 1)}


def test_the_same_run_twice(tmp_path: Path) -> None:
    """Under other names, with other intervals; what times say does not count."""
    first = run_of(tmp_path / "a", losses())
    config = CONFIG.replace("name: a", "name: b").replace("log_every_n_steps: 1", "log_every_n_steps: 2")
    even = {step: loss for step, loss in losses(until=30).items() if step % 2 == 0}
    second = run_of(tmp_path / "b", even, config)
    code, out, err = compare(first, second)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "settings: the same",
        "code: the same",
        "data: the same",
        "settings that figures do not depend on: name, trainer.log_every_n_steps differ",
        "figures: the same at all common steps, up to step 30",
        "last step: 40 and 30",
    ]


def test_everything_differs(tmp_path: Path) -> None:
    held_out = {"en": {"content": "babe" * 8, "tokens": 5_000}, "hi": {"content": "f00d" * 8, "tokens": 1}}
    first = run_of(tmp_path / "a", losses(), held_out=held_out)
    second = run_of(
        tmp_path / "b",
        losses(other_from=7),
        CONFIG.replace("lr: 0.001", "lr: 0.002"),
        code=CODE | {"torch": "2.11.0"},
        data={"hi": {"content": "beef" * 8, "tokens": 999_999}},
        held_out={"en": {"content": "cafe" * 8, "tokens": 5_000}},
    )
    code, out, err = compare(first, second)
    assert (code, err) == (1, "")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if "|" in line]
    assert ["optim.lr", "0.001", "0.002"] in rows
    assert ["torch", "2.13.0", "2.11.0"] in rows and not any(row[0] == "commit" for row in rows)
    assert ["hi", "f00df00df00d, 1,000,000 tokens", "beefbeefbeef, 999,999 tokens"] in rows
    assert ["valid.en", "babebabebabe, 5,000 tokens", "cafecafecafe, 5,000 tokens"] in rows
    assert not any(row[0] == "valid.hi" for row in rows)
    assert ["loss", "7", "+7e-06", "+4e-05", "40"] in rows
    assert ["grad_norm", "the same", "", "", ""] in rows
    course = rows[next(place for place, row in enumerate(rows) if row[0] == "step") + 2 :]
    assert [row[0] for row in course][:3] == ["7", "8", "9"] and course[-1][0] == "40" and len(course) <= 10
    assert course[0][1:] == ["4.930000", "4.930007", "+7e-06"]

    code, out, _ = compare(first, second, "--json")
    found = json.loads(out)
    assert code == 1 and found["same"] is False
    assert found["settings"] == [{"key": "optim.lr", "first": 0.001, "second": 0.002, "decides": True}]
    assert found["curves"]["loss"]["differs_from"] == 7 and found["curves"]["loss"]["largest_at"] == 40
    assert [step for step, _ in found["curves"]["loss"]["differences"]] == list(range(7, 41))


def test_what_guards_did_is_named(tmp_path: Path) -> None:
    """Or figures would begin to differ with the same settings, code and data. Only of common steps."""
    spikes = [{"spike_step": 21, "samples": [160, 1175]}, {"spike_step": 35, "samples": [1300, 1310]}]
    lines: list[object] = [training_line(step) for step in range(1, 41)]
    skipped = [
        *lines[:2],
        {"event": "skipped_step", "step": 3},
        *lines[3:],
        {"event": "loss_scale", "step": 41},
    ]
    first = make_run(tmp_path / "a", skipped, config_yaml=CONFIG, rollbacks_json=spikes)
    second = make_run(tmp_path / "b", lines[:30], config_yaml=CONFIG)
    code, out, _ = compare(first, second)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if "|" in line]
    assert code == 1 and "guards:" in out.splitlines()
    assert rows[2:] == [["skipped steps", "3", "–"], ["samples left out", "160 to 1,175 (step 21)", "–"]]
    code, out, _ = compare(first, second, "--json")
    found = json.loads(out)
    assert (
        code == 1
        and found["same"] is False
        and found["guards"][0]
        == {
            "key": "skipped steps",
            "first": "3",
            "second": None,
        }
    )
    (second / "rollbacks.json").write_text("{")
    assert compare(first, second)[0] == 1
    same = make_run(tmp_path / "c", skipped[:30], config_yaml=CONFIG, rollbacks_json=spikes)
    assert compare(first, same)[0] == 0


def test_runs_of_earlier_versions_and_without_common_steps(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", [training_line(1), training_line(2)])
    second = make_run(tmp_path / "b", [training_line(3)])
    code, out, _ = compare(first, second)
    assert code == 0 and out.splitlines()[-1] == "figures: no step in common (2 and 3 steps)"


def test_what_is_no_run(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", losses())
    code, out, err = compare(run, tmp_path)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"error: {tmp_path}: no metrics.jsonl here")
    code, _, err = compare(run, run)
    assert code == 2 and "is given twice" in err


def test_settings_in_lists_are_named_one_by_one(tmp_path: Path) -> None:
    """Whole entries would fill the screen, and hide that a micro-batch decides nothing."""
    phase = "{until_step: 10, lr: null, micro_batch_size: %d}"
    with_phases = CONFIG + f"phases: [{phase % 4}, {{train: {{hi: {{weight: 3.0}}}}}}]\n"
    first = run_of(tmp_path / "a", losses(), with_phases)
    second = run_of(
        tmp_path / "b",
        losses(),
        with_phases.replace("weight: 3.0", "weight: 9.0").replace("size: 4", "size: 2"),
    )
    code, out, _ = compare(first, second)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if "|" in line]
    assert code == 1 and ["phases.1.train.hi.weight", "3.0", "9.0"] in rows
    assert "settings that figures do not depend on: phases.0.micro_batch_size differ" in out
    none = run_of(tmp_path / "c", losses(), CONFIG + "phases: []\n")
    code, out, _ = compare(first, none)
    keys = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| phases")]
    assert code == 1 and keys == ["phases.0.until_step", "phases.1.train.hi.weight"], out
