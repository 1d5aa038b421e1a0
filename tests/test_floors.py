"""How the source is laid out.

Imports go down only: no room imports a higher one, and no modules import each other in a circle. A family of
models is known to its own files: nothing else names one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from recipes.families.family import known_families
from tests.support.paths import ROOT

# From the ground up; rooms in one line may import each other.
FLOORS = (
    (
        "console",
        "files",
        "errors",
        "checks",
        "bounds",
        "cli",
        "arguments",
        "code_version",
        "counts",
        "rounding",
        "run_directory",
    ),
    ("families",),
    ("config",),
    ("report",),
    ("parallel", "optim", "data", "model"),
    ("plan",),
    ("checkpoint",),
    ("inference",),
    ("server",),
    ("evaluation",),
    ("training",),
    ("release", "launch"),
    ("pretrain", "generate", "evaluate", "tools"),
)
CHECKPOINT_FLOORS = (
    ("formats",),
    ("stored",),
    ("save", "nemo", "huggingface"),
    ("open", "local"),
    ("convert",),
    ("average",),
)


class Import(NamedTuple):
    importer: str
    imported: str
    place: str
    """File and line."""


def modules_of(*packages: str) -> dict[str, Path]:
    """Every module of the packages, by its name."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> Iterator[Import]:
    """What a module imports of ``modules``: inside of functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            of = node.module or ""
            # A submodule, or a name that the package itself defines.
            members = [f"{of}.{alias.name}" for alias in node.names]
            named = [member if member in modules else of for member in members]
        else:
            continue
        for imported in dict.fromkeys(named):
            if imported in modules and imported != name:
                yield Import(name, imported, f"{path.relative_to(ROOT)}:{node.lineno}")


@cache
def all_imports() -> list[Import]:
    modules = modules_of("recipes", "tools")
    return [found for name, path in modules.items() for found in imports_of(name, path, modules)]


def room_of(module: str, inside: str) -> str | None:
    """The part of ``inside`` (a package) in which a module is; tools are one room beside those of recipes."""
    if module.startswith("tools"):
        return "tools" if inside == "recipes" else None
    return module.removeprefix(f"{inside}.").split(".")[0] if module.startswith(f"{inside}.") else None


def upward(inside: str, floors: tuple[tuple[str, ...], ...]) -> list[str]:
    """The imports that lead up, each with its place."""
    height = {room: floor for floor, rooms in enumerate(floors) for room in rooms}
    found = []
    for importer, imported, place in all_imports():
        low, high = room_of(importer, inside), room_of(imported, inside)
        if low and high and height[low] < height[high]:
            found.append(f"{place}: {low} must not import {high} ({imported})")
    return found


@pytest.mark.parametrize(
    ("inside", "floors"), [("recipes", FLOORS), ("recipes.checkpoint", CHECKPOINT_FLOORS)], ids=str
)
def test_every_room_has_its_floor(inside: str, floors: tuple[tuple[str, ...], ...]) -> None:
    rooms = {room_of(module, inside) for module in modules_of("recipes", "tools")} - {None, ""}
    assert rooms == {room for floor in floors for room in floor}


@pytest.mark.parametrize(
    ("inside", "floors"), [("recipes", FLOORS), ("recipes.checkpoint", CHECKPOINT_FLOORS)], ids=str
)
def test_no_room_imports_a_higher_one(inside: str, floors: tuple[tuple[str, ...], ...]) -> None:
    assert not (found := upward(inside, floors)), "\n".join(found)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    places: dict[tuple[str, str], str] = {}
    for importer, imported, place in all_imports():
        graph.setdefault(importer, set()).add(imported)
        places[importer, imported] = place
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1][::-1]  # From importer to imported.
        lines = [f"{places[a, b]}: imports {b}" for a, b in pairwise(circle)]
        pytest.fail("a circle:\n" + "\n".join(lines))


OF_FAMILIES = ("recipes.families", "recipes.model.families")


def family_names(path: Path, names: list[str]) -> Iterator[str]:
    """Where a file asks for a family: its name as a text, or a comparison of ``model.family``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Constant) and node.value in names:
            yield f"{place}: names the family {node.value}"
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Attribute) and side.attr == "family" for side in sides):
                yield f"{place}: {ast.unparse(node)}"


def test_nothing_but_its_own_files_names_a_family() -> None:
    names = known_families()
    assert len(names) >= 4
    found = []
    for module, path in modules_of("recipes", "tools", "benchmarks").items():
        where = list(family_names(path, names))
        if not module.startswith(OF_FAMILIES):
            found += where
        elif module.removeprefix("recipes.families.") in names:
            assert where, f"{path}: this test would not see a family's name"
    assert not found, "\n".join(found)
