"""docs/configuration.md says what the code says of every setting."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from otlp_arrow.app.settings import SettingKey, setting_keys

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def default_text(key: SettingKey) -> str:
    value: Any = key.default
    if value is None or value == () or value == {}:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if key.allowed.startswith("bytes"):
        for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
            if value % 1024**power == 0:
                return f"{value // 1024**power} {unit}"
    return str(value)


def row(key: SettingKey) -> str:
    return f"| `{key.path}` | {default_text(key)} | `{key.env}` | {key.allowed} | {key.meaning} |"


def test_every_setting_has_its_row_and_no_row_is_left_over():
    text = PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| `[a-z_.]+` \|.*`OTLP_", line)]
    assert rows == [row(key) for key in setting_keys().values()]


def test_every_name_that_the_page_mentions_exists():
    text = PAGE.read_text(encoding="utf-8")
    known = {key.env for key in setting_keys().values()} | {"OTLP_CONFIG", "OTLP_KERNEL"}
    mentioned = set(re.findall(r"\bOTLP_[A-Z0-9_]*[A-Z0-9]\b", text))
    examples_of_unknown = {"OTLP_ARROW_SERVICE_HOST", "OTLP_WRITE_INTERVALL_SECS"}
    assert mentioned - known <= examples_of_unknown


def test_the_yaml_examples_of_the_page_are_valid(tmp_path: Path):
    from otlp_arrow.app.settings import Settings

    examples = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    secret = tmp_path / "secret"
    secret.write_text("user:secret\n")
    for number, example in enumerate(examples):
        file = tmp_path / f"{number}.yaml"
        file.write_text(re.sub(r"/(run|etc)/\S+", str(secret), example), encoding="utf-8")
        Settings.load(environ={"INGEST_TOKEN": "t", "TENANT": "a"}, config_file=file)
