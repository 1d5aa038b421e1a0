"""python -m tools.inspect."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.checkpoint.convert import convert
from recipes.checkpoint.formats.archive import extract_archive
from tests.support.forked import run_forked
from tests.support.nemo_files import CONFIG, FIXTURES, MAIN, changed
from tests.support.spy import ENGINE, spy
from tests.support.stored_forms import rank_files
from tools import inspect


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_forked("tools.inspect", *arguments)


def called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[str, str]:
    """What is printed in this process, and the error that it ended with."""
    monkeypatch.setattr(sys, "argv", ["inspect", *map(str, arguments)])
    message = ""
    try:
        inspect.main()
    except inspect.UserError as error:
        message = str(error)
    return capsys.readouterr().out, message


def test_text() -> None:
    done = run(FIXTURES / "classic_te_torch_dist_tp2" / "model.nemo", "--check")
    assert done.returncode == 0 and done.stderr == ""
    for part in (
        "classic NeMo 2.0.0, torch_dist weights, in a .nemo archive",
        "llama, 4 layers, hidden 64, FFN 192 swiglu, 4 heads (2 key-value, 16 wide)",
        "RMSNorm, rope, untied embeddings, 64 positions",
        "254,528",  # 2 x 448 x 64 + 4 x (128 x 64 + 64 x 64 + 3 x 64 x 192 + 2 x 64) + 64
        "448, 512 rows stored",
        "sentencepiece, 448 pieces",
        "float32 (262,720 numbers)",
        "4 files",
        "__1_1.distcp",
    ):
        assert part in done.stdout, part
    assert done.stdout.splitlines()[-1].split() == ["problems", "none"]


@pytest.mark.parametrize(
    "path",
    sorted(FIXTURES.glob("*/model.nemo")) + sorted(FIXTURES.glob("*/ckpt")),
    ids=lambda p: p.parent.name,
)
def test_json_of_every_fixture(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, message = called(monkeypatch, capsys, path, "--json", "--check")
    described = json.loads(out)
    assert message == "" and described["problems"] == [] and described["checked"] is True
    assert described["model"]["num_layers"] == 4 and described["model"]["parameters"] == 254_528
    assert described["tokenizer"]["pieces"] == 448 and described["tensors"] == 27
    assert list(described["dtypes"]) == ["bfloat16" if "bf16" in path.parent.name else "float32"]
    assert described["bytes"] >= 262_720 * (2 if "bf16" in path.parent.name else 4)


def test_numbers_that_are_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = rank_files(tmp_path / "model", tmp_path / "scratch", tp=1)
    path = model / "mp_rank_00" / "model_weights.ckpt"
    state = torch.load(path, weights_only=True)
    state["model.output_layer.weight"][3, 5:8] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    torch.save(state, path)
    out, message = called(monkeypatch, capsys, model)
    assert message == "" and "none seen" in out
    out, message = called(monkeypatch, capsys, model, "--check")
    assert "output_layer.weight: 3 of 32,768 numbers are not finite" in message and message in out


def test_flipped_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.nemo"
    content = bytearray((FIXTURES / "classic_local_single" / "model.nemo").read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert called(monkeypatch, capsys, path)[1] == ""
    assert "CRC-32" in called(monkeypatch, capsys, path, "--check")[1]


def test_a_model_that_cannot_be_computed_is_described_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(
        MAIN / "model.nemo",
        tmp_path / "x.nemo",
        CONFIG,
        lambda c: c.replace(b"activation: fast-swiglu", b"activation: geglu"),
    )
    out, message = called(monkeypatch, capsys, path, "--json")
    described = json.loads(out)
    assert (
        described["model"] is None and described["tensors"] == 27 and described["tokenizer"]["pieces"] == 448
    )
    assert "geglu" in message and described["problems"] == [message]
    extract_archive(MAIN / "model.nemo", tmp_path / "extracted")
    (tokenizer,) = (tmp_path / "extracted").glob("*tiny_sp.model")
    tokenizer.unlink()
    out, message = called(monkeypatch, capsys, tmp_path / "extracted")
    assert "cannot read the tokenizer" in message and "27, float32" in out


def test_what_a_file_says_of_itself_steers_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library's name that clears the screen and forges a line; a tokenizer's name that is no text."""
    library = r'"\e[2Jx\nproblems    none"'
    for before, after, shown in (
        (b"library: sentencepiece", f"library: {library}".encode(), r"\x1b[2Jx\nproblems    none, "),
        (b"model: nemo:", rb'model: "nemo:\ud800/', r"\ud800/"),
    ):

        def change(config: bytes, before: bytes = before, after: bytes = after) -> bytes:
            found = next(line for line in config.splitlines() if before in line)
            end = b'"' if before.startswith(b"model") else b""
            return config.replace(found, found.replace(before, after) + end)

        path = changed(MAIN / "model.nemo", tmp_path / "x.nemo", CONFIG, change)
        out, _ = called(monkeypatch, capsys, path)
        assert shown in out and "\x1b" not in out
        assert out.count("\nproblems") == 1 and out.encode()
        json.loads(called(monkeypatch, capsys, path, "--json")[0])


def test_weights_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They need no tokenizer, so that it is no problem that there is none."""
    convert(MAIN / "model.nemo", tmp_path / "weights", "torch_dist")
    out, message = called(monkeypatch, capsys, tmp_path / "weights")
    assert message == "" and "tokenizer   none here" in out and "448, 512 rows" in out
    out, message = called(monkeypatch, capsys, tmp_path / "weights", "--json", "--check")
    assert message == "" and json.loads(out)["tokenizer"] is None
    convert(MAIN / "model.nemo", tmp_path / "hf", "hf")
    for path in (tmp_path / "hf").glob("tokenizer*"):
        path.unlink()
    assert called(monkeypatch, capsys, tmp_path / "hf")[1] == ""


def test_refusals_are_one_line(tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere.nemo")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "no such file" in line


def test_help_imports_no_engine() -> None:
    (done,) = spy(["tools.inspect", "--help"])
    assert done.code == 0 and "examples:" in done.out and not done.imported & ENGINE
