"""Rehearse a layout of hundreds or thousands of ranks in one process: who reads what, holds what, saves
what."""

from __future__ import annotations

from benchmarks.door import measure
from recipes.arguments import Arguments
from recipes.cli import run_tool

EXAMPLES = """\
examples:
  python -m benchmarks.scale                         # Param-1 on 512 and 4,096 ranks
  python -m benchmarks.scale --ranks 4096 parallel.tensor_model_parallel_size=2 \\
      parallel.sequence_parallel=true parallel.pipeline_model_parallel_size=4
  python -m benchmarks.scale --ranks 2048 experiment=param2_17b_a2p4b

One process takes the part of one rank after another, in process groups that send nothing (torch's fake ones),
and builds what the trainer builds: groups, model, gradient buffers, optimizer, the state that a checkpoint
holds. Built are the first replicas of every part of the model, with what all of their replicas save, and some
other ranks; the shares of all are compared. Then
rank 0 plans a checkpoint of all ranks. The tensors have the model's own shapes but no memory.
"""


def main() -> None:
    parser = Arguments("benchmarks.scale", __doc__, EXAMPLES)
    parser.add_argument(
        "--ranks", default="512,4096", metavar="N,...", help="world sizes (default %(default)s)"
    )
    measure(parser, settings=())


if __name__ == "__main__":
    run_tool(main)
