"""Showing the effective settings: as a table, or in one of the three ways in which they can be given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from otlp_arrow.app.settings import LoadedSettings, SettingKey, Settings, setting_keys


def show(config: Path | None, flags: Mapping[str, Any], *, check: bool, output: str) -> None:
    """Prints the settings. Raises ``OtlpConfigError`` if they are not valid."""
    loaded = Settings.load(flags=flags, config_file=config)
    if check:
        # What only opening would find: a certificate that does not fit its key, no door at all.
        from otlp_arrow.app import wiring

        wiring.require_a_door(loaded.settings)
        wiring.build_authenticator(loaded.settings)
        wiring.build_tls(loaded.settings)
        print("the settings are valid" + (f" ({loaded.config_file})" if loaded.config_file else ""))
    elif output == "table":
        _print_table(loaded)
    else:
        print({"yaml": as_yaml, "json": as_json, "env": as_env}[output](loaded), end="")


def shown(key: SettingKey, value: Any) -> Any:
    """A value in JSON's types. Of secrets, only how many there are."""
    if key.secret:
        return f"({len(value)} not shown)" if value else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def as_json(loaded: LoadedSettings) -> str:
    """Value and source of each key."""
    values = {
        path: {"value": shown(key, loaded.value(path)), "source": loaded.origin(path), "env": key.env}
        for path, key in setting_keys().items()
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def as_yaml(loaded: LoadedSettings) -> str:
    """A settings file that says the same; secrets stand in it as comments."""
    lines: list[str] = []
    open_sections: list[str] = []
    for path, key in setting_keys().items():
        *sections, name = path.split(".")
        common = 0
        while common < min(len(sections), len(open_sections)) and sections[common] == open_sections[common]:
            common += 1
        lines += ["  " * depth + f"{sections[depth]}:" for depth in range(common, len(sections))]
        open_sections = sections
        indent = "  " * len(sections)
        value = shown(key, loaded.value(path))
        if key.secret and value is not None:
            lines.append(f"{indent}# {name}: {value}, from {loaded.origin(path)}")
        else:
            value = {} if key.secret and isinstance(key.default, dict) else [] if key.secret else value
            source = "" if loaded.origin(path) == "default" else f"  # {loaded.origin(path)}"
            lines.append(f"{indent}{name}: {json.dumps(value, ensure_ascii=False)}{source}")
    return "\n".join(lines) + "\n"


def as_env(loaded: LoadedSettings) -> str:
    """Variables that say the same; secrets stand as comments, and so does what has no value."""
    lines = []
    for path, key in setting_keys().items():
        value = shown(key, loaded.value(path))
        if key.secret and value is not None:
            lines.append(f"# {key.env}={value}")
        elif value is None or value == []:
            lines.append(f"# {key.env}=")
        else:
            lines.append(f"{key.env}={_plain(value)}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, list) else str(value)


def in_units(size: int) -> str:
    """Bytes in the largest unit that divides them: ``10GiB``."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)


def _print_table(loaded: LoadedSettings) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("setting", "value", "source"):
        table.add_column(column, overflow="fold")
    for path, key in setting_keys().items():
        value = shown(key, loaded.value(path))
        origin = loaded.origin(path)
        text = "" if value is None or value == [] else _plain(value)
        if key.allowed.startswith("bytes"):
            text = in_units(value)
        table.add_row(path, text, origin, style=None if origin != "default" else "dim")
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console.width = 200
    console.print(table)
    for note in loaded.notes:
        console.print(f"note: {note}", style="yellow")
