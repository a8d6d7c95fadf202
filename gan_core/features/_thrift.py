"""Thrift's compact protocol, as far as Parquet's page headers and footers need it: parse, change,
write back.

A struct is {field id: (type, value)}, a list is (element type, [values]), integers are int, binary
is bytes, bools are bool. Specification: apache/thrift doc/specs/thrift-compact-protocol.md; the
structs: apache/parquet-format parquet.thrift.
"""

from __future__ import annotations

from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
Struct = dict[int, tuple[int, Any]]


def varint(number: int) -> bytes:
    """An unsigned integer, 7 bits a byte, low bits first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _zigzag(number: int) -> bytes:
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


def write_struct(struct: Struct) -> bytes:
    """A struct as bytes, its stop byte included."""
    out, last = bytearray(), 0
    for identity in sorted(struct):
        kind, value = struct[identity]
        if kind in (TRUE, FALSE):
            kind = TRUE if value else FALSE
        step = identity - last
        out += bytes([step << 4 | kind]) if 0 < step <= 15 else bytes([kind]) + _zigzag(identity)
        if kind not in (TRUE, FALSE):
            out += _write_value(kind, value)
        last = identity
    return bytes(out) + b"\0"


def _write_value(kind: int, value: Any) -> bytes:
    if kind in (I16, I32, I64):
        return _zigzag(value)
    if kind == BINARY:
        return varint(len(value)) + bytes(value)
    if kind == STRUCT:
        return write_struct(value)
    if kind == LIST:
        element, values = value
        head = (
            bytes([len(values) << 4 | element])
            if len(values) < 15
            else bytes([0xF0 | element]) + varint(len(values))
        )
        return head + b"".join(_write_value(element, one) for one in values)
    if kind in (TRUE, FALSE):
        return bytes([TRUE if value else FALSE])
    if kind in (BYTE, DOUBLE):
        return bytes(value)
    raise ValueError(f"Thrift type {kind} does not occur in Parquet's metadata")


class Reader:
    """Parses values from bytes; `place` is where the next one begins."""

    def __init__(self, data: bytes | memoryview, place: int = 0) -> None:
        self.data, self.place = data, place

    def varint(self) -> int:
        """An unsigned integer."""
        number = shift = 0
        while True:
            byte = self.data[self.place]
            self.place += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7

    def _integer(self) -> int:
        number = self.varint()
        return number >> 1 ^ -(number & 1)

    def _bytes(self, count: int) -> bytes:
        if self.place + count > len(self.data):
            raise ValueError("a Thrift value goes beyond the end")
        self.place += count
        return bytes(self.data[self.place - count : self.place])

    def struct(self) -> Struct:
        """A struct up to its stop byte."""
        found: Struct = {}
        last = 0
        while head := self._bytes(1)[0]:
            kind = head & 0x0F
            last = last + (head >> 4) if head >> 4 else self._integer()
            found[last] = (kind, kind == TRUE if kind in (TRUE, FALSE) else self._value(kind))
        return found

    def _value(self, kind: int) -> Any:
        if kind in (I16, I32, I64):
            return self._integer()
        if kind == BINARY:
            return self._bytes(self.varint())
        if kind == STRUCT:
            return self.struct()
        if kind in (LIST, SET):
            head = self._bytes(1)[0]
            count = head >> 4 if head >> 4 < 15 else self.varint()
            return head & 0x0F, [self._value(head & 0x0F) for _ in range(count)]
        if kind in (TRUE, FALSE):
            return self._bytes(1)[0] == TRUE
        if kind in (BYTE, DOUBLE):
            return self._bytes(1 if kind == BYTE else 8)
        raise ValueError(f"Thrift type {kind} does not occur in Parquet's metadata")
