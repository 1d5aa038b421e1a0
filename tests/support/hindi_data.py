"""Invented rows for every data set of eval=indic, and mirrors of them.

Columns, configurations, splits and kinds of values are those that lm-eval's task files, this project's own
and the data sets' public descriptions name; everything that the rows say was made up here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pyarrow as pa
import pyarrow.parquet as parquet

from recipes.data.benchmark_mirror import Manifest, sha256_file, split_file, write_index

Rows = dict[str, list[dict[str, Any]]]
"""{"<org>/<name>/<configuration>/<split>": its rows}."""

QUESTION = "भारत की राजधानी क्या है?"
OPTIONS = ["दिल्ली", "मुंबई", "चेन्नई", "कोलकाता"]
LETTERS = "ABCD"
LATIN = ["dilli", "mumbai", "chennai", "kolkata"]
INCLUDE_DOMAINS = (
    "Applied Science",
    "Arts & Humanities",
    "Driving License",
    "General knowledge",
    "Health oriented education",
    "Professional certification",
    "STEM",
    "Social Science",
)
REASONING_FIELDS = (
    "biology",
    "business",
    "chemistry",
    "computer science",
    "economics",
    "engineering",
    "health",
    "history",
    "law",
    "math",
    "other",
    "philosophy",
    "physics",
    "psychology",
)
BHS_ORDERS = (
    "S_O_V",
    "S_PossPRN_O_V",
    "S_PossPRN_PossN_O_V",
    "S_ne_O_V",
    "S_ne_PossPRN_O_V",
    "S_ne_PossPRN_PossN_O_V",
)


def write_mirror(directory: Path, rows: Rows) -> Path:
    """A mirror that holds them."""
    manifest: Manifest = {}
    for entry, content in rows.items():
        file = split_file(directory, entry)
        file.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(content), file)
        manifest[entry] = {"rows": len(content), "sha256": sha256_file(file), "tasks": []}
    write_index(directory, manifest)
    return directory


@cache
def mmlu_subjects() -> list[str]:
    """As lm-eval's Hindi MMLUs name them."""
    file = Path(lm_eval.tasks.__file__).parent / "openai-mmmlu" / "subjects.json"
    return sorted(json.loads(file.read_text(encoding="utf-8")))


def indic_rows() -> Rows:
    """All that eval=indic reads."""
    questions = [QUESTION, *(f"{place} में कौन-सी नदी है?" for place in OPTIONS[:3])]
    return {**_translated(), **_mmlu(), **_sentences(), **_passages(), **own_rows(questions)}


def own_rows(questions: Sequence[str] = (QUESTION,)) -> Rows:
    """What this project's own tasks read; of every task one row that it leaves out, if its data have such."""
    numbered = {f"option{i}": option for i, option in enumerate(OPTIONS, 1)}
    about = {"language": "Hindi", "domain": "x", "subject": "y"}
    milu = [
        {"question": f" {question}", **numbered, "target": target, **about}
        for question in questions
        for target in ("option1", "option3", "none")
    ]
    param_bench = [
        {
            "question_text": question,
            **_lettered(),
            "correct_answer": letter,
            "subject": "x",
            "exam_name": "y",
        }
        for question in questions
        for letter in ("A", "d ", "")
    ]
    indic_qa = [
        {
            "context": "दिल्ली भारत की राजधानी है।",
            "question": question,
            "id": i,
            "answers": {"answer_start": start, "text": [text]},
        }
        for question in questions
        for i, (text, start) in enumerate((("दिल्ली।", [3]), ("", [-1]), ("नई दिल्ली", [0])))
    ]
    hellaswag = [
        {
            "ind": n,
            "activity_label": "Cooking",
            "ctx_a": f"A man cuts {what}.",
            "ctx_b": "he",
            "ctx": f"A man cuts {what}. he",
            "endings": endings,
            "label": "2",
        }
        for n, what in enumerate(["onions", "leeks", "beans", "bread"][: len(questions)])
        for endings in (OPTIONS, [*OPTIONS[:3], " "])
    ]
    bhasha_bench = {
        f"bharatgenai/BhashaBench-{part}/Hindi/test": [
            {"id": "1", "question": question, **_lettered(), "correct_answer": "B", "language": "Hindi"}
            for question in questions
        ]
        * (3 if part == "Ayur" else 1)
        for part in ("Ayur", "Finance", "Krishi", "Legal")
    }
    return {
        "ai4bharat/MILU/Hindi/test": milu,
        "ai4bharat/MILU/Hindi/validation": milu[:1],
        "bharatgenai/ParamBench/ParamBench/test": param_bench,
        "ai4bharat/IndicQA/indicqa.hi/test": indic_qa,
        "ai4bharat/hellaswag-hi/hi/validation": hellaswag,
        **bhasha_bench,
    }


def reasoning_rows() -> Rows:
    """What eval=indic_reasoning reads: MMLU-ProX, whose solved examples show how to reason."""
    rows = [
        {
            "question_id": n,
            "question": f"{field}: {n} और {n} कितने होते हैं?",
            **{f"option_{i}": str(i) if i < 8 + n % 3 else None for i in range(10)},
            "answer": LETTERS[n % 4],
            "answer_index": n % 4,
            "cot_content": f"A: चलिए चरण-दर-चरण सोचते हैं। गिनने पर उत्तर है ({LETTERS[n % 4]})।",
            "category": field,
            "src": "invented",
        }
        for field in REASONING_FIELDS
        for n in range(5)
    ]
    return {"li-lab/MMLU-ProX/hi/test": rows, "li-lab/MMLU-ProX/hi/validation": rows}


def _translated() -> Rows:
    """ARC, HellaSwag, TruthfulQA and MMLU as Okapi translated them."""
    arc = [
        {
            "id": f"{place}_{n}",
            "instruction": f"{place} किस देश में है [title] बताइए?",
            # Some questions have three options, some five.
            **_options("option_{}", "abcde", [*OPTIONS, "पटना"][: 3 + n] + [None] * (2 - n)),
            "answer": LETTERS[n],
        }
        for place in ("ताजमहल", "कुतुब मीनार", "चारमीनार")
        for n in range(3)
    ]
    hellaswag = [
        {
            "ind": n,
            "activity_label": "खाना बनाना",
            "ctx_a": "एक आदमी प्याज़ काटता है।",
            "ctx_b": "फिर वह" if n else "",
            "ctx": "एक आदमी प्याज़ काटता है।",
            "endings": [f"{end} जाता है [substeps]." for end in OPTIONS],
            "source_id": f"invented~{n}",
            "split": "val",
            "split_type": "indomain",
            "label": str(n),
        }
        for n in range(4)
    ]
    truthful = [
        {
            "question": "क्या तोते गणित पढ़ते हैं?" if n else "क्या नदियाँ ऊपर की ओर बहती हैं?",
            "mc1_targets_choices": ["नहीं।", "हाँ, हमेशा।"],
            "mc1_targets_labels": [1, 0],
            "mc2_targets_choices": ["नहीं।", "ऐसा ज्ञात नहीं है।", "हाँ, हमेशा।", "हाँ, रात में।"][: 3 + n],
            "mc2_targets_labels": [1, 1, 0, 0][: 3 + n],
        }
        for n in range(2)
    ]
    mmlu = [
        {"id": f"x/{n}", "instruction": f"{n} और {n} कितने होते हैं?\n", **_lettered(n), "answer": LETTERS[n % 4]}
        for n in range(5)
    ]
    return {
        **{f"alexandrainst/m_arc/hi/{split}": arc for split in ("train", "validation", "test")},
        "alexandrainst/m_hellaswag/hi/val": hellaswag,
        "alexandrainst/m_truthfulqa/hi/val": truthful,
        **{f"alexandrainst/m_mmlu/hi/{split}": mmlu for split in ("train", "val", "test")},
    }


def _mmlu() -> Rows:
    """Global-MMLU, OpenAI's MMMLU and INCLUDE: tasks of many subjects that share one data set."""
    global_mmlu = [
        {
            "sample_id": f"{subject}/test/{n}",
            "subject": subject,
            "subject_category": "x",
            "question": f"{subject}: {n} के बाद क्या आता है?",
            **_lettered(n),
            "answer": LETTERS[n],
            "is_annotated": False,
        }
        for subject in mmlu_subjects()
        for n in range(3)
    ]
    mmmlu = [
        {
            "Unnamed: 0": n,
            "Question": f"{row['subject']}, {row['question']}",
            **dict(zip(LETTERS, OPTIONS, strict=True)),
            "Answer": row["answer"],
            # Of the hub's files some hold a name of the subject's file.
            "Subject": row["subject"] if n % 5 < 3 else f"{row['subject']}_test.csv_sw-KE.csv",
        }
        for n, row in enumerate(global_mmlu)
    ]
    include = [
        {
            "language": "Hindi",
            "country": "India",
            "domain": domain,
            "subject": "x",
            "regional_feature": "agnostic",
            "level": "Professional",
            "question": f"{domain}: {QUESTION}{n}",
            **_lettered(n),
            "answer": n,
        }
        for domain in INCLUDE_DOMAINS
        for n in range(3)
    ]
    return {
        "CohereForAI/Global-MMLU/hi/dev": global_mmlu,
        "CohereForAI/Global-MMLU/hi/test": global_mmlu,
        "openai/MMMLU/HI_IN/test": mmmlu,
        "CohereForAI/include-base-44/Hindi/test": include,
    }


def _sentences() -> Rows:
    """Sentences to choose between: XNLI, XStoryCloze, Global PIQA, MultiBLiMP, BHS."""
    xnli = [
        {"premise": f"{place} बड़ा है", "hypothesis": f"{place} छोटा है", "label": n}
        for n, place in enumerate(OPTIONS[:3])
    ]
    stories = [
        {
            "story_id": f"s{n}",
            **{f"input_sentence_{i}": f"राम {place} गया {i}।" for i in range(1, 5)},
            "sentence_quiz1": "वह ख़ुश था।",
            "sentence_quiz2": "वह एक पत्थर था।",
            "answer_right_ending": 1 + n % 2,
        }
        for n, place in enumerate(OPTIONS)
    ]
    piqa: Rows = {}
    for script, places in (("deva", OPTIONS), ("latn", LATIN)):
        for kind, choices in (("nonparallel", 2), ("parallel", 4)):
            piqa[f"mrlbenchmarks/global-piqa-{kind}/hin_{script}/test"] = [
                {
                    "prompt": f"{place}:",
                    **{f"solution{i}": f"{places[i]} {i}" for i in range(choices)},
                    "label": n % choices,
                    "language": f"hin_{script}",
                }
                for n, place in enumerate(places)
            ]
    blimp = [
        {"sen": f"{place} जाता है।", "wrong_sen": f"{place} जाती हैं।", "phenomenon": "SV-#", "child": place}
        for place in OPTIONS
    ]
    orders = {
        f"jmichaelov/bhs/hindi-{order}/test": [
            {"context": f"राम {place} को", "ending_good": " देखता है", "ending_bad": " देखते हैं"}
            for place in OPTIONS[: 2 + n % 3]
        ]
        for n, order in enumerate(BHS_ORDERS)
    }
    return {
        **{f"facebook/xnli/hi/{split}": xnli for split in ("train", "validation", "test")},
        **{f"juletxara/xstory_cloze/hi/{split}": stories for split in ("train", "eval")},
        **piqa,
        "jumelet/multiblimp/hin/train": blimp,
        **orders,
    }


def _passages() -> Rows:
    """Questions about passages: Belebele, MLQA."""
    belebele: Rows = {
        f"facebook/belebele/hin_{script}/test": [
            {
                "link": "https://example.org",
                "question_number": n,
                "flores_passage": f"{place} {place} {place}",
                "question": f"{place}? ",
                **{f"mc_answer{i}": answer for i, answer in enumerate(places, 1)},
                "correct_answer_num": str(n),
                "dialect": f"hin_{script}",
                "ds": "2026-01-01",
            }
            for n, place in enumerate(places, 1)
        ]
        for script, places in (("Deva", OPTIONS), ("Latn", LATIN))
    }
    mlqa = [
        {
            "id": str(n),
            "title": "x",
            "context": f"{place} एक शहर है।",
            "question": "शहर कौन-सा है?",
            "answers": {"answer_start": [0], "text": [place]},
        }
        for n, place in enumerate(OPTIONS)
    ]
    return {**belebele, **{f"facebook/mlqa/mlqa.hi.hi/{split}": mlqa for split in ("test", "validation")}}


def _lettered(n: int = 0) -> dict[str, str]:
    return _options("option_{}", "abcd", OPTIONS[n % 4 :] + OPTIONS[: n % 4])


def _options(column: str, letters: str, options: Sequence[Any]) -> dict[str, Any]:
    return {column.format(letter): option for letter, option in zip(letters, options, strict=True)}
