"""The layouts that a search found: as a table of text, and as a page with a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recipes.counts import time_unit
from recipes.plan.memory_check import GIB
from recipes.plan.run_plan import RunPlan
from recipes.plan.search import Found, settings_of
from recipes.report.charts import COLOURS, Bar, BarChart, BarGroup, Curve, LineChart, bar_chart, line_chart
from recipes.report.rendering import write_page

BARS = 12


def table_lines(plans: Sequence[RunPlan]) -> list[tuple[str, ...]]:
    """The header, and a line for each layout, the fastest first; times in the units that fit it."""
    if not plans:
        return []
    (of_step, step), (of_run, run) = time_unit(plans[0].step.seconds), time_unit(plans[0].seconds)
    header = (
        *("TP", "PP", "CP", "EP", "DP", "micro", "recompute", "GiB"),
        *(f"step {of_step}", "waits", "tokens/s/GPU", "MFU", of_run),
    )
    return [header] + [
        (
            *(str(size) for size in _sizes(plan)),
            str(plan.config.trainer.micro_batch_size),
            plan.config.parallel.recompute_granularity or "-",
            f"{sum(plan.memory.values()) / GIB:.1f}",
            f"{plan.step.seconds / step:,.1f}",
            f"{100 * (plan.step.communication + plan.step.bubble) / plan.step.seconds:.1f} %",
            f"{plan.step.tokens_per_second:,.0f}",
            f"{100 * plan.step.mfu:.1f} %",
            f"{plan.seconds / run:,.1f}",
        )
        for plan in plans
    ]


def _sizes(plan: RunPlan) -> tuple[int, ...]:
    parallel = plan.config.parallel
    return (
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.context_parallel_size,
        parallel.expert_model_parallel_size,
        plan.data_parallel_size,
    )


def found_text(found: Found, top: int) -> str:
    """The fastest layouts, and how the best one is written."""
    count = (
        f"{len(found.plans):,} layouts fit, {found.too_large:,} are too large, {found.refused:,} are refused"
    )
    if not found.plans:
        assert found.smallest is not None
        least, there = sum(found.smallest.memory.values()) / GIB, found.smallest.capacity / GIB
        return f"{count}; the smallest needs {least:,.1f} of {there:,.1f} GiB: take more GPUs, or larger ones"
    lines = table_lines(found.plans[:top])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(f"{cell:>{w}}" for cell, w in zip(line, widths, strict=True)) for line in lines]
    best = found.plans[0].config
    settings = settings_of(best.parallel, best.trainer.micro_batch_size, best.model)
    return "\n".join([*table, "", count, f"fastest: {settings}"])


def write_layouts(path: Path, found: Found, top: int, command: str) -> Path:
    """Writes the page and returns its path.

    Raises:
        UserError: it cannot be written.
    """
    name = found.plans[0].config.name if found.plans else "the run"
    lines = table_lines(found.plans[:top])
    return write_page(
        path,
        "recipes.plan/layouts.html",
        title=f"Layouts of {name}",
        heading=f"Layouts of {name}",
        subtitle=f"{len(found.plans):,} fit; {found.too_large:,} are too large, {found.refused:,} refused",
        frontier=_frontier(found.plans),
        fastest=_bars(found.plans[:BARS]),
        note="waits: communication that nothing hides, and the pipeline's bubble.",
        header=lines[0] if lines else (),
        lines=lines[1:],
        command=command,
    )


def _frontier(plans: Sequence[RunPlan]) -> LineChart | None:
    """Of each tensor-parallel size the layouts that none beats with as little memory."""
    curves = []
    for number, tp in enumerate(sorted({_sizes(plan)[0] for plan in plans})):
        points: list[tuple[float, float]] = []
        of_size = [plan for plan in plans if _sizes(plan)[0] == tp]
        for plan in sorted(of_size, key=lambda plan: sum(plan.memory.values())):
            speed = plan.step.tokens_per_second
            if not points or speed > points[-1][1]:
                points.append((sum(plan.memory.values()) / GIB, speed))
        curves.append(Curve(f"TP {tp}", points, COLOURS[number % len(COLOURS)], markers=True))
    return line_chart(
        "Tokens/s per GPU by GiB per GPU",
        curves,
        note="The fastest layouts for every amount of memory, by tensor-parallel size.",
        place="at {:,.0f} GiB",
    )


def _bars(plans: Sequence[RunPlan]) -> BarChart | None:
    groups = []
    for plan in plans:
        tp, pp, cp, ep, dp = _sizes(plan)
        micro = plan.config.trainer.micro_batch_size
        again = ", recomputed" if plan.config.parallel.recompute_granularity else ""
        label = f"TP {tp} PP {pp} CP {cp} EP {ep} DP {dp}, micro-batch {micro}{again}"
        groups.append(BarGroup(label, [Bar("MFU", plan.step.mfu, COLOURS[0])]))
    return bar_chart("Model FLOPs utilisation of the fastest", groups)
