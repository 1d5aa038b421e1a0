"""Refusals of the cleaning job: one line, before anything heavy is imported."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from recipes.config.hydra_app import compose
from recipes.data.clean.plan import claim, describe, make_plan
from recipes.data.clean.validate import validate_clean
from recipes.errors import UserError
from tests.support.clean_text import ENGLISH, write_jsonl
from tests.support.spy import spy

SOURCE = "data.sources={en: {path: [PATH], language: eng_Latn}}"


HEAVY = {"torch", "datatrove", "numpy", "py3langid", "pyarrow"}


def test_help_and_unknown_keys_import_nothing() -> None:
    shown, refused = spy(["tools.clean", "--help"], ["tools.clean", "output_dir=x", "minhash.n_gram=3"])
    assert (shown.code, shown.err, shown.imported & HEAVY) == (0, "", set())
    assert "python -m tools.clean data=real_text" in shown.out and "quality.*" in shown.out
    assert (refused.code, refused.out, refused.imported & HEAVY) == (2, "", set())
    assert refused.err == "error: minhash.n_gram: there is no such key; did you mean minhash.n_grams?\n"


@pytest.mark.parametrize("name", ["real_text", "with_hinglish"])
def test_shipped_sources_compose(name: str) -> None:
    config = compose("clean", [f"data={name}", "output_dir=x"])
    validate_clean(config)
    assert {source.language for source in config.data.sources.values()} <= set(config.quality.gopher)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "en.jsonl", ENGLISH)


def config_of(text_file: Path, *settings: str) -> Any:
    source = SOURCE.replace("PATH", str(text_file))
    return compose("clean", [source, f"output_dir={text_file.parent}/out", *settings])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.sources.en.language=french"], "data.sources.en.language=french: choose one of eng_Latn"),
        (["language.min_script_fraction=0"], r"language.min_script_fraction=0.0: must lie in \(0, 1\]"),
        (["language.fasttext_model=no.bin"], "language.fasttext_model=no.bin: no such file"),
        (
            ["~quality.gopher.eng_Latn"],
            "data.sources.en.language=eng_Latn: quality.gopher has no thresholds for it",
        ),
        (
            ["quality.gopher.hin_Deva.stop_words=[]"],
            "min_stop_words=2: quality.gopher.hin_Deva.stop_words has",
        ),
        (["quality.gopher.eng_Latn.min_doc_words=0"], "min_doc_words=0: must be positive"),
        (["minhash.n_grams=0"], "minhash.n_grams=0: must be positive"),
        (["language.fasttext_model=README.md"], "README.md: is not a fastText model"),
        (["lists.hashes={bad: README.md}"], r"README\.md: '.*' is not a SHA-256 of 64 hexadecimal digits"),
        (["lists.words={bad: {path: tests/conftest.py}, none: {path: /dev/null}}"], "none.path=/dev/null"),
        (["lists.words={bad: {path: no.txt}}"], "lists.words.bad.path=no.txt: no such file"),
        (["lists.hashes={bad: no.txt}"], "lists.hashes.bad=no.txt: no such file"),
        (["decontamination.mirror=nowhere"], "decontamination.mirror=nowhere: no benchmark mirror"),
        (["pii.kinds=[name]"], "pii.kinds=name: choose one of email"),
        (["pii.kinds=[]"], r"pii.kinds=\[\]: name kinds, or turn masking off"),
        (["tasks=0"], "tasks=0: must be positive"),
        (["workers=0"], "workers=0: must lie between 1 and 1,024"),
        (["executor=ray"], "executor=ray: choose one of local, slurm"),
        (["executor=slurm"], "slurm.partition=None: executor=slurm needs it"),
        (["executor=slurm", "slurm.partition=x"], "executor=slurm: sbatch is not on PATH"),
    ],
)
def test_refused(text_file: Path, settings: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=message):
        validate_clean(config_of(text_file, *settings))


def test_no_source() -> None:
    with pytest.raises(UserError, match=r"data\.sources=\{\}: choose data=NAME"):
        validate_clean(compose("clean", ["output_dir=x"]))


def test_without_the_extra(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "datatrove" else find(name))
    with pytest.raises(UserError) as refusal:
        validate_clean(config_of(text_file))
    assert str(refusal.value) == "datatrove is not installed: pip install -e '.[data]'"


def test_input_that_is_none(tmp_path: Path, text_file: Path) -> None:
    for name, content, message in (
        ("a.txt", b"x", "not JSONL by its name"),
        ("b.jsonl", b"[]\n", "not a JSON object"),
        ("c.jsonl", b"text\n", "c.jsonl:1: not a line of JSON"),
        (
            "d.jsonl",
            b'{"content": "x"}\n',
            r"no text under 'text' \(keys: 'content'\); set data.sources.en.text_key",
        ),
        ("e.jsonl.gz", gzip.compress(b"{}")[:-4], "is damaged or incomplete"),
        ("e.jsonl.zst", b"nothing", "is damaged or incomplete"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            make_plan(config_of(path))
    with pytest.raises(UserError, match="no JSONL file there"):
        make_plan(config_of(tmp_path / "*.none"))
    twice = f"{text_file}, {text_file.parent}/en.*"
    with pytest.raises(UserError, match="source en reads this file already"):
        make_plan(compose("clean", [SOURCE.replace("PATH", twice), "output_dir=x"]))


def test_a_directory_is_its_jsonl_files(tmp_path: Path) -> None:
    """As tools.download leaves it."""
    (tmp_path / "deeper").mkdir()
    write_jsonl(tmp_path / "deeper/shard-00000.jsonl", ENGLISH)
    (tmp_path / "deeper/manifest.json").write_text('{\n"source": "local"\n}')
    plan = make_plan(config_of(tmp_path / "deeper"))
    assert [Path(piece.path).name for task in plan for piece in task] == ["shard-00000.jsonl"]


def test_pieces_cover_every_line_once(tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="needs pip install -e '.[data]'")
    from recipes.data.clean.pipeline_blocks import _lines

    lines = [json.dumps({"text": "x" * (i * 7919 % 9000), "id": str(i)}) for i in range(1000)]
    path = tmp_path / "big.jsonl"
    path.write_text("\n".join(lines))  # the last line has no newline
    plan = make_plan(config_of(path, "tasks=3"))
    pieces = [piece for task in plan for piece in task]
    assert len(pieces) == 3 and all(len(task) == 1 for task in plan)
    read = [json.loads(line)["id"] for piece in pieces for line, _ in _lines(piece)]
    assert sorted(read, key=int) == [str(i) for i in range(1000)]


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="needs pip install -e '.[data]'")
    from recipes.data.clean.pipeline_blocks import _lines

    path = tmp_path / "en.jsonl.gz"
    write_jsonl(path, ENGLISH * 500)
    path.write_bytes(path.read_bytes()[:-100])
    ((piece,),) = [task for task in make_plan(config_of(path)) if task]
    with pytest.raises(UserError, match=r"en\.jsonl\.gz is damaged or incomplete"):
        list(_lines(piece))


def test_plan_is_described(text_file: Path) -> None:
    config = config_of(text_file, "minhash.enabled=false")
    described = describe(config, make_plan(config))
    assert "en (eng_Latn): 1 file, " in described
    assert "filters: read, language, quality, exact_dedup\n" in described
    assert "masked: email, upi, ip, aadhaar, vid, phone, gstin, pan, vehicle, voter_id, passport" in described


def test_an_output_directory_belongs_to_one_job(text_file: Path) -> None:
    config = config_of(text_file)
    claim(config, make_plan(config))
    claim(config_of(text_file, "workers=3", "executor=slurm"), make_plan(config))  # how, not what
    for setting, key in (("pii.enabled=false", "pii.enabled"), ("tasks=3", "input|tasks")):
        other = config_of(text_file, setting)
        with pytest.raises(UserError, match=f"holds a job with another ({key})"):
            claim(other, make_plan(other))
    with text_file.open("a") as stream:
        stream.write('{"text": "more"}\n')
    with pytest.raises(UserError, match="holds a job with another input"):
        claim(config, make_plan(config))
    text_file.write_text(text_file.read_text().replace("more", "less"))  # as many bytes as before
    other = text_file.parent / "other"
    changed = config_of(text_file, f"output_dir={other}")
    claim(changed, make_plan(changed))
    text_file.write_text(text_file.read_text().replace("less", "more"))
    with pytest.raises(UserError, match=r"holds a job with another input\.modified"):
        claim(changed, make_plan(changed))
    (text_file.parent / "foreign").mkdir()
    (text_file.parent / "foreign/mine.txt").touch()
    foreign = config_of(text_file, f"output_dir={text_file.parent}/foreign")
    with pytest.raises(UserError, match="holds other files: take a new directory"):
        claim(foreign, make_plan(foreign))


@pytest.mark.parametrize("place", ["", "/clean"])
def test_output_is_not_read_as_input(text_file: Path, place: str) -> None:
    folder = text_file.parent
    source = f"data.sources={{en: {{path: [{folder}], language: eng_Latn}}}}"
    with pytest.raises(UserError, match=r"output_dir=.*: lies in .*, all of which source en reads"):
        make_plan(compose("clean", [source, f"output_dir={folder}{place}"]))
    if not place:
        with pytest.raises(UserError, match=r"output_dir=.*: .*en\.jsonl, which source en reads, lies in it"):
            make_plan(config_of(text_file, f"output_dir={folder}"))


def test_ids(tmp_path: Path) -> None:
    ids = ("null", "123456789012345678901234", "7")
    lines = [json.dumps({"id": json.loads(given), "text": "a"}) for given in ids]
    path = tmp_path / "en.jsonl"
    path.write_text("\n".join(lines) + "\n")
    pytest.importorskip("datatrove", reason="needs pip install -e '.[data]'")
    from datatrove.pipeline.writers import JsonlWriter

    from recipes.data.clean.pipeline_blocks import ReadPieces

    config = config_of(path)
    plan = make_plan(config)
    reader = ReadPieces(plan, config.data.sources, JsonlWriter(str(tmp_path / "x")), tmp_path / "meter")
    found = [document.id for rank in range(len(plan)) for document in reader.run(rank=rank)]
    assert found == ["en.jsonl:0", "123456789012345678901234", "7"]
