"""What all rows of a scope share, the resource and scope columns, and the way back: regrouping rows.

OTLP sends a resource and a scope once, around their records; here each row holds them whole. On the
way back rows with an equal resource and scope come together again, in the order first seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otlp_arrow.codec.schema import STR
from otlp_arrow.codec.values import Attributes, from_attributes, to_attributes

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1 import common_pb2
    from opentelemetry.proto.resource.v1 import resource_pb2
else:
    from otlp_arrow.model.lazy import LazyModule

    common_pb2 = LazyModule("opentelemetry.proto.common.v1.common_pb2")
    resource_pb2 = LazyModule("opentelemetry.proto.resource.v1.resource_pb2")

Row = dict[str, Any]
"""One row: a value for each column (see ``columns`` for what the values look like)."""

SERVICE_NAME = "service.name"


@dataclass(frozen=True, slots=True)
class Shared:
    """The columns that several records have in common, and the bytes that repeating them costs."""

    columns: Row
    repeated_bytes: int

    def plus(self, columns: Row, repeated_bytes: int) -> Shared:
        """These and further ones."""
        return Shared(self.columns | columns, self.repeated_bytes + repeated_bytes)


def origin(resource_group: Any, scope_group: Any) -> Shared:
    """The origin columns of the records in ``scope_group`` (a ``ScopeSpans``, …Metrics, …Logs)."""
    resource, scope = resource_group.resource, scope_group.scope
    attributes = to_attributes(resource.attributes)
    columns = {
        "service_name": _service_name(attributes),
        "resource_attributes": attributes,
        "resource_dropped_attributes_count": resource.dropped_attributes_count,
        "resource_schema_url": resource_group.schema_url,
        "resource_entity_refs": [
            (ref.schema_url, ref.type, list(ref.id_keys), list(ref.description_keys)) for ref in resource.entity_refs
        ],
        "scope_name": scope.name,
        "scope_version": scope.version,
        "scope_attributes": to_attributes(scope.attributes),
        "scope_dropped_attributes_count": scope.dropped_attributes_count,
        "scope_schema_url": scope_group.schema_url,
    }
    return Shared(columns, resource.ByteSize() + scope.ByteSize())


def _service_name(attributes: Attributes) -> str | None:
    for key, (type_, text, *_) in attributes:
        if key == SERVICE_NAME and type_ == STR:
            return text
    return None


class Regrouping:
    """The resource and scope groups of a request under construction."""

    def __init__(self, request: Any) -> None:
        # All three requests have one field: resource_spans, resource_metrics or resource_logs.
        (resource_field,) = request.DESCRIPTOR.fields
        self._resource_groups = getattr(request, resource_field.name)
        self._scope_field = resource_field.name.replace("resource_", "scope_")
        # Keys are encoded messages: NaN equals itself there, 0.0 and -0.0 differ.
        self._resources: dict[tuple[bytes, str], Any] = {}
        self._scopes: dict[tuple[bytes, str, bytes, str], Any] = {}

    def scope_group(self, row: Row) -> Any:
        """The group that ``row`` belongs to, made if this is its first row."""
        resource, scope = _resource(row), _scope(row)
        resource_key = (resource.SerializeToString(), row["resource_schema_url"])
        scope_key = (*resource_key, scope.SerializeToString(), row["scope_schema_url"])
        if scope_key not in self._scopes:
            if resource_key not in self._resources:
                self._resources[resource_key] = self._resource_groups.add(
                    resource=resource, schema_url=row["resource_schema_url"]
                )
            groups = getattr(self._resources[resource_key], self._scope_field)
            self._scopes[scope_key] = groups.add(scope=scope, schema_url=row["scope_schema_url"])
        return self._scopes[scope_key]


def _resource(row: Row) -> resource_pb2.Resource:
    return resource_pb2.Resource(
        attributes=from_attributes(row["resource_attributes"]),
        dropped_attributes_count=row["resource_dropped_attributes_count"],
        entity_refs=[
            common_pb2.EntityRef(schema_url=url, type=type_, id_keys=id_keys, description_keys=description_keys)
            for url, type_, id_keys, description_keys in row["resource_entity_refs"]
        ],
    )


def _scope(row: Row) -> common_pb2.InstrumentationScope:
    return common_pb2.InstrumentationScope(
        name=row["scope_name"],
        version=row["scope_version"],
        attributes=from_attributes(row["scope_attributes"]),
        dropped_attributes_count=row["scope_dropped_attributes_count"],
    )
