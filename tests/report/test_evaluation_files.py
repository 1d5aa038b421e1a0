"""The chart and the provenance of an evaluation."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from recipes.config.schema import TableRow
from recipes.report.evaluation_chart import LEFT, OURS, PLOT, PUBLISHED, evaluation_chart
from recipes.report.evaluation_details import details
from recipes.report.evaluation_result import EvaluationResult, Score, TaskResult
from recipes.report.evaluation_table import TableSpec

DATA = {
    "data_set": "allenai/ai2_arc",
    "configuration": "ARC-Easy",
    "revision": "210d026faf9955653af8916fad021475a3f00453",
    "sha256": {"test": "fc06ff567813" + "0" * 52},
}
RESULT = EvaluationResult(
    "a < b",
    ["arc_easy", "truthfulqa_gen"],
    {
        "arc_easy": TaskResult(
            {"acc,none": Score(0.5, 0.1), "acc_norm,none": Score(0.75, 0.05)},
            n=2376,
            num_fewshot=0,
            version="1.0",
            constant_answer=0.25,
            truncated=3,
            data=DATA,
        ),
        "truthfulqa_gen": TaskResult({"bleu_max,none": Score(12.5)}, n=817),
    },
    {"limit": None, "mirror_sha256": "beef", "versions": {"torch": "2"}},
    made_with={"prefix_token": {"id": 1, "text": "<s>"}, "command": "python -m recipes.evaluate"},
)
SPEC = TableSpec([TableRow("ARC Easy", "arc_easy", "acc_norm,none", [74.6, 80.3])], ["Param 1", "Other"])


def boxes(svg: str, colour: str) -> list[tuple[float, float]]:
    """Where the rectangles of a colour begin and end on the scale, in percent."""
    namespace = "{http://www.w3.org/2000/svg}rect"
    found = [
        box.attrib for box in ElementTree.fromstring(svg).iter(namespace) if box.attrib["fill"] == colour
    ]
    ends = [(float(box["x"]), float(box["x"]) + float(box["width"])) for box in found]
    return [
        (round(100 * (start - LEFT) / PLOT, 1), round(100 * (end - LEFT) / PLOT, 1)) for start, end in ends
    ]


def test_the_chart() -> None:
    svg = evaluation_chart(RESULT, SPEC)
    assert svg is not None
    texts = [text for text in ElementTree.fromstring(svg).itertext() if text.strip()]
    assert texts[:4] == ["a < b", "Param 1", "Other", "constant answer"]
    assert "ARC Easy (acc_norm)" in texts and "bleu_max" not in svg  # Not a share of 100.
    assert (0.0, 75.0) in boxes(svg, OURS)
    *_, mark = boxes(svg, PUBLISHED[1])  # After that of the legend.
    assert sum(mark) / 2 == 80.3
    none = EvaluationResult("m", ["t"], {"t": TaskResult({"bleu_max,none": Score(12.5)}, n=8)})
    assert evaluation_chart(none, TableSpec([])) is None


def test_every_row_tells_where_it_comes_from() -> None:
    text = details(RESULT)
    row = next(line for line in text.splitlines() if line.startswith("| arc_easy"))
    assert re.split(r"\s*\|\s*", row.strip("| ")) == [
        "arc_easy",
        "acc 50.00 ± 10.00; acc_norm 75.00 ± 5.00",
        "allenai/ai2_arc, ARC-Easy",
        "210d026faf99",
        "test fc06ff567813",
        "1.0",
        "0",
        "3",
        "2,376",
    ]
    assert "- prefix_token: id 1, text `<s>`\n" in text and "- mirror_sha256: `beef`\n" in text
