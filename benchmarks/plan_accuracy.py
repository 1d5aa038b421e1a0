"""How far the planner's speeds are from published ones: calibrated on two runs, the others predicted."""

from __future__ import annotations

from collections.abc import Iterable

from recipes.arguments import Arguments
from recipes.cli import run_tool

EXAMPLES = """\
examples:
  python -m benchmarks.plan_accuracy

MPT is calibrated on 3B at 16 and 128 H100, Nemotron-4 15B at 16 and 512, Llama 3.1 8B not at all. "Data
sheets" is the planner as it is.
"""


def main() -> None:
    Arguments("benchmarks.plan_accuracy", __doc__, EXAMPLES).parse_args()
    from benchmarks import published_runs as published
    from recipes.plan.calibration import calibrate_scaling

    three, nemotron = published.MPT_3B, published.NEMOTRON
    series = (
        (three[16], three[128], [*three.values(), *published.MPT_7B.values(), *published.MPT_1B.values()]),
        (nemotron[16], nemotron[512], list(nemotron.values())),
    )
    for small, large, runs in series:
        fitted = calibrate_scaling(
            published.H100, (small.planned, small.measured), (large.planned, large.measured)
        )
        print(
            f"{small.model}, {small.gpus} and {large.gpus:,} GPUs: kernel_speed={fitted.kernel_speed:.3f}, "
            f"network_latency_us={fitted.network_latency_us:.0f}"
        )
        _table(
            (run.model, run.gpus, run.measured, run.planned(fitted), run.planned(published.H100))
            for run in runs
        )
    print(f"{published.LLAMA_8B[8].model}, as it is")
    _table(
        (run.model, run.gpus, run.measured, planned := run.planned(published.H100), planned)
        for run in published.LLAMA_8B.values()
    )


def _table(rows: Iterable[tuple[str, int, float, float, float]]) -> None:
    print(f"  {'model':15} {'GPUs':>6} {'measured':>9} {'planned':>9} {'error':>7}  {'data sheets':>11}")
    for model, gpus, measured, planned, plain in rows:
        error = f"{100 * (planned / measured - 1):+.1f} %"
        print(f"  {model:15} {gpus:6,} {measured:9,.0f} {planned:9,.0f} {error:>7}  {plain:11,.0f}")


if __name__ == "__main__":
    run_tool(main)
