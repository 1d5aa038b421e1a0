"""The check's parts run, fail, hang and are interrupted without harm to each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check
from benchmarks.door import TURN
from benchmarks.gpu_check import PARTS, Check, Part, chosen
from recipes.errors import UserError
from tests.support.paths import ROOT

MEASURES = 'import sys; open(sys.argv[1], "a").write(\'{"who": "x", "ms": 1.5}\\n\'); '


def part(name: str, code: str, limit_s: float = 60, **more: Any) -> Part:
    return Part(name, limit_s, ["-c", MEASURES + code, "{json}"], **more)


def check(out: Path, total_s: float = 60) -> Check:
    return Check(out, nanochat=None, tiny=False, total_s=total_s)


def outcomes(out: Path) -> dict[str, dict[str, Any]]:
    lines = map(json.loads, (out / "gpu_check.jsonl").read_text().splitlines())
    return {line["part"]: line for line in lines}


def test_parts_do_not_stop_each_other(tmp_path: Path) -> None:
    parts = [
        part("fails", "sys.exit('it | broke')"),
        part("hangs", "import time; time.sleep(60)", limit_s=5),
        part("works", "pass"),
        part("wants", "pass", needs="nanochat"),
    ]
    assert not check(tmp_path).run(parts)
    found = outcomes(tmp_path)
    assert {name: each["ended"] for name, each in found.items()} == {
        "fails": "failed: exit code 1",
        "hangs": "stopped after 5 s",
        "works": "done",
        "wants": "skipped: needs --nanochat",
    }
    # What was measured before the end is kept, each time.
    measured = [{"who": "x", "ms": 1.5}]
    assert [each["figures"] for each in found.values()] == [measured, measured, measured, []]
    rows = (tmp_path / "gpu_check.md").read_text().splitlines()
    assert len(rows) == 2 + 4 and "x: ms 1.5" in rows[4] and "it \\| broke" in rows[2]
    assert "most recent call first" in (tmp_path / "hangs.log").read_text(), "where did it stand?"
    assert check(tmp_path).run([part("again", "pass")])
    assert list(outcomes(tmp_path)) == [*found, "again"]


def test_long_compilations_run_beside_the_tests(tmp_path: Path) -> None:
    """For their compiled kernels: what they measure there does not count, and they end with the tests."""
    waits = "import os, time; kept = os.environ['TORCHINDUCTOR_CACHE_DIR']; "
    shortened = f"{waits}open({str(tmp_path / 'arguments')!r}, 'a').write(f'{{sys.argv[2:]}} {{kept}};')"
    tests = f"{waits}\nwhile not os.path.exists({str(tmp_path / 'arguments')!r}): time.sleep(0.05)"
    parts = [part("tests", tests), part("slow", shortened, compiles_long=True)]
    assert check(tmp_path).run(parts)
    kept = tmp_path / "compiled"
    assert (tmp_path / "arguments").read_text() == f"['--steps', '1', '--warm-up', '1'] {kept};[] {kept};"
    assert outcomes(tmp_path)["slow"]["figures"] == [{"who": "x", "ms": 1.5}]


@pytest.mark.parametrize("lacks_cores", [False, True])
def test_the_next_part_gets_ready_while_one_measures(
    lacks_cores: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It measures in its turn; one whose turn never comes is ended."""
    monkeypatch.setattr(gpu_check, "CORES_TO_SHARE", 10**6 if lacks_cores else 1)
    imports = (
        "import os, time\n"
        f"os.chdir({str(tmp_path)!r})\n"
        f"early = os.environ.get({TURN!r})\n"
        "name = os.path.basename(sys.argv[1]).partition('.')[0]\n"
        "open(f'{name}.ready', 'w').write(str(os.getpid()))\n"
    )
    turn = f"{imports}if early: assert sys.stdin.readline() and os.path.exists('first.done')\n"
    seen = "" if lacks_cores else "while not os.path.exists('second.ready'): time.sleep(0.05)\n"
    measures = 'open(sys.argv[1], \'a\').write(f\'{{"who": "{name}", "early": "{early}"}}\\n\')\n'
    parts = [
        Part(
            "first", 60, ["-c", f"import sys\n{imports}{seen}open('first.done', 'w')\n{measures}", "{json}"]
        ),
        Part("between", 60, ["-c", "import sys", "{json}"]),
        Part("second", 60, ["-c", f"import sys\n{turn}{measures}", "{json}"], waits_for_turn=True),
    ]
    assert check(tmp_path).run(parts)
    early = None if lacks_cores else 1
    assert outcomes(tmp_path)["second"]["figures"] == [{"who": "second", "early": str(early)}]
    if not lacks_cores:
        (tmp_path / "second.ready").unlink()
        with pytest.raises(ZeroDivisionError):
            stopped = check(tmp_path)
            monkeypatch.setattr(stopped, "_write", lambda *_: 1 / 0)
            stopped.run(parts)
        assert not lives(int((tmp_path / "second.ready").read_text()))


@pytest.mark.slow
def test_failed_tests_are_known_though_they_were_stopped(tmp_path: Path) -> None:
    tests = tmp_path / "tests" / "cuda"
    tests.mkdir(parents=True)
    (tests / "conftest.py").write_text((ROOT / "tests/cuda/conftest.py").read_text())
    (tests / "test_it.py").write_text(
        "import time\ndef test_wrong():\n    assert 1 == 2\ndef test_hangs():\n    time.sleep(60)\n"
    )
    line = ["-m", "pytest", str(tests), "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tests)]
    assert not check(tmp_path).run([Part("tests", 30, line)])
    outcome = outcomes(tmp_path)["tests"]
    assert outcome["ended"] == "stopped after 30 s"
    assert [name.split("::")[-1] for name in outcome["figures"][0]["failed"]] == ["test_wrong"]
    assert "assert 1 == 2" in (tmp_path / "tests.failed").read_text()


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_hanging_part_leaves_no_process(tmp_path: Path) -> None:
    """Neither those that it started nor one that ignores SIGTERM."""
    code = (
        "import os, signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']); "
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}'); time.sleep(1000)"
    )
    check(tmp_path).run([part("hangs", code, limit_s=5)])
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + 240
    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(lives, pids))


def test_no_part_begins_when_time_is_over(tmp_path: Path) -> None:
    assert not check(tmp_path, total_s=5).run([part("late", "pass")])
    assert outcomes(tmp_path)["late"]["ended"] == "left out: no time"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: int, tmp_path: Path) -> None:
    """What is done stays, and what the part under way has measured."""
    line = [sys.executable, "-m", "benchmarks.gpu_check", "--tiny", "--out", str(tmp_path)]
    process = subprocess.Popen([*line, "--only", "versions"], cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (tmp_path / "versions.log").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    assert process.wait(240) == 130
    assert outcomes(tmp_path)["versions"]["ended"] == "interrupted"


def test_only_known_parts() -> None:
    assert [each.name for each in chosen("tests,versions")] == ["versions", "tests"]
    assert chosen(None) == list(PARTS)
    with pytest.raises(UserError, match="no part is called 'speed'; there are versions, param1"):
        chosen("tests,speed")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_part_runs_on_the_cpu(tmp_path: Path) -> None:
    shared = "import benchmarks.gpu_check as it; it.CORES_TO_SHARE = 1; it.run_tool(it.main)"
    line = [sys.executable, "-c", shared, "--tiny", "--out", str(tmp_path), "--total", "1100"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = outcomes(tmp_path)
    assert found.pop("nano")["ended"].startswith("skipped")
    assert {each["ended"] for each in found.values()} == {"done"} and len(found) == len(PARTS) - 1
    assert all(each["figures"] for each in found.values())
