"""tools.preprocess against Megatron-LM's tools/preprocess_data.py: same text, same tokenizer, same bytes."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import unicodedata
from itertools import cycle, zip_longest
from pathlib import Path
from typing import Literal

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count
from recipes.data.text.documents import read_texts
from recipes.data.tokenizer.train import train_tokenizer
from recipes.errors import UserError

EXAMPLES = """\
examples:
  python -m benchmarks.preprocess --checkout ~/Megatron-LM hi.jsonl en.jsonl
  python -m benchmarks.preprocess --checkout ~/Megatron-LM hi.jsonl en.jsonl --megabytes 0   # the text once
  python -m benchmarks.preprocess --memory hi.jsonl en.jsonl --megabytes 200

Both tokenize the same JSONL with two processes, in turns, so that changes in machine load affect both
equally; imports are not counted for either (but the start of our worker processes is, with what they import).
The outputs must be identical, byte for byte. Prints seconds and ratios; 2 for unigram and 1.5 for BPE are the
aims.

A repeated text favours a tool that caches words, as ours does for BPE: `--megabytes 0` takes the text once.
If Megatron's script cannot be imported for lack of a package it does not use here (triton), give the
directory of a sitecustomize.py that replaces the missing module: `--megatron-pythonpath DIR`.
"""

# Each prints the seconds between the end of the imports and the end of the work, its CPU seconds, and the
# largest memory of the process and of any of its workers, in MiB.
_CLOCK = """
import os, resource, time
begin = time.perf_counter()
{run}
seconds = time.perf_counter() - begin
peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print("SECONDS", seconds, sum(os.times()[:4]) - cpu_before, *peaks)
"""
_THEIRS = """
import os, sys
sys.path[:0] = [{checkout!r}, {checkout!r} + "/tools"]
import preprocess_data
sys.argv = {arguments!r}
cpu_before = sum(os.times()[:4])
"""
_OURS = """
import os, sys
import numpy, sentencepiece
from recipes.data.tokenize.preprocess import preprocess
if __name__ == "__main__":
    cpu_before = sum(os.times()[:4])
"""


def build_input(texts: list[Path], path: Path, megabytes: float) -> int:
    """Write the files' documents in turns, repeatedly, as NFC (Megatron does not); return the size."""
    documents = [list(read_texts(text, "text")) for text in texts]
    rows = [document for row in zip_longest(*documents) for document in row if document is not None]
    size = 0
    with path.open("w", encoding="utf-8") as stream:
        for document in cycle(rows) if megabytes else rows:
            line = json.dumps({"text": unicodedata.normalize("NFC", document)}, ensure_ascii=False) + "\n"
            size += len(line.encode())
            stream.write(line)
            if megabytes and size >= megabytes * 1e6:
                break
    return size


def run_theirs(options: argparse.Namespace, source: Path, model: Path, prefix: Path) -> list[float]:
    """Seconds, CPU seconds of all processes, MiB of the parent and of the largest worker."""
    arguments = ["preprocess_data.py", "--input", source, "--output-prefix", prefix]
    arguments += ["--tokenizer-type", "SentencePieceTokenizer", "--tokenizer-model", model]
    arguments += ["--append-eod", "--workers", options.workers, "--log-interval", 10**9]
    setup = _THEIRS.format(checkout=str(options.checkout), arguments=list(map(str, arguments)))
    code = setup + _CLOCK.format(run="preprocess_data.main()")
    return _timed(code, {"PYTHONPATH": options.megatron_pythonpath or ""})


def run_ours(options: argparse.Namespace, source: Path, model: Path, prefix: Path) -> list[float]:
    """Seconds, CPU seconds of all processes, MiB of the parent and of the largest worker."""
    call = f"preprocess([{str(source)!r}], {str(model)!r}, {str(prefix)!r}, {options.workers}, force=True)"
    # Indented into the guard, as worker processes import the script again.
    clock = _CLOCK.format(run=call).replace("\n", "\n    ")
    return _timed(_OURS + clock, {})


def _timed(code: str, environment: dict[str, str]) -> list[float]:
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "timed.py"
        script.write_text(code)
        root = Path(__file__).resolve().parents[1]
        paths = [path for path in (environment.get("PYTHONPATH"), str(root)) if path]
        done = subprocess.run(
            [sys.executable, str(script)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("SECONDS")]
    if done.returncode or not lines:
        raise UserError(f"it did not run: {done.stderr.strip().splitlines()[-1:]}")
    return [float(word) for word in lines[0][1:]]


def compare(
    options: argparse.Namespace, kind: Literal["unigram", "bpe"], source: Path, megabytes: float, work: Path
) -> None:
    """One tokenizer: both tools in turns, one line each round, and the ratio."""
    model = work / f"{kind}.model"
    train_tokenizer(options.texts, work / kind, vocab_size=options.vocab_size, model_type=kind)
    ours, theirs = work / "ours", work / "theirs"
    ratios, cpu_ratios = [], []
    for number in range(options.rounds):
        megatron, megatron_cpu, *_ = run_theirs(options, source, model, theirs)
        for suffix in (".bin", ".idx", ".json"):
            Path(f"{ours}{suffix}").unlink(missing_ok=True)
        recipes, recipes_cpu, *_ = run_ours(options, source, model, ours)
        for suffix in (".bin", ".idx"):
            written = Path(f"{theirs}_text_document{suffix}").read_bytes()
            if Path(f"{ours}{suffix}").read_bytes() != written:
                raise UserError(f"{kind}: the {suffix} files differ")
        ratios.append(megatron / recipes)
        cpu_ratios.append(megatron_cpu / recipes_cpu)
        print(
            f"{kind} round {number + 1}: Megatron-LM {megatron:.2f} s ({megatron_cpu:.1f} s of CPU, "
            f"{megabytes / megatron:.1f} MB/s), recipes {recipes:.2f} s ({recipes_cpu:.1f} s of CPU, "
            f"{megabytes / recipes:.1f} MB/s), ratio {ratios[-1]:.2f}, identical",
            flush=True,
        )
    print(
        f"{kind}: {statistics.median(ratios):.2f} x as fast (median of {len(ratios)}; "
        f"by CPU seconds {statistics.median(cpu_ratios):.2f} x)",
        flush=True,
    )


def show_memory(options: argparse.Namespace, work: Path) -> None:
    """Peak memory of ours for an input of 20 MB and for the whole size."""
    model = work / "bpe.model"
    train_tokenizer(options.texts, work / "bpe", vocab_size=options.vocab_size, model_type="bpe")
    for size in (20.0, options.megabytes):
        megabytes = build_input(options.texts, work / "input.jsonl", size) / 1e6
        *_, parent, worker = run_ours(options, work / "input.jsonl", model, work / "ours")
        print(
            f"{megabytes:.0f} MB of input: parent {parent:.0f} MiB, largest worker {worker:.0f} MiB",
            flush=True,
        )


def main() -> None:
    """Parse the command line and compare."""
    parser = Arguments("benchmarks.preprocess", __doc__, EXAMPLES)
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT.jsonl")
    parser.add_argument("--checkout", type=Path, metavar="DIR", help="of Megatron-LM")
    parser.add_argument("--megatron-pythonpath", metavar="DIR", help="for replacements of missing modules")
    parser.add_argument("--megabytes", type=float, default=100, help="of input; 0: the texts once")
    parser.add_argument("--vocab-size", type=count, default=16000)
    parser.add_argument("--types", nargs="+", default=["unigram", "bpe"], choices=["unigram", "bpe"])
    parser.add_argument("--workers", type=count, default=2)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--memory", action="store_true", help="show peak memory instead (ours only)")
    options = parser.parse_args()
    if not options.memory and not options.checkout:
        parser.error("--checkout is required")
    with tempfile.TemporaryDirectory() as directory:
        if options.memory:
            return show_memory(options, Path(directory))
        source = Path(directory) / "input.jsonl"
        megabytes = build_input(options.texts, source, options.megabytes) / 1e6
        print(f"{megabytes:.1f} MB of JSONL, {options.workers} processes each", flush=True)
        for kind in options.types:
            compare(options, kind, source, megabytes, Path(directory))


if __name__ == "__main__":
    run_tool(main)
