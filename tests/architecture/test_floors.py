"""Imports point down, and neighbours on a floor do not know each other (DESIGN, folders)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "service" / "otlp_arrow"

FLOORS = [
    {"model"},
    {"codec"},
    {"storage"},
    {"pipeline", "sinks", "query"},
    {"receivers", "web"},
    {"app"},
    {"sdk"},  # wraps the embedded library of app (docs/decisions/0008)
    {"cli", "testing"},
]
FLOOR = {folder: number for number, floor in enumerate(FLOORS) for folder in floor}

MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, with the line; ``from a import b`` counts as ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def folder_of(module: str) -> str | None:
    """``storage`` for ``otlp_arrow.storage.wal``; None for what is not ours or lies at the top."""
    package, _, rest = module.partition(".")
    folder = rest.partition(".")[0]
    return folder if package == "otlp_arrow" and folder in FLOOR else None


def test_every_folder_has_a_floor():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert folders <= set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_floors_below_and_from_its_own_folder(path: Path):
    own = path.relative_to(PACKAGE).parts[0]
    for module, line in imports(path):
        folder = folder_of(module)
        if own not in FLOOR or folder is None or folder == own:
            continue
        assert FLOOR[folder] < FLOOR[own], f"{path.relative_to(PACKAGE)}:{line} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_what_is_heavy_or_of_the_world_is_imported_only_where_it_belongs(path: Path):
    own = path.relative_to(PACKAGE).parts[0]
    allowed = {
        "aiohttp": {"receivers", "web", "app", "sinks", "testing"},
        "grpc": {"receivers", "sinks", "testing", "sdk"},
        "pydantic": {"app"},
        "pydantic_settings": {"app"},
        "prometheus_client": {"app"},
        "typer": {"cli"},
        "rich": {"cli", "query"},
        "duckdb": {"query"},
        "opentelemetry.sdk": {"sdk", "testing", "app", "receivers"},  # the last two for type checkers, or when called
    }
    for module, line in imports(path):
        for library, folders in allowed.items():
            if module == library or module.startswith(f"{library}."):
                assert own in folders, f"{path.relative_to(PACKAGE)}:{line} imports {module}"


def test_every_module_says_what_it_is():
    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        assert not source.strip() or ast.get_docstring(ast.parse(source)), path.relative_to(PACKAGE)
