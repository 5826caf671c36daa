"""Sealed context: bytes that travel through hands which may neither read nor change them (AES-256-GCM)."""

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crosslogic_common.errors import CodedError, ErrorCode

KEY_BYTES = 32
_NONCE_BYTES = 12


class Sealer:
    """Seals and opens with one key. Random 96-bit nonces: rotate the key before 2^32 seals (NIST SP 800-38D, 8.3)."""

    def __init__(self, key: bytes) -> None:
        """`key` is 32 random bytes."""
        if len(key) != KEY_BYTES:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"A seal key has {KEY_BYTES} bytes, not {len(key)}.")
        self._aead = AESGCM(key)

    @classmethod
    def from_base64(cls, text: str) -> "Sealer":
        """Reads a key as the settings hold it."""
        try:
            return cls(base64.b64decode(text.strip(), validate=True))
        except binascii.Error as error:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "A seal key is 32 random bytes in base64.") from error

    def seal(self, plain: bytes, *, aad: bytes) -> bytes:
        """`plain`, bound to `aad`: it opens only with the same."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, aad)

    def open(self, sealed: bytes, *, aad: bytes) -> bytes:
        """What was sealed. Raises INVALID_ARGUMENT when it was changed, cut, or bound to something else."""
        try:
            return self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], aad)
        except (InvalidTag, ValueError) as error:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "The seal does not open.") from error
