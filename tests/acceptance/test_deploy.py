"""The image, the compose file, the manifests and the unit say what the settings and the command say."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from otlp_arrow.app.settings import Settings, setting_keys

PROJECT = Path(__file__).resolve().parents[2]
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
MANIFESTS = sorted((PROJECT / "deploy/kubernetes").glob("*.yaml"))
UNIT = PROJECT / "deploy/systemd/otlp-arrow.service"

DEFAULT_PORTS = {
    "otlp-grpc": setting_keys()["protocols.protobuf_port"].default,
    "otlp-http": setting_keys()["protocols.http_port"].default,
    "flight": setting_keys()["protocols.arrow_flight_port"].default,
    "admin": setting_keys()["admin_port"].default,
}
SHUTDOWN_TIMEOUT_S = setting_keys()["shutdown_timeout_secs"].default
USER = 10001
SIZES = {"Mi": 2**20, "Gi": 2**30}


def instructions(name: str) -> list[str]:
    """The arguments of an instruction of the Dockerfile, in order."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(f"{name} ")]


def image_environment() -> dict[str, str]:
    pairs = [pair.split("=", 1) for line in instructions("ENV") for pair in shlex.split(line)]
    return {name: value for name, value in pairs if name.startswith("OTLP_")}


def loaded(environment: dict[str, str]) -> Settings:
    """The settings in this environment; every variable must be one."""
    return Settings.load(environ=environment).settings


def documents(path: Path, kind: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document["kind"] == kind]


def pod_and_collector(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod template of a manifest and, in it, the collector's container."""
    (workload,) = documents(path, "Deployment") + documents(path, "StatefulSet")
    pod = workload["spec"]["template"]["spec"]
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    (collector,) = [container for container in containers if container["image"].startswith("otlp-arrow:")]
    return pod, collector


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container.get("env", [])}


def quantity(text: str) -> int:
    return int(text[:-2]) * SIZES[text[-2:]]


# -- the image ---------------------------------------------------------------------------------------


def test_the_image_exposes_the_default_port_of_every_listener() -> None:
    assert sorted(map(int, instructions("EXPOSE")[0].split())) == sorted(DEFAULT_PORTS.values())


def test_the_image_listens_everywhere_and_writes_to_its_volume_as_nobody_special() -> None:
    settings = loaded(image_environment())

    assert settings.host == "0.0.0.0"
    assert [str(settings.output_dir)] == instructions("VOLUME") == ["/data"]
    assert instructions("USER") == [f"{USER}:{USER}"]


def test_the_image_stops_as_the_collector_expects_and_asks_its_own_command_for_health() -> None:
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert instructions("ENTRYPOINT") == ['["otlp-arrow"]']
    assert instructions("CMD") == ['["serve"]']
    assert instructions("HEALTHCHECK")[0].endswith('CMD ["otlp-arrow", "healthcheck"]')


def test_the_base_image_is_an_argument_of_both_stages_and_the_compiler_stays_in_the_first() -> None:
    first, last = DOCKERFILE.split("FROM ${BASE_IMAGE}\n")

    assert instructions("ARG")[0] == "BASE_IMAGE=python:3.11-slim-bookworm"
    assert instructions("FROM") == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]
    assert "gcc" in first
    assert "apt-get" not in last


def test_everything_the_image_copies_is_there_and_let_through_to_the_build() -> None:
    allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in instructions("COPY") if not line.startswith("--from") for name in line.split()[:-1]}

    assert copied == allowed
    assert all((PROJECT / name).exists() for name in copied)


# -- compose -----------------------------------------------------------------------------------------


def test_compose_publishes_the_open_doors_on_this_machine_only() -> None:
    ports = [port.split(":") for port in COMPOSE["services"]["collector"]["ports"]]

    assert {int(inner) for _, _, inner in ports} == set(DEFAULT_PORTS.values()) - {DEFAULT_PORTS["flight"]}
    assert all(address == "127.0.0.1" and outer == inner for address, outer, inner in ports)


def test_compose_keeps_the_data_and_lets_the_collector_drain() -> None:
    collector = COMPOSE["services"]["collector"]

    assert collector["volumes"] == ["data:/data"]
    assert "data" in COMPOSE["volumes"]
    assert int(collector["stop_grace_period"].removesuffix("s")) > SHUTDOWN_TIMEOUT_S
    loaded(image_environment() | collector["environment"])


def test_the_sender_of_compose_waits_for_health_and_sends_to_the_grpc_door() -> None:
    shop = COMPOSE["services"]["shop"]

    assert shop["depends_on"] == {"collector": {"condition": "service_healthy"}}
    assert shop["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://collector:{DEFAULT_PORTS['otlp-grpc']}"
    assert shop["environment"]["OTEL_EXPORTER_OTLP_PROTOCOL"] == "grpc"
    assert (PROJECT / shop["build"] / "Dockerfile").exists()


# -- Kubernetes --------------------------------------------------------------------------------------


@pytest.fixture(params=MANIFESTS, ids=lambda path: path.stem)
def manifest(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_is_a_gateway_and_a_sidecar() -> None:
    assert [path.stem for path in MANIFESTS] == ["gateway", "sidecar"]


def test_a_manifest_runs_this_version_with_settings_that_exist(manifest: Path) -> None:
    _, collector = pod_and_collector(manifest)
    version = re.search(r'^version = "(.+)"$', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)

    assert version
    assert collector["image"] == f"otlp-arrow:{version[1]}"
    assert instructions("ARG")[1] == f"VERSION={version[1]}"
    loaded(image_environment() | variables(collector))


def test_a_manifest_names_the_ports_that_are_open(manifest: Path) -> None:
    _, collector = pod_and_collector(manifest)
    settings = loaded(image_environment() | variables(collector))
    open_ports = DEFAULT_PORTS | {}
    if not settings.protocols.arrow_flight_enabled:
        del open_ports["flight"]

    assert {port["name"]: port["containerPort"] for port in collector["ports"]} == open_ports


def test_a_manifest_probes_paths_that_the_admin_listener_has(manifest: Path) -> None:
    _, collector = pod_and_collector(manifest)
    probes = {name: probe["httpGet"] for name, probe in collector.items() if name.endswith("Probe")}
    admin = (PROJECT / "service/otlp_arrow/app/admin.py").read_text()

    assert {"startupProbe", "livenessProbe"} <= probes.keys()
    for probe in probes.values():
        assert probe["port"] == "admin"
        assert f'"{probe["path"]}"' in admin
    assert probes["livenessProbe"]["path"] == "/livez"  # a full disk is no reason to be killed


def test_a_manifest_runs_as_the_image_does_and_locks_the_rest(manifest: Path) -> None:
    pod, collector = pod_and_collector(manifest)

    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == USER
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert collector["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in collector["volumeMounts"]] == ["/data"]


def test_a_manifest_gives_time_to_drain_and_memory_for_the_buffer(manifest: Path) -> None:
    pod, collector = pod_and_collector(manifest)
    settings = loaded(image_environment() | variables(collector))

    assert pod["terminationGracePeriodSeconds"] == 60 > settings.shutdown_timeout_secs
    assert quantity(collector["resources"]["limits"]["memory"]) >= 3 * settings.max_buffer_bytes


def test_a_manifest_bounds_the_files_well_below_the_volume(manifest: Path) -> None:
    pod, collector = pod_and_collector(manifest)
    (workload,) = documents(manifest, "Deployment") + documents(manifest, "StatefulSet")
    sizes = [
        claim["spec"]["resources"]["requests"]["storage"] for claim in workload["spec"].get("volumeClaimTemplates", [])
    ]
    sizes += [volume["emptyDir"]["sizeLimit"] for volume in pod.get("volumes", [])]

    (size,) = sizes
    assert loaded(variables(collector)).max_disk_bytes <= 0.8 * quantity(size)


def test_the_services_of_the_gateway_lead_to_its_ports() -> None:
    gateway = PROJECT / "deploy/kubernetes/gateway.yaml"
    _, collector = pod_and_collector(gateway)
    open_ports = {port["name"]: port["containerPort"] for port in collector["ports"]}
    (stateful,) = documents(gateway, "StatefulSet")
    services = {service["metadata"]["name"]: service["spec"] for service in documents(gateway, "Service")}

    assert stateful["spec"]["serviceName"] in services
    assert {port["targetPort"]: port["port"] for port in services["otlp-arrow"]["ports"]} == open_ports
    for service in services.values():
        assert service["selector"] == stateful["spec"]["template"]["metadata"]["labels"]


# -- systemd -----------------------------------------------------------------------------------------


def unit() -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False, delimiters="=")
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(UNIT)
    return parser["Service"]


def test_the_unit_serves_from_its_state_directory_as_its_own_user() -> None:
    service = unit()
    name, value = service["Environment"].split("=", 1)

    assert service["ExecStart"].endswith("/bin/otlp-arrow serve")
    assert str(loaded({name: value}).output_dir) == f"/var/lib/{service['StateDirectory']}"
    assert service["User"] == service["Group"] == "otlp-arrow"
    assert float(service["TimeoutStopSec"]) > SHUTDOWN_TIMEOUT_S


def test_every_line_of_the_units_settings_file_is_a_setting() -> None:
    lines = (UNIT.with_suffix(".env")).read_text().splitlines()
    named = {match[1] for line in lines if (match := re.match(r"#?(OTLP_\w+)=", line))}

    assert len(named) > 5
    assert named <= {key.env for key in setting_keys().values()}
