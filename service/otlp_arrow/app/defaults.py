"""The few defaults that ``otlp-arrow healthcheck`` needs too: it starts every few seconds in a container,
and importing the settings tree for three words would make it several times as expensive."""

from __future__ import annotations

CONFIG_VARIABLE = "OTLP_CONFIG"
CONFIG_FILE = "/etc/otlp-arrow/config.yaml"
"""Read if it exists and neither ``--config`` nor ``OTLP_CONFIG`` names another."""

OTHER_VARIABLES = (CONFIG_VARIABLE, "OTLP_KERNEL")
"""Variables of ours that are no settings; the second chooses the decoder (``otlp_arrow.codec``)."""

HOST = "localhost"
"""Not 0.0.0.0: telemetry holds what nobody wants on the open network; the image sets 0.0.0.0 (CWE-1327)."""

ADMIN_PORT = 13133
"""Where OpenTelemetry Collectors answer health checks."""
