"""Tokens of the simulated engine: an invertible tokenizer, and the next token as a function of all ids before it.

| ids | meaning |
|---|---|
| 0, 1, 2 | start, end of text, padding |
| 3 to 258 | one byte |
| 300 to 1323 | a word with a space before it: all that is ever generated |
| 65536 to 0xF4FFFFFF | four bytes of text, little-endian: what prompts consist of |

No four bytes of UTF-8 exceed the last of these, and four bytes below the first are written as single bytes.
"""

import sys
from array import array
from collections.abc import Sequence
from itertools import product

BOS = 0
EOS = 1
FIRST_BYTE = 3
FIRST_WORD = 300
FIRST_QUAD = 1 << 16
LAST_ID = 0xF4FFFFFF

_CONSONANTS = "bdfgklmnprstvzhj"
_VOWELS = "aeiou"
_SYLLABLES = [a + b for a, b in product(_CONSONANTS, _VOWELS)]
WORD_TEXTS = tuple(f" {a}{b}" for a, b in product(_SYLLABLES[:32], _SYLLABLES[40:72]))
WORDS = len(WORD_TEXTS)

# The state after some ids is those ids read as one long base-2^32 number, modulo this prime. So a whole prompt is
# reduced in one C call, and one more id costs one multiplication: resuming gives the same state as never stopping.
_PRIME = (1 << 64) - 59
_MASK = (1 << 64) - 1
_MIX = 0x9E3779B97F4A7C15
_LITTLE_ENDIAN = sys.byteorder == "little"


def encode(text: str) -> list[int]:
    """The ids of a text, without a start token. `decode(encode(text)) == text` for every text without surrogates."""
    data = text.encode("utf-8")
    whole = len(data) & ~3
    quads = array("I", data[:whole])
    if not _LITTLE_ENDIAN:
        quads.byteswap()
    ids = quads.tolist()
    if ids and min(ids) < FIRST_QUAD:
        ids = [part for quad in ids for part in ([quad] if quad >= FIRST_QUAD else _bytes_of(quad))]
    ids.extend([FIRST_BYTE + byte for byte in data[whole:]])
    return ids


def _bytes_of(quad: int) -> list[int]:
    return [FIRST_BYTE + byte for byte in quad.to_bytes(4, "little")]


def decode(ids: Sequence[int]) -> str:
    """The text of ids; special and unused ids have none. Broken UTF-8 becomes the replacement character."""
    parts = []
    for token in ids:
        if token >= FIRST_QUAD:
            parts.append(token.to_bytes(4, "little"))
        elif FIRST_WORD <= token < FIRST_WORD + WORDS:
            parts.append(WORD_TEXTS[token - FIRST_WORD].encode())
        elif FIRST_BYTE <= token < FIRST_BYTE + 256:
            parts.append(bytes((token - FIRST_BYTE,)))
    return b"".join(parts).decode("utf-8", "replace")


def is_known(token: int) -> bool:
    """Whether an id is in the vocabulary."""
    return 0 <= token <= LAST_ID


def state_of(ids: Sequence[int], *, seed: int) -> int:
    """The state after these ids (each 0 to 2^32 - 1) for an engine's seed (0 to 2^31)."""
    digits = array("I", [seed + 1, *ids])
    if _LITTLE_ENDIAN:
        digits.byteswap()
    return int.from_bytes(digits.tobytes(), "big") % _PRIME


def state_after(state: int, token: int) -> int:
    """The state after one more id."""
    return ((state << 32) + token) % _PRIME


def word_at(state: int) -> int:
    """The place in WORD_TEXTS of the word that follows a state."""
    mixed = ((state ^ (state >> 29)) * _MIX) & _MASK
    return ((mixed ^ (mixed >> 32)) >> 8) % WORDS


def ends_at(state: int, *, one_in: int) -> bool:
    """Whether the text ends at a state, which one state of `one_in` does; never for 0."""
    return one_in > 0 and ((state * _MIX) & _MASK) >> 40 < (1 << 24) // one_in
