"""Floor 5: settings, wiring, run, health and telemetry; the only floor that knows every part."""
