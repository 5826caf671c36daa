"""How many tokens a prompt has, without its tokenizer: characters by kind, corrected by what engines report.

The weights are the smallest that cover 95 % of the tokens of every text of a corpus (token_corpus.json of the tests:
forty languages, code, numbers, emoji) under the worst of five tokenizers. A model's own tokenizer is better at some
scripts: what its engine reports lowers the estimate for each script and size on its own.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

_LOWER = bytes(range(ord("a"), ord("z") + 1))
_UPPER = bytes(range(ord("A"), ord("Z") + 1))
_DIGITS = b"0123456789"
_VOWELS = b"aeiou"
_SYMBOLS = bytes(byte for byte in range(0x21, 0x7F) if byte not in _LOWER + _UPPER + _DIGITS)

# Tokens a character.
_WORDS, _LETTERS, _CAPITALS, _DIGIT, _SYMBOL, _SPACE = 0.42, 0.69, 0.54, 1.55, 0.6, 0.16
_NOT_ASCII: tuple[tuple[bytes, float], ...] = tuple(
    (bytes(range(first, last + 1)), weight)
    for first, last, weight in (
        (0xC2, 0xCA, 1.65),  # Latin with accents
        (0xCB, 0xD4, 1.15),  # Greek, Cyrillic
        (0xD5, 0xDF, 2.1),  # Armenian, Hebrew, Arabic
        (0xE0, 0xE2, 3.1),  # Indic, Thai, Georgian, Ethiopic; symbols
        (0xE3, 0xEF, 2.1),  # Chinese, Japanese, Korean
        (0xF0, 0xF4, 3.8),  # emoji
    )
)
_TEMPLATE_TOKENS = 16
"""What a chat template adds at least."""
_LEAST_BYTES_A_TOKEN = 16
"""A prompt longer than its model's context at so many bytes a token fills it in any case."""
_CHARACTER = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")
_BLOCKS_FROM, _BLOCKS_TO = 0xE0, 0xE1
_CJK_FROM = 0xE3

EPOCH = 32
"""Reports after which a correction is trusted, and after which it is made anew."""
MARGIN = 1.05
MAX_CORRECTION = 4.0
MAX_CLASSES = 4096


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """What a prompt may have. A Struct: a frozen dataclass costs half a microsecond more to make."""

    tokens: int
    """To be reserved: the prompt has seldom more."""
    likely: int
    """What prompts of its kind had, no margin added. While nothing is known of them, half of what is reserved."""
    base: int
    """Before any correction."""
    kind: tuple[str, int, int]
    """Model, script and size: what is corrected together."""


def _class_table() -> bytes:
    """Each byte's class: vowel, other small letter, capital, digit, symbol, space, none of these."""
    table = bytearray(b"." * 256)
    for characters, its_class in (
        (_LOWER, b"l"),
        (_VOWELS, b"v"),
        (_UPPER, b"u"),
        (_DIGITS, b"d"),
        (_SYMBOLS, b"s"),
        (b" ", b" "),
    ):
        for character in characters:
            table[character] = its_class[0]
    return bytes(table)


_CLASSES = _class_table()


def _share(text: bytes, characters: bytes) -> int:
    return len(text) - len(text.translate(None, characters))


def _ascii_tokens(text: bytes) -> tuple[float, bool]:
    count = text.translate(_CLASSES).count
    vowels = count(b"v")
    lower = vowels + count(b"l")
    digits = count(b"d")
    spaces = count(b" ")
    # Prose and code have vowels, spaces and few digits; what has not (keys, hashes) has a token every other character.
    words = vowels * 10 >= lower * 3 and digits * 10 <= lower and spaces * 10 >= lower
    tokens = (
        lower * (_WORDS if words else _LETTERS)
        + count(b"u") * _CAPITALS
        + digits * _DIGIT
        + count(b"s") * _SYMBOL
        + spaces * _SPACE
    )
    return tokens, words


def _script(body: bytes) -> int:
    """The script of the character in the middle: of scripts that tokenizers treat differently, which one."""
    found = _CHARACTER.search(body, len(body) // 2) or _CHARACTER.search(body)
    if found is None:
        return 2
    lead, second = found[0]
    if _BLOCKS_FROM <= lead <= _BLOCKS_TO:
        return lead << 8 | second >> 1
    return min(lead, _CJK_FROM + 1) if lead < 0xF0 else lead  # noqa: PLR2004  # four bytes: emoji


def base_tokens(body: bytes) -> tuple[int, int]:
    """Tokens of a JSON body before any correction, and its script."""
    if b"\\u" in body:
        try:
            body = msgspec.json.encode(msgspec.json.decode(body))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            # A lone surrogate: each escape is a character of three bytes.
            body = body.replace(b"\\u", "\u0900".encode())
    tokens, words = _ascii_tokens(body)
    script = int(words)
    if not body.isascii():
        script = _script(body)
        for leads, weight in _NOT_ASCII:
            tokens += _share(body, leads) * weight
    return round(tokens) + _TEMPLATE_TOKENS, script


@dataclass(slots=True)
class _Correction:
    before: float = 0.0
    """The highest ratio of reported to estimated tokens in the epoch before; 0: there was none."""
    highest: float = 0.0
    seen: int = 0
    mean: float = 0.0
    """Of all ratios, the last ones counting most."""

    def factor(self) -> float:
        if not self.before:
            return max(1.0, self.highest)
        return max(self.before, self.highest) * MARGIN

    def learn(self, ratio: float) -> None:
        self.highest = max(self.highest, min(ratio, MAX_CORRECTION))
        self.mean = ratio if not self.mean else self.mean + (ratio - self.mean) / EPOCH
        self.seen += 1
        if self.seen >= EPOCH:
            self.before, self.highest, self.seen = self.highest, 0.0, 0


class TokenEstimates:
    """Estimates prompts, and learns from their engines. One a worker."""

    def __init__(self) -> None:
        self._corrections: OrderedDict[tuple[str, int, int], _Correction] = OrderedDict()

    def estimate(self, model: str, body: bytes, *, context_length: int, inputs: int = 1) -> Estimate:
        """What the prompts of a request have together. Each has at most `context_length` tokens."""
        most = context_length * inputs
        if len(body) // _LEAST_BYTES_A_TOKEN >= most:
            return Estimate(most, most, most, (model, -1, 0))
        base, script = base_tokens(body)
        kind = (model, script, base.bit_length() // 2)
        correction = self._corrections.get(kind)
        if correction is None:
            return Estimate(min(base, most), min(base // 2, most), base, kind)
        tokens = round(base * correction.factor()) + 1
        return Estimate(min(tokens, most), min(round(base * correction.mean), most), base, kind)

    def learn(self, estimate: Estimate, reported_tokens: int) -> None:
        """An engine reported how many tokens the prompts had."""
        if reported_tokens <= 0 or estimate.kind[1] < 0:
            return
        correction = self._corrections.get(estimate.kind)
        if correction is None:
            correction = self._corrections[estimate.kind] = _Correction()
            if len(self._corrections) > MAX_CLASSES:
                self._corrections.popitem(last=False)
        correction.learn(reported_tokens / estimate.base)
