"""What the libraries are told before they are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.inference import fast_reads
from recipes.inference.fast_reads import HUGE_PAGES, KERNELS, prepare_for_fast_reads

CORETYPE = "import numpy; from threadpoolctl import threadpool_info as info; print(info())"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    values: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", values)
    return values


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512dq\n", "Haswell"),
        ("flags\t\t: fpu avx2 fma\n", None),
        ("Features\t: fp asimd sve\n", None),
    ],
)
def test_kernels_follow_the_processor(
    flags: str,
    expected: str | None,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}")
    monkeypatch.setattr(fast_reads, "CPU_FLAGS", tmp_path / "cpuinfo")
    prepare_for_fast_reads()
    assert environment.get(KERNELS) == expected and environment[HUGE_PAGES] == "1"


def test_a_users_choice_stays(environment: dict[str, str]) -> None:
    chosen = {HUGE_PAGES: "0", KERNELS: "Zen"}
    environment.update(chosen)
    prepare_for_fast_reads()
    assert {name: environment[name] for name in chosen} == chosen


def test_a_system_without_such_a_file(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_reads, "CPU_FLAGS", Path("/nowhere/cpuinfo"))
    prepare_for_fast_reads()
    assert KERNELS not in environment


def test_openblas_heeds_its_setting() -> None:
    """Where numpy has OpenBLAS, and the processor those kernels."""
    pytest.importorskip("threadpoolctl")

    def architectures(chosen: dict[str, str]) -> str:
        done = subprocess.run(
            [sys.executable, "-c", CORETYPE], env={**os.environ, **chosen}, capture_output=True, text=True
        )
        return done.stdout

    if "avx2" not in fast_reads.CPU_FLAGS.read_text() or "openblas" not in architectures({}):
        pytest.skip("no OpenBLAS, or no AVX2")
    assert "'architecture': 'Haswell'" in architectures({KERNELS: "Haswell"})
