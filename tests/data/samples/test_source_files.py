"""A source of many files: which files a path stands for, and that they are read as one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.data.samples.indexed import DocumentReader, IndexedWriter, check_prefix, sidecar_path
from recipes.data.samples.inputs import check_files
from recipes.data.samples.joined import JoinedDataset
from recipes.data.samples.source_files import find_prefixes, open_source
from recipes.errors import UserError
from tests.support.sources import SEQ_LENGTH, per_epoch, run_config, source, write_source


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three files, one of them deeper; their tokens count through in the order of their names."""
    (tmp_path / "data" / "more").mkdir(parents=True)
    for name, tokens, first in (("a.0", 301, 0), ("b", 7, 301), ("more/c", 192, 308)):
        write_source(tmp_path / "data" / name, tokens, first, seed=tokens)
    return tmp_path / "data"


def write_whole(directory: Path, prefix: Path) -> Path:
    """The three files' documents in one file."""
    readers = [DocumentReader(f"{directory / n}.bin", f"{directory / n}.idx") for n in ("a.0", "b", "more/c")]
    documents = [reader[number] for reader in readers for number in range(reader.documents)]
    with Path(f"{prefix}.bin").open("wb") as bin_file, Path(f"{prefix}.idx").open("w+b") as idx_file:
        writer = IndexedWriter(bin_file, idx_file, "int32")
        writer.add(np.concatenate(documents), np.array([len(text) for text in documents], dtype=np.int32))
        writer.finish()
    return prefix


def samples_of(path: Any, cache: Path, epochs: int = 2) -> list[list[int]]:
    own = source(path, cache / "cache", seed=5)
    return [own[number]["tokens"].tolist() for number in range(epochs * per_epoch(own))]


def test_what_a_path_stands_for(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory.parent)
    every = ["data/a.0", "data/b", "data/more/c"]
    assert find_prefixes("data") == every
    assert find_prefixes("data/**") == every
    assert find_prefixes("data/*") == find_prefixes("data/*.bin") == every[:2]
    assert find_prefixes(str(directory / "[ab]*")) == [str(directory / "a.0"), str(directory / "b")]
    assert find_prefixes("data/b") == ["data/b"]
    assert find_prefixes(["data/more", "data/b"]) == ["data/more/c", "data/b"]
    assert find_prefixes("data/x*") == []
    # A name that looks like a glob is taken as it is where such a file exists.
    write_source(directory / "odd[1]", 9)
    assert find_prefixes("data/odd[1]") == ["data/odd[1]"]


def test_how_the_text_is_cut_into_files_changes_nothing(directory: Path, tmp_path: Path) -> None:
    whole = write_whole(directory, tmp_path / "whole")
    expected = samples_of(str(whole), tmp_path)
    assert samples_of(str(directory), tmp_path) == expected
    as_list = [str(directory / "a.0"), str(directory / "b"), str(directory / "more")]
    assert samples_of(as_list, tmp_path) == expected
    assert len(expected) == 2 * ((500 - 1) // SEQ_LENGTH)
    assert samples_of(list(reversed(as_list)), tmp_path) != expected


def test_content_does_not_depend_on_the_place_but_on_the_order(directory: Path, tmp_path: Path) -> None:
    before = open_source(str(directory))
    assert (before.tokens, len(before.files)) == (500, 3)
    assert open_source([str(directory / "b")]).content() == open_source(str(directory / "b")).content()
    shutil.copytree(directory, tmp_path / "moved")
    assert open_source(str(tmp_path / "moved")).content() == before.content()
    assert open_source(list(reversed(before.prefixes))).content() != before.content()
    write_source(directory / "d", 20)
    assert open_source(str(directory)).content() != before.content()


def _remove_half(directory: Path) -> None:
    (directory / "b.bin").unlink()


def _unfinished(directory: Path) -> None:
    (directory / "d.partial").mkdir()


def _other_tokenizer(directory: Path) -> None:
    for name, sha in (("b", "1" * 64), ("more/c", "2" * 64)):
        sidecar = replace(check_prefix(directory / name), tokenizer_sha256=sha)
        sidecar_path(directory / name).write_text(
            json.dumps(json.loads(sidecar.to_json()) | {"inputs": []}), encoding="utf-8"
        )


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("{}/x*", None, r"data\.train\.en={}/x\*: no \.bin/\.idx pair there"),
        ("{}/empty", lambda d: (d / "empty").mkdir(), r"data\.train\.en={}/empty: no \.bin/\.idx pair there"),
        ([], None, r"data\.train\.en=\[\]: no \.bin/\.idx pair there"),
        (["{}/b", "{}"], None, r"data\.train\.en=\[{}/b, {}\]: {}/b is in it twice"),
        (["{}/b", 7], None, r"is not a path: give a prefix, glob or directory"),
        ("{}", _remove_half, r"data\.train\.en={}: {}/b\.bin does not exist"),
        ("{}", _unfinished, r"data\.train\.en={}: {}/d\.partial is unfinished"),
        ("{}", _other_tokenizer, r"{}/more/c was made with another tokenizer than {}/b"),
    ],
    ids=["glob", "empty", "no_list", "twice", "number", "half", "unfinished", "tokenizers"],
)
def test_refusals(
    path: Any, change: Callable[[Path], None] | None, message: str, directory: Path, tmp_path: Path
) -> None:
    if change is not None:
        change(directory)

    def filled(text: Any) -> Any:
        return text.format(*[str(directory)] * 9) if isinstance(text, str) else text

    config = run_config({"en": (tmp_path, 1.0)})
    config.data.train["en"].path = [filled(part) for part in path] if isinstance(path, list) else filled(path)
    with pytest.raises(UserError, match=message.format(*[str(directory)] * 9)):
        check_files(config)


def test_more_documents_than_the_engine_can_number(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.data.samples.source_files.MOST_DOCUMENTS", 40)
    with pytest.raises(UserError, match=r"holds \d+ documents, a source can have 40"):
        open_source(str(directory))


def test_more_files_than_may_be_open(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (64, 100))
    with pytest.raises(UserError, match=r"data\.train needs 521 open files, this system allows 100"):
        JoinedDataset(find_prefixes(str(directory)))
