"""The messages of Flight are those that ``pyarrow.flight`` writes and reads."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from otlp_arrow.model import Rejected
from otlp_arrow.receivers import flight_wire as wire

SCHEMA = pa.schema([pa.field("a", pa.int8())])


def test_descriptors_are_read_as_they_were_meant():
    path = flight.FlightDescriptor.for_path("traces", "x")
    assert wire.read_descriptor(path.serialize()) == wire.Descriptor(("traces", "x"))
    command = flight.FlightDescriptor.for_command(b"{}")
    assert wire.read_descriptor(command.serialize()) == wire.Descriptor((), b"{}")


def test_tickets_and_actions_are_read():
    assert wire.read_ticket(flight.Ticket(b"\x00ticket").serialize()) == b"\x00ticket"
    assert wire.read_action(flight.Action("flush", b"body").serialize()) == ("flush", b"body")
    assert wire.read_action(flight.Action("flush", b"").serialize()) == ("flush", b"")


def test_data_is_read_as_it_was_written_and_its_body_is_not_copied():
    message = wire.data(b"header", memoryview(b"body"), b"metadata")
    data = wire.read_data(message + wire._field(1, b"descriptor"))
    assert (data.header, bytes(data.body), data.descriptor) == (b"header", b"body", b"descriptor")
    assert data.body.obj is not None
    assert wire.read_data(b"").header == b""
    assert wire.read_data(message).body_at == len(message) - len(b"body")


@pytest.mark.parametrize(("rows", "nbytes"), [(0, 0), (7, 2**40), (-1, -1)])
def test_a_flight_info_is_read_by_a_client(rows: int, nbytes: int):
    schema = SCHEMA.serialize().to_pybytes()
    info = flight.FlightInfo.deserialize(wire.info(schema, wire.path_descriptor("traces"), b"ticket", rows, nbytes))
    assert info.schema == SCHEMA
    assert info.descriptor == flight.FlightDescriptor.for_path("traces")
    assert (info.total_records, info.total_bytes) == (rows, nbytes)
    (endpoint,) = info.endpoints
    assert endpoint.ticket == flight.Ticket(b"ticket")
    assert endpoint.locations == []


def test_results_are_read_by_a_client():
    assert flight.Result.deserialize(wire.result(b"body")).body.to_pybytes() == b"body"
    assert flight.SchemaResult.deserialize(wire.schema_result(SCHEMA.serialize().to_pybytes())).schema == SCHEMA
    assert wire.put_result(b"x") == b"\x0a\x01x"
    assert wire.action_type("a", "b") == b"\x0a\x01a\x12\x01b"


def test_fields_of_later_versions_are_passed_over():
    later = wire._number(9, 300) + b"\x51" + bytes(8) + b"\x5d" + bytes(4) + wire._field(12, b"x")
    assert wire.read_ticket(later + wire._field(1, b"ticket")) == b"ticket"


@pytest.mark.parametrize("message", [b"\x0a\x05ab", b"\x0a", b"\xff" * 11, b"\x0b", b"\x0c"])
def test_what_is_no_message_is_refused(message: bytes):
    with pytest.raises(Rejected):
        wire.read_ticket(message)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(message: bytes):
    for read in (wire.read_data, wire.plain_flight_data, wire.read_descriptor, wire.read_ticket, wire.read_action):
        try:
            read(message)
        except Rejected:
            pass


FIELDS = st.one_of(
    st.builds(wire._number, st.sampled_from([1, 2, 9, 1000]), st.integers(0, 2**64 - 1)),
    st.builds(wire._field, st.sampled_from([1, 2, 3, 12, 1000]), st.binary(max_size=9)),
    st.sampled_from([b"\x51" + bytes(8), b"\x5d" + bytes(4), b"\x0d" + bytes(4), b"\x11" + bytes(8)]),
)


@settings(max_examples=300)
@example([b"\x12\x81" + b"\x80" * 8 + b"\x7e" + b"x"], 0, None)  # a length of more than 64 bits
@example([b"\x0d" + bytes(4)], 0, None)  # a descriptor that is a fixed32
@given(
    st.lists(FIELDS, max_size=6),
    st.integers(0, 60),
    st.one_of(st.none(), st.tuples(st.integers(0, 60), st.integers(0, 255))),
)
def test_data_is_read_alike_by_the_compiled_reader_and_the_plain_one(
    written: list[bytes], end: int, damage: tuple[int, int] | None
):
    message = bytearray(b"".join(written)[: end or None])
    if damage and damage[0] < len(message):
        message[damage[0]] = damage[1]
    try:
        header, body, descriptor = wire.plain_flight_data(bytes(message))
    except Rejected:
        with pytest.raises(Rejected):
            wire.read_data(bytes(message))
        return
    data = wire.read_data(memoryview(message).toreadonly())
    assert (data.header, bytes(data.body), data.descriptor) == (header, bytes(body), descriptor)
