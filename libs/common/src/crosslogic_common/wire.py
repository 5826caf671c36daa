"""Protobuf's wire format, as far as the hot path writes it by hand.

A repeated message field is the concatenation of its tagged, length-prefixed parts. Joining parts that are serialised
already saves the outer message's copies, which cost more than the parts themselves when bodies are large.
"""


def varint(value: int) -> bytes:
    """`value` (0 or more) as a base-128 varint."""
    if value < 0x80:  # noqa: PLR2004  # seven bits a byte
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:  # noqa: PLR2004
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def repeated_messages(serialised: list[bytes], field: int = 1) -> bytes:
    """A message whose field number `field` (1 to 15) repeats the messages `serialised`, and which has no other."""
    tag = bytes((field << 3 | 2,))
    parts: list[bytes] = []
    for part in serialised:
        parts += (tag, varint(len(part)), part)
    return b"".join(parts)


def numbered_message(number: int, serialised: bytes) -> bytes:
    """A message of a number (field 1) and the message `serialised` (field 2)."""
    return b"".join((b"\x08", varint(number), b"\x12", varint(len(serialised)), serialised))


def repeated_calls(calls: list[tuple[int, bytes]]) -> bytes:
    """The `*StreamRequest` of a batched stream: field 1 repeats calls of `id` (field 1) and a message (field 2)."""
    parts: list[bytes] = []
    for call_id, serialised in calls:
        head = b"".join((b"\x08", varint(call_id), b"\x12", varint(len(serialised))))
        parts += (b"\x0a", varint(len(head) + len(serialised)), head, serialised)
    return b"".join(parts)
