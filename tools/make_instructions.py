"""Write instructions over the quick start's facts, in both languages, and check answers to held-out ones."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.console import say
from recipes.counts import count
from recipes.data.corpus.grammar import LANGUAGES
from recipes.data.corpus.instructions import conversations, held_out_questions, judge
from recipes.data.corpus.world import make_world
from recipes.data.text.json_lines import read_records
from recipes.errors import UserError
from recipes.files import atomic_write, make_directory

EXAMPLES = """\
examples:
  python -m tools.make_instructions --out instructions --people 16
  python -m recipes.generate gpt_model_file=model.nemo chat=true prompts_jsonl=instructions/questions.jsonl \\
    inference.greedy=true
  python -m tools.make_instructions --check instructions/questions.jsonl.completions.jsonl \\
    --out instructions

The first writes train.<language>.jsonl and valid.<language>.jsonl (conversations) and questions.jsonl, whose
facts no conversation asks for. The last counts how many answers have the form that was asked for (a sentence,
or one word), and how many are right too.
"""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Arguments("tools.make_instructions", __doc__, EXAMPLES)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where they are")
    parser.add_argument(
        "--people", type=count, default=32, help="as for tools.make_corpus (default %(default)s)"
    )
    parser.add_argument(
        "--world-seed", type=int, default=1, help="as for tools.make_corpus (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="decides what is asked (default %(default)s)")
    parser.add_argument(
        "--conversations", type=count, default=2000, help="in each language (default %(default)s)"
    )
    parser.add_argument("--check", type=Path, metavar="COMPLETIONS.jsonl", help="count good answers instead")
    return parser.parse_args()


def write(options: argparse.Namespace) -> None:
    """All files."""
    world = make_world(options.world_seed, options.people)
    make_directory(options.out)
    for language in LANGUAGES:
        stream = conversations(world, language, options.seed)
        for part, number in (
            ("train", options.conversations),
            ("valid", max(1, options.conversations // 20)),
        ):
            with atomic_write(options.out / f"{part}.{language}.jsonl", "w") as file:
                for _ in range(number):
                    file.write(json.dumps(next(stream), ensure_ascii=False) + "\n")
    questions = [question for language in LANGUAGES for question in held_out_questions(world, language)]
    with atomic_write(options.out / "questions.jsonl", "w") as file:
        file.writelines(json.dumps(question, ensure_ascii=False) + "\n" for question in questions)
    counts = (
        f"{options.conversations:,} conversations in each language, {len(questions):,} held-out questions"
    )
    say(f"{options.out}: {counts}")


def check(options: argparse.Namespace) -> None:
    """A line per language and form."""
    questions = [record for _, record in read_records(options.out / "questions.jsonl")]
    answers = [record for _, record in read_records(options.check)]
    if [question["text"] for question in questions] != [answer.get("prompt") for answer in answers]:
        raise UserError(f"{options.check}: its prompts are not those of {options.out / 'questions.jsonl'}")
    found: dict[tuple[str, str], list[tuple[bool, bool]]] = defaultdict(list)
    for question, answer in zip(questions, answers, strict=True):
        found[question["language"], question["form"]].append(judge(question, answer["completion"]))
    found["all", ""] = [judged for each in list(found.values()) for judged in each]
    print(f"{'':14} {'asked':>6} {'form':>7} {'right':>7}")
    for (language, form), judged in found.items():
        shares = [100 * sum(column) / len(judged) for column in zip(*judged, strict=True)]
        print(f"{language + ' ' + form:14} {len(judged):6,} {shares[0]:5.1f} % {shares[1]:5.1f} %")


def main() -> None:
    """Parse the command line and write or check."""
    options = parse()
    if options.check is None:
        write(options)
    else:
        check(options)


if __name__ == "__main__":
    run_tool(main)
