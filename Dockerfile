# The collector in a container. Two stages from one base, so that no compiler reaches the image that runs.
#
#   docker build -t otlp-arrow .
#   docker run -p 4317:4317 -p 4318:4318 -p 13133:13133 -v otlp-data:/data otlp-arrow

ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY service service
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
# The environment is copied whole, so it stands where it will stand in the image.
RUN python -m venv --without-pip /opt/otlp-arrow \
 && python -m pip --python /opt/otlp-arrow install --no-cache-dir /wheels/*.whl \
# An install without the kernel succeeds, and runs at a thirtieth of the speed: not in this image.
 && /opt/otlp-arrow/bin/python -c "import otlp_arrow.codec._kernel"

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="otlp-arrow" \
      org.opencontainers.image.description="A collector for OpenTelemetry that keeps what it acknowledges: OTLP in, Arrow files out" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 otlp-arrow \
 && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin otlp-arrow \
 && install --directory --owner 10001 --group 10001 /data
COPY --from=build /opt/otlp-arrow /opt/otlp-arrow
ENV PATH=/opt/otlp-arrow/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OTLP_HOST=0.0.0.0 \
    OTLP_OUTPUT_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
# OTLP/gRPC, OTLP/HTTP, Arrow Flight, health and metrics
EXPOSE 4317 4318 4319 13133
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["otlp-arrow", "healthcheck"]
ENTRYPOINT ["otlp-arrow"]
CMD ["serve"]
