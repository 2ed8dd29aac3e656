"""What the package offers exists, says what it is, and costs nothing that is not asked for."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import otlp_arrow

PACKAGE = Path(__file__).resolve().parents[2] / "service" / "otlp_arrow"
PACKAGES = sorted(path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py"))


@pytest.mark.parametrize("folder", PACKAGES)
def test_every_name_that_a_package_offers_exists_and_is_documented(folder: str):
    name = "otlp_arrow" if folder == "." else f"otlp_arrow.{folder.replace('/', '.')}"
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        if isinstance(value, type) or callable(value):
            assert value.__doc__, f"{name}.{public}"


def test_the_package_knows_its_version():
    assert otlp_arrow.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = otlp_arrow.no_such_name


def test_a_source_tree_that_was_never_installed_has_no_version(monkeypatch: pytest.MonkeyPatch):
    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    assert otlp_arrow.__version__ == "0+unknown"


def test_importing_the_package_imports_nothing_heavy():
    code = "import otlp_arrow, sys; print([m for m in ('pyarrow', 'grpc', 'pydantic', 'aiohttp') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
