"""Floor 4: the doors for telemetry. Transport only: bytes, limits, credentials, replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.intake import Intake, Ticket
from otlp_arrow.receivers.otlp_http import OtlpHttpServer
from otlp_arrow.receivers.tls import ServerTls

if TYPE_CHECKING:
    from otlp_arrow.receivers.otlp_grpc_aio import AioOtlpGrpcServer

try:
    from otlp_arrow.receivers.otlp_grpc import OtlpGrpcServer
except ImportError:  # pragma: no cover - no compiler was there when it was installed
    from otlp_arrow.receivers.otlp_grpc_aio import AioOtlpGrpcServer as OtlpGrpcServer  # type: ignore[assignment]

    COMPILED_GRPC = False
else:
    COMPILED_GRPC = True

__all__ = [
    "COMPILED_GRPC",
    "AioOtlpGrpcServer",
    "Authenticator",
    "Intake",
    "OtlpGrpcServer",
    "OtlpHttpServer",
    "ServerTls",
    "Ticket",
]


def __getattr__(name: str) -> Any:
    """``AioOtlpGrpcServer`` when it is asked for: gRPC's own library takes 10 MB."""
    if name == "AioOtlpGrpcServer":
        from otlp_arrow.receivers.otlp_grpc_aio import AioOtlpGrpcServer

        return AioOtlpGrpcServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
