"""Where settings come from: explicit values, the environment, a YAML file; each value with its origin.

Knows names, not meanings: the tree in ``otlp_arrow.app.settings`` says what a value may be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from otlp_arrow.app import defaults
from otlp_arrow.app.otel_variables import read_variables, without_idle_tls
from otlp_arrow.model.errors import OtlpConfigError

Explicit = Mapping[str, Any]
Environ = Mapping[str, str]
PREFIX = "OTLP_"


class Key(Protocol):
    """What is needed of a key: its path, its variable, whether its value may be shown."""

    @property
    def path(self) -> str: ...
    @property
    def env(self) -> str: ...
    @property
    def secret(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Found:
    """A value as it was written, and where."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Layers:
    """The values that somebody set, the strongest of each key."""

    values: Mapping[str, Found]
    config_file: Path | None = None
    notes: tuple[str, ...] = field(default=())

    def origin(self, path: str) -> str:
        """Where the value of a key was set; ``default`` if nowhere."""
        found = self.values.get(path)
        return found.origin if found else "default"

    def tree(self) -> dict[str, Any]:
        """The values nested by section."""
        tree: dict[str, Any] = {}
        for path, found in self.values.items():
            *sections, name = path.split(".")
            branch = tree
            for section in sections:
                branch = branch.setdefault(section, {})
            branch[name] = found.value
        return tree


def gather(
    keys: Mapping[str, Key],
    explicit: Mapping[str, Found],
    environ: Environ | None = None,
    config_file: Path | str | None = None,
) -> Layers:
    """Reads every layer and puts the stronger over the weaker. Raises ``OtlpConfigError`` for a name
    that is no setting, and for a file that cannot be read."""
    environ = os.environ if environ is None else environ
    _refuse_unknown(keys, explicit)
    from_environment, notes = read_environment(keys, environ)
    path = _find_file(config_file, environ)
    from_file = read_file(keys, path, environ) if path else {}
    ours = {**from_file, **from_environment, **explicit}
    return Layers({**_of_exporters(environ, ours), **ours}, path, tuple(notes))


def _of_exporters(environ: Environ, ours: Mapping[str, Found]) -> dict[str, Found]:
    """What OpenTelemetry's own variables say about the way out, if there is one and nothing of ours says where to."""
    enabled = ours.get("forwarding.enabled")
    if enabled is None or str(enabled.value).strip().lower() not in ("true", "1", "yes", "on", "t", "y"):
        return {}
    variables = read_variables(environ)
    if "forwarding.endpoint_url" in ours or "forwarding.destinations" in ours:
        for path in ("endpoint_url", "destinations", "signals"):
            variables.pop(path, None)
        url = ours.get("forwarding.endpoint_url")
        variables = without_idle_tls(variables, str(url.value) if url else "http://")
    return {f"forwarding.{path}": Found(value, variable) for path, (variable, value) in variables.items()}


# -- explicit ------------------------------------------------------------------------------------------
def flatten(values: Explicit, origin: str, prefix: str = "") -> dict[str, Found]:
    """Nested values, or values by dotted path, as values by path; ``None`` means not set."""
    flat: dict[str, Found] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, BaseModel):  # only what was given when it was made: the rest may come from below
            value = {name: getattr(value, name) for name in value.model_fields_set}
        if isinstance(value, Mapping) and path not in _MAPPINGS:
            flat.update(flatten(value, origin, f"{path}."))
        elif value is not None:
            flat[path] = Found(value, origin)
    return flat


_MAPPINGS = ("auth.basic", "forwarding.authentication.credentials", "forwarding.headers")
"""Keys whose value is itself a mapping."""


# -- environment ---------------------------------------------------------------------------------------
_AUTH_PREFIX = "OTLP_AUTH_"
_SERVICE_LINK = re.compile(r"OTLP_\w*?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")


def read_environment(keys: Mapping[str, Key], environ: Environ) -> tuple[dict[str, Found], list[str]]:
    """The values of the ``OTLP_`` variables, and notes on those passed over. Empty ones count as not set,
    as compose files leave them; but an empty credential stops the start, or it would open the doors."""
    by_variable = {key.env: key for key in keys.values()}
    found: dict[str, Found] = {}
    notes: list[str] = []
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        value = environ[variable]
        if variable in defaults.OTHER_VARIABLES:
            continue
        if not value:
            if variable.startswith(_AUTH_PREFIX):
                raise OtlpConfigError(variable, value, "a value; unset the variable to let everybody send")
            continue
        if _is_service_link(variable, value):
            notes.append(f"{variable}={value} is a Kubernetes service link, not a setting")
        elif variable in by_variable:
            found[by_variable[variable].path] = Found(value, variable)
        else:
            raise OtlpConfigError(variable, shown(variable, value), _nearest(variable, by_variable))
    return found, notes


def _is_service_link(variable: str, value: str) -> bool:
    """Kubernetes describes every service in the environment of every pod: one that is called ``otlp-http``
    would set OTLP_HTTP_PORT=tcp://10.0.0.7:4318, and one called ``otlp-arrow`` a dozen unknown names."""
    return bool(_SERVICE_LINK.fullmatch(variable)) or (variable.endswith("_PORT") and "://" in value)


# -- file ----------------------------------------------------------------------------------------------
def _find_file(config_file: Path | str | None, environ: Environ) -> Path | None:
    named = config_file or environ.get(defaults.CONFIG_VARIABLE)
    if named:
        return Path(named).expanduser()
    usual = Path(defaults.CONFIG_FILE)
    return usual if usual.is_file() else None


def read_file(keys: Mapping[str, Key], path: Path, environ: Environ) -> dict[str, Found]:
    """The values of a YAML file, ``${env:NAME}`` filled in."""
    from otlp_arrow.app import strict_yaml  # a megabyte, for those who have a file

    try:
        tree = strict_yaml.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OtlpConfigError("config", str(path), f"a readable YAML file: {error.strerror}") from None
    except (strict_yaml.YAMLError, UnicodeDecodeError) as error:
        raise OtlpConfigError("config", str(path), f"a YAML file: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise OtlpConfigError("config", str(path), "a YAML file whose top level is a mapping of keys")
    flat = flatten(_string_keys(tree), str(path))
    _refuse_unknown(keys, flat)
    return {name: Found(_substitute(name, found.value, environ), found.origin) for name, found in flat.items()}


def _string_keys(tree: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(k): _string_keys(v) if isinstance(v, dict) else v for k, v in tree.items()}


_REFERENCE = re.compile(r"\$\$|\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def _substitute(path: str, value: Any, environ: Environ) -> Any:
    """``${env:NAME}`` and ``${env:NAME:-default}`` as OpenTelemetry Collectors write it; ``$$`` is a ``$``."""
    if isinstance(value, list):
        return [_substitute(path, item, environ) for item in value]
    if isinstance(value, dict):
        return {name: _substitute(path, item, environ) for name, item in value.items()}
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        text = environ.get(match[1]) or match[2]
        if text is None:
            raise OtlpConfigError(path, match[0], f"a variable that is set: {match[1]} is empty or missing")
        return text

    return _REFERENCE.sub(replace, value)


# -- unknown names -------------------------------------------------------------------------------------
def _refuse_unknown(keys: Mapping[str, Key], flat: Mapping[str, Found]) -> None:
    sections = {path.rpartition(".")[0] for path in keys}
    for path, found in flat.items():
        if path in keys:
            continue
        origin = f" (in {found.origin})" if found.origin not in ("argument", "flag") else ""
        if path in sections:
            raise OtlpConfigError(path, shown(path, found.value), f"a mapping of keys{origin}")
        raise OtlpConfigError(path, shown(path, found.value), _nearest(path, keys) + origin)


def _nearest(name: str, known: Iterable[str]) -> str:
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name, names, n=1) or [k for k in names if k.rpartition(".")[2] == name][:1]
    if close:
        return f"a known name; did you mean {close[0]}?"
    return "a known name; `otlp-arrow config` lists them"


def shown(name: str, value: object) -> object:
    """The value for an error message, unless its name says that it may be a secret: a misspelt
    OTLP_AUTH_BEARER_TOKEN must not end up in a log."""
    hidden = re.search(r"auth|token|key|password|credential|secret", name, re.IGNORECASE)
    return "**********" if hidden else value
