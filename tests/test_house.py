"""The plan of the house in CONTRIBUTING.md: its floors are those of the code, and imports run downwards."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "tutorkd"


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in PACKAGE.rglob("*.py")}


def imported(file: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it; names for type checkers alone don't count."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    # What isn't a module is a name in one.
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys()


IMPORTS = {module: imported(file) for module, file in MODULES.items()}


def planned() -> dict[int, list[str]]:
    """Patterns of files by floor, as the plan lists them."""
    _, plan = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## The plan of the house\n")
    floors: dict[int, list[str]] = {}
    for line in plan.split("\n## ")[0].splitlines():
        if heading := re.match(r"### (\d+)\.", line):
            floors[int(heading[1])] = []
        elif line.startswith("| `"):
            floors[min(floors)] += re.findall(r"`([^`]+)`", line.split("|")[1])
    return floors


def room(path: str) -> str:
    """The package, or the file outside of them, that a path lies in."""
    return path.split("/")[0].removesuffix(".py")


FLOORS = {room(pattern): floor for floor, patterns in planned().items() for pattern in patterns}


def test_no_module_takes_part_in_a_circle_of_imports():
    list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError with the modules of the circle


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"tutorkd"}))
def test_a_module_imports_from_its_own_floor_and_those_below(module):
    floor = FLOORS[module.split(".")[1]]
    above = {other for other in IMPORTS[module] - {"tutorkd"} if FLOORS[other.split(".")[1]] > floor}
    assert not above


def test_the_plan_lists_each_file_and_none_that_isn_t_there():
    patterns = [pattern for listed in planned().values() for pattern in listed]
    expanded = [f"{before}{name}{after}" for pattern in patterns for before, name, after in _choices(pattern)]
    assert not [pattern for pattern in expanded if not list(PACKAGE.glob(pattern))]
    there = {file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py") if file.name != "__init__.py"}
    assert not there - {file.relative_to(PACKAGE) for pattern in expanded for file in PACKAGE.glob(pattern)}


def _choices(pattern: str) -> list[tuple[str, str, str]]:
    before, brace, rest = pattern.partition("{")
    inner, _, after = rest.partition("}")
    return [(before, name, after) for name in inner.split(",")] if brace else [(pattern, "", "")]


def test_a_room_stands_on_one_floor():
    floors = [(room(pattern), floor) for floor, patterns in planned().items() for pattern in patterns]
    assert len(set(floors)) == len(FLOORS)
