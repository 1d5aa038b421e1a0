"""The command lines of tools: what argparse would say in several lines, or not at all."""

from __future__ import annotations

import pytest

from recipes.arguments import Arguments, first_command
from recipes.counts import count
from recipes.errors import UserError

EXAMPLES = """\
examples:
  # a comment
  python -m tools.thing a.jsonl \\
      --out b    # what it does
"""


@pytest.fixture
def parser() -> Arguments:
    parser = Arguments(
        "tools.thing", "Does things.", EXAMPLES, {"--output-prefix": "here it is --out PREFIX"}
    )
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--out", required=True)
    parser.add_argument("--max-steps", type=count)
    return parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "the following arguments are required: inputs, --out; for example: python -m tools.thing a",
        ),
        (["--outt", "x"], "--outt: there is no such option; did you mean --out?"),
        (["a", "--max_steps=3"], "--max_steps: there is no such option; did you mean --max-steps?"),
        (["a", "--max", "3"], "--max: there is no such option; did you mean --max-steps?"),
        (["--colour"], "--colour: there is no such option; python -m tools.thing --help lists all"),
        # The flag is named, not what is missing because of it.
        (["a", "--output-prefix", "b"], "--output-prefix: here it is --out PREFIX"),
        (
            ["a", "--out", "b", "--max-steps", "1.5"],
            "argument --max-steps: 1.5 is not a whole number such as",
        ),
    ],
)
def test_refusals_are_one_line(parser: Arguments, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        parser.parse_args(arguments)
    assert str(refusal.value).startswith(message) and "\n" not in str(refusal.value)


def test_values_come_through(parser: Arguments) -> None:
    options = parser.parse_args(["a", "c", "--out=--b", "--max-steps", "2k"])
    assert (options.inputs, options.out, options.max_steps) == (["a", "c"], "--b", 2000)


def test_the_example_is_one_line() -> None:
    assert first_command(EXAMPLES) == "python -m tools.thing a.jsonl --out b"
