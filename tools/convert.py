"""Convert a stored model to another format: ``python -m tools.convert SRC DST --to nemo|hf|...``."""

from __future__ import annotations

import time
from pathlib import Path

from recipes.arguments import Arguments, work_begins
from recipes.checkpoint.formats.recognise import check_new, check_stored
from recipes.cli import run_tool
from recipes.console import Progress, quiet_libraries
from recipes.errors import UserError

EXAMPLES = """examples:
  python -m tools.convert outputs/quickstart/model.nemo quickstart_hf --to hf
  python -m tools.convert param1.nemo param1_hf --to hf --dtype bf16 --verify
  python -m tools.convert param1_hf param1.nemo --to nemo
  python -m tools.convert outputs/quickstart/checkpoints/step_00001200 step1200.nemo --to nemo
  python -m tools.convert outputs/param2/model.nemo param2_hf --to hf --layout param2moe
  python -m tools.convert outputs/quickstart ema.nemo --to nemo --weights ema

SRC is a .nemo of any generation or the directory it was unpacked to, a NeMo 2 directory, a training
checkpoint or run directory of this project, or a Hugging Face directory. Its format and architecture are
read from it. DST must not exist yet. Nothing in SRC is executed; neither a GPU nor memory for the whole model
is needed.

Exit code 0: written, and with --verify equal; 2: not written, or with --verify written but different.
"""


def main() -> None:
    """Converts, and with --verify compares the logits of both sides."""
    parser = Arguments("tools.convert", "Convert a stored model to another format.", EXAMPLES)
    parser.add_argument("source", type=Path, metavar="SRC", help="a stored model of any kind")
    parser.add_argument("target", type=Path, metavar="DST", help="a new file (nemo) or a new directory")
    parser.add_argument("--to", required=True, choices=("nemo", "hf", "nemo2", "torch_dist"))
    parser.add_argument("--dtype", default="keep", choices=("keep", "bf16", "fp32"), help="of the weights")
    parser.add_argument(
        "--layout",
        choices=("param2moe",),
        help="of --to hf: the names that vLLM's class for Param-2 reads, instead of the usual ones",
    )
    parser.add_argument(
        "--weights", default="trained", choices=("trained", "ema"), help="ema: a checkpoint's average of them"
    )
    parser.add_argument("--verify", action="store_true", help="compare both sides' logits afterwards")
    options = parser.parse_args()
    if options.layout is not None and options.to != "hf":
        raise UserError(f"--layout {options.layout}: only --to hf has layouts, not --to {options.to}")
    check_stored(options.source)
    check_new(options.target)
    work_begins()
    from recipes.checkpoint.convert import convert

    started = time.monotonic()
    with Progress() as progress:
        read = convert(
            options.source,
            options.target,
            options.to,
            options.dtype,
            progress.update_to,
            options.layout,
            options.weights,
        )
    print(f"wrote  {options.target} in {time.monotonic() - started:,.1f} s")
    if options.verify:
        quiet_libraries()  # Before megatron-core is imported: it warns as it loads.
        from recipes.inference.verify_conversion import compare_logits

        found = compare_logits(read, options.target, options.weights)
        allowed = found.bound * found.largest
        print(
            f"verify largest difference of logits {found.difference:.3g} (largest logit {found.largest:.3g}, "
            f"allowed {found.bound:g} of it, {allowed:.3g})"
        )
        if found.second_reader is None:
            print("verify nothing but this project reads such a source: its configuration was read once")
        else:
            print(
                f"verify {found.second_reader} read the source's configuration too: its logits differ "
                f"by {found.second_difference:.3g}"
            )
        if not found.sides_agree:
            raise UserError(
                f"{options.target} does not say what {options.source} says: its logits differ by "
                f"{found.difference:.3g}, allowed are {allowed:.3g}; it was left as it was written"
            )
        if not found.readings_agree:
            raise UserError(
                f"{options.source}: {found.second_reader} computes other logits from its configuration than "
                f"this project, by {found.second_difference:.3g}: an option in it was misunderstood; do not "
                f"use {options.target}, and report the configuration"
            )


if __name__ == "__main__":
    run_tool(main)
