"""The multiple-choice files: scored as a plain loop scores them, checked as they are read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.errors import UserError
from recipes.evaluation.run import evaluate
from recipes.evaluation.tasks import minibench_tasks
from tests.support.tiny_text_model import LlamaTextModel, random_llama, train_tokenizer

Item = dict[str, Any]

EN = [
    ("Water freezes into", ["ice", "steam", "sand", "fire"], 0),
    ("The capital of India is", ["Mumbai", "New Delhi", "Chennai", "Kolkata"], 1),
    ("Two plus two is {{ 4 }}\n", ["three", "four", "five", "six or so"], 1),
    ("2024", ["a year", "a colour", "a fruit", "ice"], 0),
    ("A spider has this many legs:", ["six", "ten", "eight", "two"], 2),
    ("Something cold:", ["tea", "fire", "sun", "ice"], 3),
]
HI = [
    ("भारत की राजधानी", ["मुंबई", "नई दिल्ली", "चेन्नई", "कोलकाता"], 1),
    ("दो और तीन का योग", ["चार", "पाँच", "छह", "सात"], 1),
    ("रवि बाज़ार गया और उसने", ["चावल खरीदा", "उड़ गया", "नीला था", "सो रहा"], 0),
]


def write(directory: Path) -> Path:
    for name, rows in (("en", EN), ("hi", HI)):
        items = [
            {"id": f"{name}{i}", "kind": "fact", "question": q, "choices": c, "answer": a}
            for i, (q, c, a) in enumerate(rows)
        ]
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        (directory / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return directory


@torch.no_grad()
def plain_accuracies(model: LlamaTextModel, rows: list[tuple[str, list[str], int]]) -> tuple[float, float]:
    """acc and acc_norm, one choice at a time, in float64."""
    llama = model.llama.double()
    hits, hits_norm = 0, 0
    for question, choices, answer in rows:
        scores = []
        for choice in choices:
            stripped = question.rstrip()  # trailing space belongs to the continuation, as lm-eval has it
            context, whole = model.encode(stripped), model.encode(f"{question} {choice}")
            log_probabilities = llama(torch.tensor([whole])).logits[0].log_softmax(-1)
            positions = range(len(context) - 1, len(whole) - 1)
            scores.append(sum(float(log_probabilities[p, whole[p + 1]]) for p in positions))
        norm = [score / len(choice) for score, choice in zip(scores, choices, strict=True)]
        hits += scores.index(max(scores)) == answer
        hits_norm += norm.index(max(norm)) == answer
    llama.float()
    return hits / len(rows), hits_norm / len(rows)


@pytest.mark.parametrize("seed", range(4))
def test_accuracies_are_those_of_a_plain_loop(tmp_path: Path, seed: int) -> None:
    torch.set_num_threads(1)
    tokenizer = train_tokenizer()
    model = LlamaTextModel(random_llama(len(tokenizer), seed), tokenizer)
    result = evaluate(model, ["minibench_en", "minibench_hi"], minibench=write(tmp_path), max_batch_tokens=64)
    for task, rows in (("minibench_en", EN), ("minibench_hi", HI)):
        scores = result.tasks[task].scores
        assert (scores["acc,none"].value, scores["acc_norm,none"].value) == pytest.approx(
            plain_accuracies(model, rows)
        )
        assert result.tasks[task].n == len(rows)
        assert scores["acc,none"].stderr is not None


def test_baselines_of_constant_answers(tmp_path: Path) -> None:
    tokenizer = train_tokenizer()
    model = LlamaTextModel(random_llama(len(tokenizer)), tokenizer)
    names = ["minibench_hi", "minibench_en"]
    result = evaluate(model, names, minibench=write(tmp_path), bootstrap_iters=0)
    assert result.requested == names
    assert result.tasks["minibench_en"].constant_answer == pytest.approx(2 / 6)
    assert result.tasks["minibench_en"].constant_text == pytest.approx(2 / 6)  # "ice"
    assert result.tasks["minibench_hi"].constant_answer == pytest.approx(2 / 3)
    assert result.tasks["minibench_hi"].constant_text == pytest.approx(1 / 3)
    limited = evaluate(model, ["minibench_hi"], minibench=tmp_path, limit=2).tasks["minibench_hi"]
    assert (limited.n, limited.constant_answer) == (2, 1.0)


def test_every_rank_has_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(variable, "1")
    tokenizer = train_tokenizer()
    model = LlamaTextModel(random_llama(len(tokenizer)), tokenizer)
    assert evaluate(model, ["minibench_hi"], minibench=write(tmp_path)).tasks["minibench_hi"].n == len(HI)


def test_an_edited_file_is_read_anew(tmp_path: Path) -> None:
    (first, _) = minibench_tasks(write(tmp_path))
    path = tmp_path / "en.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("Water", "Juice"), encoding="utf-8")
    (second, _) = minibench_tasks(tmp_path)
    assert first["custom_dataset"]()["test"][0]["question"] == "Water freezes into"
    assert second["custom_dataset"]()["test"][0]["question"] == "Juice freezes into"


GOOD = {"id": 1, "kind": "x", "question": "q", "choices": ["a", "b", "c", "d"], "answer": 0}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("[]", "not a JSON object"),
        ("{", "Expecting"),
        ({**GOOD, "question": ""}, "question"),
        ({**GOOD, "choices": ["a", "b", "c"]}, "4 texts"),
        ({**GOOD, "choices": ["a", "b", "c", 4]}, "4 texts"),
        ({**GOOD, "answer": 4}, "0 to 3, not 4"),
        ({**GOOD, "answer": "a"}, "not 'a'"),
        ({**GOOD, "answer": True}, "not True"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, item: str | Item, message: str) -> None:
    path = write(tmp_path) / "en.jsonl"
    line = item if isinstance(item, str) else json.dumps(item)
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        minibench_tasks(tmp_path)
    assert f"{path}:3: " in str(raised.value)


def test_a_line_separator_inside_a_text_is_not_a_line_break(tmp_path: Path) -> None:
    path = write(tmp_path) / "en.jsonl"
    item = {**GOOD, "question": "one\u2028two"}
    path.write_text(json.dumps(item, ensure_ascii=False), encoding="utf-8")
    (task, _) = minibench_tasks(tmp_path)
    assert task["custom_dataset"]()["test"]["question"] == ["one\u2028two"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    tokenizer = train_tokenizer()
    model = LlamaTextModel(random_llama(len(tokenizer)), tokenizer)
    with pytest.raises(UserError, match=r"minibench_en needs the directory that holds en\.jsonl"):
        evaluate(model, ["minibench_en"])
    with pytest.raises(UserError, match="cannot read"):
        evaluate(model, ["minibench_en"], minibench=tmp_path)
    (tmp_path / "en.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no items"):
        evaluate(model, ["minibench_en"], minibench=tmp_path)
    with pytest.raises(UserError, match="no tasks"):
        evaluate(model, [])
