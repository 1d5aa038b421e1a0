"""The command line that fills a benchmark mirror, run with a mirror as its source: no network."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import datasets
import pytest

from recipes.data.benchmark_mirror import (
    read_manifest,
    sha256_file,
    split_file,
    verified_hash,
    write_index,
)
from recipes.errors import UserError
from tests.support.hub import StandInHub
from tests.support.paths import ROOT
from tests.support.spy import spy
from tools.prefetch_benchmarks import main, prefetch

FIXTURE = ROOT / "tests" / "fixtures" / "benchmarks" / "mirror"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_every_split_is_written_and_indexed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mirror = tmp_path / "mirror"
    main([str(mirror), "--tasks", "boolq,arc_easy", "--source", str(FIXTURE)])
    manifest = json.loads((mirror / "manifest.json").read_text())
    assert sorted(manifest) == sorted(
        f"{data}/{split}"
        for data in ("aps/super_glue/boolq", "allenai/ai2_arc/ARC-Easy")
        for split in ("train", "validation", "test")
    )
    source = read_manifest(FIXTURE)
    for entry, facts in manifest.items():
        assert (
            facts["rows"]
            == source[entry]["rows"]
            == len(datasets.Dataset.from_parquet(str(split_file(mirror, entry))))
        )
        assert facts["sha256"] == sha256_file(split_file(mirror, entry))
    rows = sum(facts["rows"] for facts in manifest.values())
    assert f"6 files with {rows} rows for 2 tasks" in capsys.readouterr().out
    assert (
        (mirror / "aps/super_glue/README.md").read_text().startswith("---\nconfigs:\n- config_name: boolq\n")
    )


def test_a_second_call_adds_to_the_mirror(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    prefetch(mirror, ["boolq"], source=FIXTURE)
    first = verified_hash(mirror)
    prefetch(mirror, ["wic", "truthfulqa_mc1", "truthfulqa_mc2"], source=FIXTURE)
    manifest = read_manifest(mirror)
    assert {entry.rsplit("/", 1)[0] for entry in manifest} == {
        "aps/super_glue/boolq",
        "aps/super_glue/wic",
        "truthfulqa/truthful_qa/multiple_choice",
    }
    entry = "truthfulqa/truthful_qa/multiple_choice/validation"
    assert manifest[entry]["tasks"] == ["truthfulqa_mc1", "truthfulqa_mc2"]
    readme = (mirror / "aps/super_glue/README.md").read_text()
    assert "config_name: boolq" in readme and "config_name: wic" in readme
    assert verified_hash(mirror) != first


def test_the_tasks_of_a_file_are_kept(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    prefetch(mirror, ["truthfulqa_mc1"], source=FIXTURE)
    before = verified_hash(mirror)
    prefetch(mirror, ["truthfulqa_mc2"], source=FIXTURE)
    (facts,) = read_manifest(mirror).values()
    assert facts["tasks"] == ["truthfulqa_mc1", "truthfulqa_mc2"]
    assert verified_hash(mirror) == before


def test_a_mirror_notes_what_it_was_made_for(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    prefetch(mirror, ["truthfulqa_mc1"], source=FIXTURE)
    prefetch(mirror, ["truthfulqa_mc2"], source=FIXTURE)
    (facts,) = read_manifest(mirror).values()
    noted = facts["made_for"]["truthfulqa_mc1"]
    assert set(facts["made_for"]) == {"truthfulqa_mc1", "truthfulqa_mc2"} and facts["revision"] is None
    assert noted == {"version": "2.0", "lm_eval": version("lm_eval")}


def test_the_revision_is_handed_on(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    prefetch(first, ["boolq"], source=FIXTURE)
    manifest = read_manifest(first)
    for facts in manifest.values():
        facts["revision"] = "210d026faf9955653af8916fad021475a3f00453"
    write_index(first, manifest)
    prefetch(second, ["boolq"], source=first)
    assert read_manifest(second) == manifest


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no task 'boolk'"):
        prefetch(tmp_path / "mirror", ["boolk"], source=FIXTURE)
    for arguments, message in (
        ([], r"^name a table, eval=param1_table, or tasks"),
        (["--tasks", "minibench_en"], r"^minibench_en reads local files: there is nothing to fetch"),
        (["eval=minibench"], r"^eval=minibench reads local files"),
        (["eval=indi"], r"^eval=indi: choose one of .*did you mean indic\?"),
        (["table=indic"], r"^table=indic: name a table as eval=param1_table"),
    ):
        with pytest.raises(UserError, match=message):
            main([str(tmp_path / "mirror"), *arguments])
    assert not (tmp_path / "mirror").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*Not a directory"):
        prefetch(tmp_path / "file", ["boolq"], source=FIXTURE)


def test_a_dry_run_lists_what_a_table_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(FIXTURE), "eval=lumen", "--tasks", "winogrande", "--dry-run"])
    *lines, summary = capsys.readouterr().out.splitlines()
    assert "in the mirror  Rowan/hellaswag/default, 1 task" in lines
    assert "to be fetched  allenai/winogrande/winogrande_xl, 1 task" in lines
    assert summary == f"1 of 4 data sets would be fetched into {FIXTURE}"
    main([str(tmp_path), "eval=indic", "--dry-run"])
    out = capsys.readouterr().out
    for entry in (
        "ai4bharat/MILU/Hindi",
        "ai4bharat/IndicQA/indicqa.hi",
        "bharatgenai/BhashaBench-Legal/Hindi",
    ):
        assert f"to be fetched  {entry}, 1 task\n" in out
    assert not list(tmp_path.iterdir())


def test_a_table_is_fetched(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    main([str(mirror), "eval=lumen", "--source", str(FIXTURE)])
    configurations = {entry.rsplit("/", 1)[0] for entry in read_manifest(mirror)}
    assert configurations == {
        "allenai/ai2_arc/ARC-Easy",
        "allenai/ai2_arc/ARC-Challenge",
        "Rowan/hellaswag/default",
    }


def test_the_command_line_imports_nothing_heavy_and_ends_with_one_line(tmp_path: Path) -> None:
    shown, refused = spy(
        ["tools.prefetch_benchmarks", "--help"],
        ["tools.prefetch_benchmarks", str(tmp_path), "--tasks", " , "],
    )
    assert shown.code == 0 and "examples:" in shown.out
    assert not shown.imported & {"lm_eval", "datasets", "torch"}
    assert (refused.code, refused.err) == (
        2,
        "error: name a table, eval=param1_table, or tasks with --tasks\n",
    )


def test_what_one_task_lacks_keeps_none_of_the_others(tmp_path: Path) -> None:
    """From a hub that has two of four data sets, as without the permission for one that is gated."""
    with StandInHub() as hub:
        for repository in ("aps/super_glue", "truthfulqa/truthful_qa"):
            files = [path for path in sorted((FIXTURE / repository).rglob("*")) if path.is_file()]
            hub.add(repository, {str(p.relative_to(FIXTURE / repository)): p.read_bytes() for p in files})
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tools.prefetch_benchmarks", str(tmp_path / "mirror")),
                *("--tasks", "arc_hi,boolq,winogrande,truthfulqa_mc1"),
            ],
            env={
                **{key: value for key, value in os.environ.items() if "OFFLINE" not in key},
                **{"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"},
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        f"boolq: 3 files in {tmp_path / 'mirror'}",
        f"truthfulqa_mc1: 1 file in {tmp_path / 'mirror'}",
    ]
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: cannot load task arc_hi from the Hugging Face hub: ")
    assert last.endswith(
        f" (and winogrande); what the 2 other tasks need is in {tmp_path / 'mirror'}; again: "
        f"python -m tools.prefetch_benchmarks {tmp_path / 'mirror'} --tasks arc_hi,winogrande"
    )
    assert "Creating parquet" not in done.stderr and "Generating" not in done.stderr
    manifest = read_manifest(tmp_path / "mirror")
    assert {facts["revision"] for facts in manifest.values()} == {"a" * 40}
    assert verified_hash(tmp_path / "mirror")
    assert {entry: facts["rows"] for entry, facts in manifest.items()} == {
        entry: facts["rows"] for entry, facts in read_manifest(FIXTURE).items() if entry in manifest
    }
