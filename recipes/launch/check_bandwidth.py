"""Find nodes whose links are slow, by all-reduces within every node and between pairs of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from recipes.arguments import Arguments
from recipes.checks import positive
from recipes.cli import run_tool
from recipes.config.world import launched_world
from recipes.console import say
from recipes.counts import counted
from recipes.errors import UserError
from recipes.files import make_directory
from recipes.launch.measured_nodes import MEASURE_S, MEET_S, AllNodes, Node
from recipes.launch.slow_nodes import Group, Measured, SlowNodes

EXAMPLES = """\
examples:
  srun --ntasks-per-node=8 python -m recipes.launch.check_bandwidth answers --within 300 --between 300

  # two processes of this machine
  python -m torch.distributed.run --nproc-per-node 2 -m recipes.launch.check_bandwidth answers --within 0.1

docker/slurm/pretrain.sbatch runs it before a start (cluster.launch.health). Bandwidths are bus bandwidths in
GB/s, as nccl-tests gives them: size / time * 2 (n - 1) / n.
"""


def main() -> None:
    """Measures, and writes what is wrong with each node, or ok, to a file of its name."""
    parser = Arguments("recipes.launch.check_bandwidth", __doc__, EXAMPLES)
    parser.add_argument(
        "answers", type=Path, help="directory that gets a file for each node: ok, or what is wrong"
    )
    parser.add_argument("--within", type=float, metavar="GB/S", help="least bandwidth within a node")
    parser.add_argument("--between", type=float, metavar="GB/S", help="least bandwidth between two nodes")
    options = parser.parse_args()
    if options.within is None and options.between is None:
        raise UserError("--within, --between: give one of them, else nothing is measured")
    for name in ("within", "between"):
        if (floor := getattr(options, name)) is not None:
            positive(f"--{name}", floor)

    from recipes.parallel.rendezvous import open_store

    world = launched_world()
    node = Node(world, open_store(world, MEET_S, hosts=world.rank == 0))
    node.arrive()
    if world.rank > 0:
        node.follow()
        return
    nodes = AllNodes(node)
    try:
        answers = judge(nodes, world.local_size, options.within, options.between)
    finally:
        nodes.end()
    make_directory(options.answers)
    for name, answer in answers.items():
        (options.answers / name).write_text(f"{answer}\n", encoding="utf-8")


class Measuring(Protocol):
    """What measures groups of nodes; a test has another one."""

    @property
    def names(self) -> Mapping[int, str]: ...

    def measure(self, groups: list[Group]) -> Measured: ...


def judge(
    nodes: Measuring, processes: int, node_floor: float | None, pair_floor: float | None
) -> dict[str, str]:
    """What is wrong with every node, or ok.

    Args:
        processes: of a node.

    Raises:
        UserError: of several nodes none reaches the floor: hardly all of them are at fault; or none is there.
    """
    answers = dict.fromkeys(nodes.names, "ok")
    if not answers:
        raise UserError("no node has all of its processes, so nothing is measured")
    if node_floor is not None and processes > 1:
        alone = nodes.measure([(number,) for number in answers])
        say(f"all-reduce within a node: {_summary(alone, node_floor)}")
        slow = {number: speed for (number,), speed in alone.items() if not _reaches(speed, node_floor)}
        if len(slow) == len(answers) > 2:
            raise UserError(_none_reaches("no node", alone, "node", node_floor))
        answers |= {
            number: f"all-reduce within the node: {_of(speed, node_floor)}" for number, speed in slow.items()
        }
    if pair_floor is not None:
        answers |= _judge_pairs(
            nodes, [number for number, answer in answers.items() if answer == "ok"], pair_floor
        )
    return {nodes.names[number]: answer for number, answer in answers.items()}


def _judge_pairs(nodes: Measuring, fit: list[int], floor: float) -> dict[int, str]:
    search = SlowNodes(fit, floor)
    while pairs := search.next_pairs():
        search.learn(nodes.measure(pairs))
    if not search.pairs:
        return {}
    say(f"all-reduce between two nodes: {_summary(search.pairs, floor)}")
    if search.fast:
        return {
            number: f"all-reduce with {nodes.names[other]}: {_of(speed, floor)}"
            for number, (other, speed) in search.slow.items()
        }
    if len(fit) > 2:
        raise UserError(_none_reaches("no two nodes", search.pairs, "pair", floor))
    (speed,) = search.pairs.values()
    one, other = fit
    said = f"{_of(speed, floor)}; either may be at fault, a third node would tell"
    return {
        number: f"all-reduce with {nodes.names[partner]}: {said}"
        for number, partner in ((one, other), (other, one))
    }


def _reaches(speed: float | None, floor: float) -> bool:
    return speed is not None and speed >= floor


def _of(speed: float | None, floor: float) -> str:
    return f"{_shown(speed)} instead of {floor:g} GB/s"


def _shown(speed: float | None) -> str:
    return f"no end within {MEASURE_S:g} s" if speed is None else f"{speed:.3g}"


def _none_reaches(what: str, measured: Measured, kind: str, floor: float) -> str:
    fastest = max(measured.values(), key=lambda speed: speed or 0.0)
    return (
        f"cluster.launch.health.{kind}_all_reduce_gb_per_s={floor:g}: {what} of {len(measured):,} measured "
        f"reaches it, the fastest: {_shown(fastest)}; the fabric's settings (cluster.launch.env) or "
        "the floor are wrong"
    )


def _summary(measured: Measured, floor: float) -> str:
    ended = sorted(speed for speed in measured.values() if speed is not None)
    speeds = f"{_shown(ended[0])} to {_shown(ended[-1])} GB/s" if ended else "none came to an end"
    return f"{speeds} in {counted(len(measured), 'measurement')}; at least {floor:g} are wanted"


if __name__ == "__main__":
    run_tool(main)
