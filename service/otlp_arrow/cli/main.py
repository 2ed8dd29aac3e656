"""The entry point of ``otlp-arrow``.

Exit codes: 0 done; 1 it did not work, a line on stderr says why; 2 a flag or setting is wrong.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> None:
    """Runs the command that ``sys.argv`` asks for."""
    if sys.argv[1:] == ["healthcheck"]:
        # What a container asks every few seconds: 30 ms of CPU without the imports of the command line, 250 with.
        from otlp_arrow.cli.healthcheck import healthcheck

        sys.exit(healthcheck())
    # gRPC's libraries print past every log and its format; what went wrong comes back as an error too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from otlp_arrow.cli.commands import app

    try:
        app()
    except Exception as error:
        _explain(error)


def _explain(error: Exception) -> NoReturn:
    """One line for an error that was raised on purpose; a traceback only for a mistake of ours."""
    import typer

    from otlp_arrow.model.errors import OtlpConfigError, OtlpError

    if not isinstance(error, OtlpError):
        raise error
    typer.secho(f"otlp-arrow: {error}", fg="red", err=True)
    sys.exit(2 if isinstance(error, OtlpConfigError) else 1)
