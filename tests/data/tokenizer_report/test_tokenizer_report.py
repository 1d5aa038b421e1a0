"""The report's numbers, counted again by hand on small texts, and its three forms."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.data.tokenizer.base import Span, TextTokenizer
from recipes.data.tokenizer.train import train_tokenizer
from recipes.data.tokenizer_report import compare
from recipes.data.tokenizer_report.compare import Comparison, label_of
from recipes.data.tokenizer_report.cuts import Borders, units_of
from recipes.data.tokenizer_report.measure import measure
from recipes.data.tokenizer_report.probes import PROBES
from recipes.data.tokenizer_report.text_table import as_text, shown
from recipes.data.tokenizer_report.tokenizer_page import write_tokenizer_page
from recipes.errors import UserError
from tests.support.html_page import HOSTILE, Page
from tests.support.tokenizer_texts import ENGLISH, HINDI, WORDS, write_jsonl


class Cutter(TextTokenizer):
    """Cuts a text at every ``|``-marked place of a plan; characters of `bytes_of` become their bytes."""

    def __init__(self, plan: str, bytes_of: str = "", lossy: bool = False, name: str = "cutter") -> None:
        self.name, self.sha256, self._lossy = name, "", lossy
        self._spans: list[Span] = []
        place = 0
        for part in plan.split("|"):
            for character in part if part in bytes_of else [part]:
                count = len(character.encode()) if part in bytes_of else 1
                self._spans += [(place, place + len(character))] * count
            place += len(part)
        self.text = plan.replace("|", "")

    vocab_size, bos_id, eos_id, unk_id, pad_id = 100, None, 1, 0, None  # type: ignore[assignment]

    def encode_batch(self, texts: Any) -> Any:
        return [np.arange(len(self._spans), dtype=np.int32) for _ in texts]

    def id_to_piece(self, token: int) -> str:
        return str(token)

    def special_tokens(self) -> dict[str, int]:
        return {}

    def spans(self, text: str) -> list[Span]:
        return self._spans

    def _decode(self, ids: list[int]) -> str:
        return self.text.replace("\u200c", "") if self._lossy else self.text


def measured(plan: str, **options: Any) -> dict[str, Any]:
    tokenizer = Cutter(plan, **options)
    return measure(tokenizer, [tokenizer.text]).as_dict()


def test_counts() -> None:
    found = measured("नदी| पा|नी| hi")
    assert (found["tokens"], found["spaced_words"], found["characters"], found["bytes"]) == (4, 3, 11, 25)
    assert found["tokens_per_word"] == pytest.approx(4 / 3)
    assert found["bytes_per_token"] == 25 / 4 and found["characters_per_token"] == 11 / 4
    # "पानी" is in two tokens, cut between clusters.
    assert found["units"]["words"] == 3 and found["whole_words"] == pytest.approx(2 / 3)
    assert found["units"]["clusters"] == 3 and found["cut_clusters"] == 0
    assert found["unknown"] == 1 / 4  # Id 0.
    assert found["exact_documents"] == 1 and found["first_inexact"] is None


@pytest.mark.parametrize(
    ("plan", "clusters", "conjuncts"),
    [
        ("पा|नी", (2, 0), (0, 0)),
        ("प|ानी", (2, 1), (0, 0)),  # a vowel sign
        ("फ|\u093cर", (1, 1), (0, 0)),  # a nukta
        ("मा|ँ", (1, 1), (0, 0)),  # chandrabindu
        ("वि|द्या", None, (1, 0)),
        ("विद्|या", None, (1, 1)),
        ("विद|्या", None, (1, 1)),
        ("क्\u200d|ष", None, (1, 1)),
        ("क्\u200c|ष", None, (0, 0)),  # ZWNJ parts them
        ("e\r|\nf", (0, 0), (0, 0)),
    ],
)
def test_cuts(plan: str, clusters: tuple[int, int] | None, conjuncts: tuple[int, int]) -> None:
    found = measured(plan)
    if clusters is not None:
        assert (found["units"]["clusters"], found["cut"]["clusters"]) == clusters
    assert (found["units"]["conjuncts"], found["cut"]["conjuncts"]) == conjuncts


def test_bytes_of_a_character() -> None:
    found = measured("न|ी| x", bytes_of="ी")
    assert found["tokens"] == 5 and found["parts_of_characters"] == 3 / 5
    assert found["cut_clusters"] == 1
    # One letter in bytes is not whole either.
    found = measured("द| x", bytes_of="द")
    assert found["whole_words"] == 0.5 and found["cut_clusters"] is None


def test_what_does_not_come_back() -> None:
    found = measured("राज्\u200cकुमार", lossy=True)
    assert found["exact_documents"] == 0
    assert found["first_inexact"] == "राज्<U+200C>कुमार -> राज्कुमार"


def test_borders_against_a_plain_count() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        length = int(generator.integers(1, 30))
        places = sorted({0, length, *map(int, generator.integers(0, length + 1, 6))})
        spans = list(pairwise(places))
        units = [tuple(sorted(map(int, generator.integers(0, length + 1, 2)))) for _ in range(5)]
        units = [(a, b) for a, b in units if b > a]
        expected = sum(sum(a < end and b > begin for begin, end in spans) > 1 for a, b in units)
        assert Borders(spans, length).cut(units) == expected


def test_units() -> None:
    text = "राज्\u200cकुमार का घर, x2"
    assert [text[a:b] for a, b in units_of(text, "words")] == ["राज्\u200cकुमार", "का", "घर", "x"]
    assert "र्य" in [("सूर्य"[a:b]) for a, b in units_of("सूर्य", "conjuncts")]


def test_probes_are_nfc_and_about_what_they_say() -> None:
    assert len(PROBES) == 8
    everything = {name: "".join(texts) for name, texts in PROBES.items()}
    assert "\u093c" in everything["nukta"] and "१" in everything["numbers"] and "2" in everything["numbers"]
    assert {"\u200c", "\u200d"} <= set(everything["ZWJ and ZWNJ"])
    assert {"।", "॥"} <= set(everything["danda"])
    assert {"ँ", "ं", "ः"} <= set(everything["chandrabindu and anusvara"])


def test_labels() -> None:
    names = ["hi.jsonl", "train.hi.jsonl", "hi.jsonl.zst", "hi.txt", "x.hi.jsonl.gz"]
    assert {label_of(Path("some/dir") / name) for name in names} == {"hi"}


@pytest.fixture(scope="module")
def made(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("made")
    train_tokenizer([corpus_file], directory / "sp<b>", vocab_size=330)
    train_tokenizer([corpus_file], directory / "bytes", vocab_size=400, model_type="byte_bpe")
    return [directory / "sp<b>.model", directory / "bytes"]


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("text") / "both.jsonl", [ENGLISH, HINDI, WORDS] * 20)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.tokenizer_report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def bar_charts(html: str) -> dict[str, dict[tuple[str, str], str]]:
    """By a chart's title: (group, label) -> the value beside the bar."""
    charts: dict[str, dict[tuple[str, str], str]] = {}
    for section in html.split("<section>")[1:]:
        (title,) = re.findall("<h2>(.*)</h2>", section)
        for group in section.split("<caption>")[1:]:
            name = group.partition("</caption>")[0]
            for label, value in re.findall(
                r'<th scope="row">(.*?)</th>.*?class="value">(.*?)</td>', group, re.S
            ):
                charts.setdefault(title, {})[name, label] = value
    return charts


def test_command_line(made: list[Path], corpus_file: Path, tmp_path: Path) -> None:
    hindi = write_jsonl(tmp_path / "hi.jsonl", [HINDI] * 3)
    done = run(*made, "--text", corpus_file, hindi, "--json", "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["vocabularies"] == {"sp<b>": 330, "bytes": 400}
    assert list(found["texts"]) == ["both", "hi"] and set(found["probes"]) == set(PROBES)
    row = found["texts"]["hi"]["bytes"]
    assert (row["documents"], row["exact_documents"], row["unknown"]) == (3, 1, 0)
    page = Page(tmp_path / "page.html")
    assert "<b>" not in page.html and "sp<b>" in page.text
    assert "http" not in page.html.replace("http-equiv", "") and "<script" not in page.html
    # Fertility is a number, the rest of the charts shares.
    charts = bar_charts(page.html)
    assert len(charts) >= 5
    assert charts["Tokens per word"]["hi", "bytes"] == f"{row['tokens_per_word']:.2f}"
    assert charts["Words kept whole"]["hi", "bytes"] == f"{row['whole_words'] * 100:.1f}\u00a0%"
    probe = found["probes"]["chandrabindu and anusvara"]["sp<b>"]
    shown_probe = charts["Probes: tokens per word"]["chandrabindu and anusvara", "sp&lt;b&gt;"]
    assert shown_probe == f"{probe['tokens_per_word']:.2f}"
    # Three sentences and the bound: whole documents, at least one.
    few = json.loads(run(made[1], "--text", hindi, "--json", "--max-bytes", 10).stdout)
    assert few["texts"]["hi"]["bytes"]["documents"] == 1


def test_table(made: list[Path], corpus_file: Path, tmp_path: Path) -> None:
    from recipes.data.tokenizer import load_tokenizer

    tokenizers = [load_tokenizer(path) for path in made]
    comparison = compare(tokenizers, [corpus_file])
    text = as_text(comparison)
    assert "both: 60 documents" in text and "tokens/word" in text and "ZWJ and ZWNJ" in text
    lines = text.splitlines()
    assert len(lines[1]) == len(lines[2]) == len(lines[3])
    write_tokenizer_page(comparison, tmp_path / "page.html")
    assert "Every document comes back" in Page(tmp_path / "page.html").text
    lossy = compare([Cutter("राज्\u200cकुमार", lossy=True, name="lossy")], [corpus_file])
    assert "not exact" in as_text(lossy)
    write_tokenizer_page(lossy, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "lossy, both: " in page.text and "-> राज्कुमार" in page.text
    with pytest.raises(UserError, match="is given twice"):
        compare(tokenizers, [corpus_file, corpus_file])


def test_names_of_files_and_texts_are_escaped(tmp_path: Path) -> None:
    found = measure(Cutter("न|ी| x", bytes_of="ी"), ["नी x"])
    found.first_inexact = HOSTILE
    row = {HOSTILE: found, "other": found}
    comparison = Comparison({HOSTILE: 5, "other": 6}, texts={HOSTILE: row}, probes={"probe": row})
    write_tokenizer_page(comparison, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    # The subtitle, a group and a bar in five charts, a table's title and line, a bar and a column for the
    # probes; and of what is not exact a line has tokenizer, text and example.
    page.check_hostile(1 + 2 * 5 + 2 + 2 + (3 + 2 + 2 + 1))


def test_shares_are_never_rounded_to_all_or_nothing() -> None:
    assert shown(1.0, share=True) == "100.00 %" and shown(0.0, share=True) == "0.00 %"
    assert shown(0.999999, share=True) == "99.9999 %" and shown(0.000001, share=True) == "<0.01 %"
    assert shown(None, share=True) == "-" and shown(1.23456) == "1.235"


def test_refusals_and_help(made: list[Path], tmp_path: Path) -> None:
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n')
    done = run(made[0], "--text", tmp_path / "blank.jsonl")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no usable text" in done.stderr
    assert run(made[0], "--text", tmp_path / "none.jsonl").returncode == 2
    assert run(tmp_path, "--text", tmp_path / "blank.jsonl").returncode == 2
    command = [sys.executable, "-X", "importtime", "-m", "tools.tokenizer_report", "--help"]
    shown_help = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in shown_help.stderr.splitlines()}
    assert "examples:" in shown_help.stdout
    assert "argparse" in imported and not {"torch", "numpy", "sentencepiece", "tokenizers"} & imported
