"""Floor 4: the doors for telemetry. Transport only: bytes, limits, credentials, replies."""

from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.intake import Intake, Ticket
from otlp_arrow.receivers.otlp_grpc_aio import AioOtlpGrpcServer
from otlp_arrow.receivers.otlp_http import OtlpHttpServer
from otlp_arrow.receivers.tls import ServerTls

try:
    from otlp_arrow.receivers.otlp_grpc import OtlpGrpcServer
except ImportError:  # pragma: no cover - no compiler was there when it was installed
    COMPILED_GRPC = False
    OtlpGrpcServer = AioOtlpGrpcServer  # type: ignore[misc,assignment]
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
