"""Processes that wait for others say for whom, and give up when the configured time is over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support.ports import free_port

PROGRAM = """
import os, sys
import recipes.parallel.rendezvous as module
from recipes.config.world import World
from recipes.errors import RendezvousError
module.FIRST_REPORT_S = 0.2
try:
    store = module.rendezvous(World(rank=int(sys.argv[1]), size=int(sys.argv[2])), float(sys.argv[3]))
    print("met", flush=True)
    sys.stdin.read()  # Rank 0 holds the store: it leaves last.
except RendezvousError as error:
    print("refused", error)
"""
Start = Callable[[int, int, float], subprocess.Popen[str]]


@pytest.fixture
def start() -> Start:
    port = free_port()

    def start(rank: int, size: int, timeout_s: float) -> subprocess.Popen[str]:
        env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        line = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(rank), str(size), str(timeout_s)]
        return subprocess.Popen(line, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    return start


def output(process: subprocess.Popen[str]) -> list[str]:
    text, _ = process.communicate(timeout=240)
    return text.splitlines()


def test_all_meet_whoever_comes_first(start: Start) -> None:
    second = start(1, 2, 100)
    assert second.stdout is not None
    assert second.stdout.readline().startswith("rank 1: waiting for rank 0 at 127.0.0.1:")
    first = start(0, 2, 100)
    assert output(second)[-1] == output(first)[-1] == "met"


def test_rank_0_names_the_missing(start: Start) -> None:
    first = start(0, 4, 5)
    lines = output(first)
    assert lines[0].startswith("waiting for ranks 1, 2, 3 of 4 processes, ")
    assert lines[-1] == (
        "refused parallel.rendezvous_timeout_s=5: of 4 processes 3 did not come: ranks 1, 2, 3; "
        "were they started?"
    )


def test_rank_0_has_given_up(start: Start) -> None:
    second = start(1, 3, 100)
    assert second.stdout is not None and "waiting for rank 0" in second.stdout.readline()
    first = start(0, 3, 10)
    assert "ranks 2; were they started?" in output(first)[-1]
    assert "did not find all processes; its message names the missing" in output(second)[-1]


def test_without_rank_0(start: Start) -> None:
    lines = output(start(1, 2, 1))
    assert lines[-1].startswith(
        "refused parallel.rendezvous_timeout_s=1: rank 1 found no rank 0 at 127.0.0.1"
    )


def test_a_port_in_use_is_named(start: Start) -> None:
    first = start(0, 2, 30)
    assert first.stdout is not None and first.stdout.readline().startswith("waiting for ranks 1")
    assert "rank 0 cannot listen there" in output(start(0, 2, 30))[-1]
    first.kill()
    first.wait()


def test_a_process_does_not_meet_itself() -> None:
    """The system hands out one port here, so that a client gets the one that it asks for."""
    apart = ["unshare", "--net", "bash", "-c"]
    one = 'ip link set lo up && echo "40001 40001" >/proc/sys/net/ipv4/ip_local_port_range'
    if os.geteuid() != 0 or shutil.which("ip") is None or subprocess.run([*apart, one]).returncode:
        pytest.skip("needs root, iproute2 and a network of its own")
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "40001"}
    done = subprocess.run(
        [*apart, f'{one} && exec "$@"', "bash", sys.executable, "-W", "ignore", "-c", PROGRAM, "1", "2", "3"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert "found no rank 0 at 127.0.0.1:40001" in done.stdout, done.stdout + done.stderr
