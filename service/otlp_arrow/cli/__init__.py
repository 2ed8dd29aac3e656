"""Floor 6: the command ``otlp-arrow``."""
