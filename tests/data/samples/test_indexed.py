"""The .bin/.idx writer against megatron-core's, and the check before training."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.samples import indexed
from recipes.data.samples.indexed import IndexedWriter, Sidecar, check_prefix, token_dtype
from recipes.errors import UserError


def write(prefix: Path, documents: list[list[int]], dtype: str, per_call: int = 2) -> None:
    with Path(f"{prefix}.bin").open("wb") as bin_file, Path(f"{prefix}.idx").open("w+b") as idx_file:
        writer = IndexedWriter(bin_file, idx_file, dtype)
        for start in range(0, len(documents), per_call):
            some = documents[start : start + per_call]
            tokens = np.array([token for document in some for token in document], dtype=dtype)
            # Both forms of the tokens, in turn.
            writer.add(tokens if start % 4 else tokens.tobytes(), np.array([len(d) for d in some], np.int32))
        writer.finish()
        assert (writer.documents, writer.tokens) == (len(documents), sum(map(len, documents)))


def write_by_megatron(prefix: Path, documents: list[list[int]], dtype: str) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=getattr(np, dtype))
    for document in documents:
        builder.add_document(np.array(document, dtype=np.int64), [len(document)])
    builder.finalize(f"{prefix}.idx")


def test_dtype_is_megatrons() -> None:
    from megatron.core.datasets.indexed_dataset import DType

    for size in (1, 256, 16000, 65_499, 65_500, 65_501, 65_536, 256_000):
        assert token_dtype(size) == DType.optimal_dtype(size).__name__


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(["uint16", "int32"]),
    documents=st.lists(st.lists(st.integers(0, 65_499), min_size=1, max_size=20), min_size=1, max_size=12),
    block=st.sampled_from([1, 3, 1 << 20]),
)
def test_bytes_are_megatrons(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, documents: list[list[int]], block: int
) -> None:
    folder = tmp_path_factory.mktemp("idx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexed, "_BLOCK", block)
        write(folder / "ours", documents, dtype)
        found = check_prefix(folder / "ours")
    write_by_megatron(folder / "theirs", documents, dtype)
    for suffix in (".bin", ".idx"):
        assert (folder / f"ours{suffix}").read_bytes() == (folder / f"theirs{suffix}").read_bytes()
    assert (found.documents, found.tokens, found.dtype) == (len(documents), sum(map(len, documents)), dtype)


def test_megatron_reads_it(tmp_path: Path) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    documents = [[1, 2, 3], [70_000], [5] * 1000]
    write(tmp_path / "a", documents, "int32")
    dataset = IndexedDataset(str(tmp_path / "a"))
    assert [dataset[place].tolist() for place in range(len(dataset))] == documents


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    write(tmp_path / "data", [[1, 2, 3], [4, 5]], "uint16")
    return tmp_path / "data"


@pytest.fixture
def described(prefix: Path) -> Path:
    sidecar = dataclasses.replace(
        check_prefix(prefix), text_bytes=11, tokenizer_sha256="ab", inputs=({"path": "x"},)
    )
    Path(f"{prefix}.json").write_text(sidecar.to_json())
    assert check_prefix(prefix) == sidecar
    return prefix


def test_foreign_data(prefix: Path) -> None:
    assert check_prefix(str(prefix)) == Sidecar(str(prefix), 2, 5, "uint16", 10, 34 + 2 * 12 + 3 * 8)


@pytest.mark.parametrize("with_sidecar", [False, True])
@pytest.mark.parametrize("suffix", [".bin", ".idx"])
@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_sizes(described: Path, with_sidecar: bool, suffix: str, change: int) -> None:
    if not with_sidecar:
        Path(f"{described}.json").unlink()
    path = Path(f"{described}{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"x")
    state = "truncated" if change < 0 else "too long"
    sizes = f"{len(content) + change} bytes where {len(content)} are expected"
    with pytest.raises(UserError, match=rf"{path}.* {state}: {sizes}; run tools.preprocess again"):
        check_prefix(described)


@pytest.mark.parametrize("with_sidecar", [False, True])
def test_missing_files(described: Path, with_sidecar: bool) -> None:
    if not with_sidecar:
        Path(f"{described}.json").unlink()
    for suffix in (".idx", ".bin"):
        Path(f"{described}{suffix}").unlink()
        with pytest.raises(UserError, match=rf"{suffix} does not exist"):
            check_prefix(described)


def test_bad_headers(described: Path) -> None:
    path = Path(f"{described}.idx")
    good = path.read_bytes()
    for bad in (b"X" + good[1:], good[:9] + b"\x02" + good[10:], good[:17] + b"\x07" + good[18:]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"data\.idx"):
            check_prefix(described)
    Path(f"{described}.json").unlink()
    for bad in (b"", good[:20], good[:34]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"data\.idx"):
            check_prefix(described)
    # A length that is negative.
    path.write_bytes(good[:34] + b"\xff\xff\xff\xff" + good[38:])
    with pytest.raises(UserError, match="negative"):
        check_prefix(described)


def test_other_idx_of_the_same_size(described: Path) -> None:
    path = Path(f"{described}.idx")
    content = path.read_bytes()
    path.write_bytes(content[:17] + b"\x04" + content[18:])
    with pytest.raises(UserError, match="do not belong together"):
        check_prefix(described)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not by tools.preprocess"),
        ('{"kind": "tokenizer"}', "is not by tools.preprocess"),
        ('{"kind": "indexed dataset", "format": 2}', "format 2"),
        ('{"kind": "indexed dataset", "format": 1}', "damaged"),
        (
            '{"kind": "indexed dataset", "format": 1, "inputs": [], "documents": "2", "tokens": 1,'
            ' "dtype": "uint16", "bin_bytes": 1, "idx_bytes": 1}',
            "whole numbers",
        ),
    ],
)
def test_damaged_sidecar(prefix: Path, content: str, message: str) -> None:
    Path(f"{prefix}.json").write_text(content)
    with pytest.raises(UserError, match=message):
        check_prefix(prefix)


def test_sidecar_of_a_later_version_may_know_more(described: Path) -> None:
    path = Path(f"{described}.json")
    fields: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"news": 1}))
    assert check_prefix(described).tokens == 5


def test_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, recipes.data.samples.indexed; assert not {'torch', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
