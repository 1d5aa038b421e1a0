"""What a release must not tell: cleaned in configurations, refused in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.checkpoint.formats.archive import pack_archive
from recipes.errors import UserError
from recipes.release.private import Machine, publishable, refuse_private, this_machine

MACHINE = Machine(frozenset({"/home/asha/outputs/run"}), frozenset({"node017", "asha"}))


def test_configurations_are_cleaned() -> None:
    config = {
        "tokenizer": {"model": "/home/asha/data/tokenizer.model"},
        "data": {"train": {"en": {"path": ["/scratch/x/train en", "~/corpora/hi"], "weight": 0.5}}},
        "prompt": "see /lustre/project/notes.txt, and/or https://example.org/a/b",
        "wandb": {"api_key": "abcdef", "project": "param", "hf_token": None},
        "max_tokens": 5,
        "eos_token": "</s>",
        "relative": "data/train_en",
        "root": "/",
        "none": None,
    }
    assert publishable(config) == {
        "tokenizer": {"model": "tokenizer.model"},
        "data": {"train": {"en": {"path": ["train en", "hi"], "weight": 0.5}}},
        "prompt": "see notes.txt, and/or https://example.org/a/b",
        "wandb": {"project": "param", "hf_token": None},
        "max_tokens": 5,
        "eos_token": "</s>",
        "relative": "data/train_en",
        "root": ".",
        "none": None,
    }


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.yaml", "path: /home/someone/else", "a.yaml holds the path /home/someone/else"),
        ("a.md", "in `/home/asha/outputs/run`", "a.md holds the path /home/asha/outputs/run"),
        ("a.md", "kept in ~/outputs/run", "the path ~/outputs/run"),
        ("weights.bin", "\0\1 /home/asha/outputs/run\0", "weights.bin holds the path /home/asha/outputs/run"),
        ("a.json", '{"made_on": "node017"}', "this machine's host or user name, node017"),
        ("a.json", f'{{"x": "hf_{"A1" * 17}"}}', "a.json holds what looks like a Hugging Face token"),
        ("a.yaml", "\nkey: AKIAABCDEFGHIJKLMNOP", "an AWS key (a.yaml, line 2)"),
        ("a.sh", "export KEY=sk-proj-" + "a" * 30, "an OpenAI key"),
        ("a.txt", "-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        ("a.md", "https://me:secret@example.org/x", "a password in a URL"),
        ("a.md", f"ghp_{'a1' * 18}", "a GitHub token"),
    ],
)
def test_what_is_refused(name: str, content: str, said: str, tmp_path: Path) -> None:
    """In a folder, and within an archive in it; the secret itself is not repeated."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / name).write_text(content)
    with pytest.raises(UserError) as caught:
        refuse_private(folder, MACHINE)
    assert said in str(caught.value) and "AAAA" not in str(caught.value)
    pack_archive(folder / "sub", folder / "model.nemo")
    (folder / "sub" / name).unlink()
    with pytest.raises(UserError, match=r"^model\.nemo holds "):
        refuse_private(folder, MACHINE)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "a.md",
            "`model_extracted/`, tokens/s, and/or, 1/2/3, <s></s>, https://example.org/a/b/c, /x, ./a/b",
        ),
        ("a.sh", '#!/usr/bin/env bash\npython="$here/.venv/bin/python"'),
        ("a.md", "ashastra and node0170 and outputs-of-asha-run"),
        ("tokenizer.json", '{"vocab": {"/usr/share/x": 5}}'),
        ("weights.bin", "asha node017 /home/asha/outputs/running"),
        ("a.yaml", "sha256: " + "ab" * 32),
    ],
)
def test_what_is_not(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    refuse_private(tmp_path, MACHINE)


def test_a_path_across_two_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.release.private.BLOCK", 16)
    (tmp_path / "weights.bin").write_bytes(bytes(10) + b"/home/asha/outputs/run" + bytes(10))
    with pytest.raises(UserError, match="/home/asha/outputs/run"):
        refuse_private(tmp_path, MACHINE)


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node017.example.org")
    monkeypatch.setattr("getpass.getuser", lambda: "lumen")
    machine = this_machine([tmp_path / "run"], known="Lumen 128M")
    assert str(tmp_path / "run") in machine.paths and str(Path.cwd()) in machine.paths
    assert machine.names == {"node017.example.org", "node017"}  # A user who is called as the model is.
