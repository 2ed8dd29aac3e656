"""Floor 4: the doors for telemetry. Transport only: bytes, limits, credentials, replies."""

from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.intake import Intake, Ticket
from otlp_arrow.receivers.otlp_grpc import OtlpGrpcServer
from otlp_arrow.receivers.otlp_http import OtlpHttpServer
from otlp_arrow.receivers.tls import ServerTls

__all__ = ["Authenticator", "Intake", "OtlpGrpcServer", "OtlpHttpServer", "ServerTls", "Ticket"]
