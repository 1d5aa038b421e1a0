"""Which source gives each sample of a long run: memory and time, in a stored index and in windows."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count
from recipes.errors import UserError

EXAMPLES = """\
examples:
  python -m benchmarks.blend_index                          # 1.8 billion samples: 7.5T tokens of 4096 each
  python -m benchmarks.blend_index --samples 100M --stored  # beside it, the index stored as a whole

Every figure comes from a process of its own: its peak memory is what the kernel says of it. Rank 0 and
another rank each go through the whole run: all windows are built, the rank's own samples looked up here and
there, and a checkpoint's counts taken after each. Both must end with the same counts. "Resumed" takes the run
up near its end, from the counts that a checkpoint holds.

--stored does what earlier versions did: megatron-core's arrays on rank 0, their files mapped by the others,
the counts by np.bincount. It needs 20 bytes of memory per sample: 36 GB for 1.8 billion.
"""

EVERY = 1 << 20
"""Samples from one look-up to the next."""


def windows(weights: list[float], samples: int, rank: int) -> dict[str, Any]:
    """Go through all samples as training does."""
    from recipes.data.samples.blend import Blend, BlendState, continue_blend

    names = [f"source_{number}" for number in range(len(weights))]
    began = time.perf_counter()
    blend = Blend(continue_blend(dict(zip(names, weights, strict=True)), 1, None, 0), samples)
    blend.locate(rank)
    first = time.perf_counter() - began
    state = blend.state
    for sample in range(rank, samples, EVERY):
        blend.locate(sample)
        state = blend.state_at(sample)
    counts = blend.counts_at(samples)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    Blend(BlendState.from_dict(json.loads(json.dumps(vars(state)))), samples).locate(samples - 1)
    return {
        "seconds": seconds,
        "first": first,
        "resumed": time.perf_counter() - began,
        "counts": list(counts.values()),
    }


def stored(weights: list[float], samples: int, rank: int, directory: Path) -> dict[str, Any]:
    """The index of all samples at once: written by rank 0, mapped by the others."""
    import numpy as np

    # Both variants pay for the same imports.
    import recipes.data.samples.blend  # noqa: F401

    began = time.perf_counter()
    paths = [directory / name for name in ("source.npy", "index.npy")]
    if rank == 0:
        from megatron.core.datasets.helpers import build_blending_indices

        arrays: list[Any] = [np.zeros(samples, dtype=np.int16), np.zeros(samples, dtype=np.int64)]
        shares = np.array(weights, dtype=np.float64) / sum(weights)
        build_blending_indices(*arrays, shares, len(weights), samples, False)
        for path, array in zip(paths, arrays, strict=True):
            np.save(path, array)
    source_of = np.load(paths[0], mmap_mode="r")
    counts = np.bincount(source_of, minlength=len(weights)).tolist()
    return {"seconds": time.perf_counter() - began, "counts": counts}


def main() -> None:
    parser = Arguments("benchmarks.blend_index", __doc__, EXAMPLES)
    parser.add_argument("--samples", type=count, default="1.8B", metavar="N", help="(default %(default)s)")
    parser.add_argument(
        "--weights", default="0.4,0.25,0.15,0.1,0.07,0.03", metavar="W,...", help="(default %(default)s)"
    )
    parser.add_argument("--stored", action="store_true", help="measure the stored index, too")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    weights, samples = [float(weight) for weight in options.weights.split(",")], options.samples
    if options.child:
        what, rank, directory = options.child
        found = (
            windows(weights, samples, int(rank))
            if what == "windows"
            else stored(weights, samples, int(rank), Path(directory))
        )
        found["cpu"] = time.process_time()
        found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(prefix="blend_index_") as directory:
        print(f"{samples:,} samples from {len(weights)} sources")
        counts = None
        for what in ["windows", "stored"] if options.stored else ["windows"]:
            for rank in (0, 1):
                found = _measure(what, rank, directory)
                counts = counts or found["counts"]
                if found["counts"] != counts:
                    raise UserError(f"{what}, rank {rank}: {found['counts']} samples of each, not {counts}")
                line = f"{what:8} rank {rank}: peak {found['peak']:8,.0f} MiB, {found['seconds']:7.1f} s"
                line += f", {found['cpu']:.1f} s of a core"
                if "first" in found:
                    line += f" ({found['first']:.2f} s to the first, resumed {found['resumed']:.2f} s)"
                print(line, flush=True)


def _measure(what: str, rank: int, directory: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.blend_index",
        *sys.argv[1:],
        "--child",
        what,
        str(rank),
    ]
    done = subprocess.run([*command, directory], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(f"{what}, rank {rank}: the process ended with code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    run_tool(main)
