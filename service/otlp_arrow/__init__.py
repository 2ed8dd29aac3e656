"""otlp-arrow: a collector for OpenTelemetry that keeps what it acknowledges as Arrow files."""

__version__: str


def __getattr__(name: str) -> str:
    """``__version__`` is looked up when asked for: the look-up takes longer than ``healthcheck`` as a whole."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("otlp-arrow")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
