"""Reads protobuf messages that may be damaged: what does not fit is an error, not a missing field.

Protobuf itself takes a known field of the wrong wire type for an unknown one and passes it over,
so that a damaged record could seem to lack what it has.
"""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from bkctl.errors import CorruptionError

_Message = TypeVar("_Message", bound=Message)


def parse(kind: type[_Message], data: bytes) -> _Message:
    """Read a message of `kind`; unknown fields, a newer TiKV's, are skipped.

    Raises CorruptionError for bytes that are no message, or a field of the wrong wire type.
    """
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise CorruptionError(
            f"it is cut short or garbled, no {kind.DESCRIPTOR.name} can be read of it"
        ) from None
    _check_fields(message)
    return message


def has_unknown_fields(message: Message) -> bool:
    """Whether a message has, at its top, fields that its kind does not know."""
    return bool(len(UnknownFieldSet(message)))


def _check_fields(message: Message) -> None:
    """Raise CorruptionError for a known field that was passed over, here or in what is inside."""
    fields: Any = message.DESCRIPTOR.fields_by_number
    unknown: Any = UnknownFieldSet(message)
    for passed_over in unknown:
        known: FieldDescriptor | None = fields.get(passed_over.field_number)
        if known is not None:
            is_number = known.cpp_type not in (
                FieldDescriptor.CPPTYPE_STRING,
                FieldDescriptor.CPPTYPE_MESSAGE,
            )
            what = "is no number" if is_number else "is a number"
            raise CorruptionError(f"{message.DESCRIPTOR.name.lower()} {known.name} {what}")
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if field.is_repeated else (value,):
            _check_fields(inner)
