"""Up to which token a stream can be handed to another engine with nothing lost and nothing said twice. Pure.

An engine is given ids to go on from, but the client was given text, and text lags behind ids: bytes of a character that
is not whole are held back, and with stop strings so are the last characters in which one could begin (as many as the
longest has, less one; docs/engine-behaviour.md). A token is *settled* once the client has all text up to its end, and
nothing of it is held back. A resume generates from the last settled token on, and hides of the new text what the client
has: under greedy decoding it is the same text.
"""

from collections import deque

MAX_CANDIDATES = 4096
MAX_UNSETTLED_CHARS = 1024
"""A stream whose chunks all hold several tokens would carry ever more along: beyond this a chunk's end is believed."""


class ResumePoints:
    """Follows one stream."""

    __slots__ = (
        "_ahead",
        "_candidates",
        "_client_text",
        "_emitted",
        "_hold",
        "_settled_at",
        "_strict",
        "_tokens",
        "_waiting",
    )

    def __init__(self, *, hold: int, sent_text: str = "", strict: bool = True) -> None:
        """`hold` is how many characters the engine holds back for stop strings.

        `sent_text` is what the client has already of the text that is about to come. With `strict`, only a token that
        came alone with text is taken to have ended all characters: of several in one chunk the last may have begun one.
        Not strict is for answers that are drawn: said anew, the text would differ, so as little as can be is.
        """
        self._hold = hold
        self._strict = strict
        self._client_text = sent_text
        """What the client has of the text after the last settled token."""
        self._settled_at = 0
        """Where in the engine's text the last settled token ends, in characters."""
        self._emitted = 0
        """Characters that the engine has let go."""
        self._tokens = 0
        """Tokens since the last settled one."""
        self._candidates: deque[tuple[int, int]] = deque()
        """Ends of tokens that the client's text has not reached: place, and tokens generated since the one before."""
        self._waiting = 0
        """Tokens after the last candidate."""
        self._ahead = len(sent_text)
        """Characters of `sent_text` that the engine has not said again."""

    @property
    def unsettled_tokens(self) -> int:
        """Tokens since the last settled one."""
        return self._tokens

    @property
    def unsettled_text(self) -> str:
        """What the client has of their text."""
        return self._client_text

    def took(self, tokens: int, text: str) -> None:
        """The engine has generated so many tokens more and let this text go, all of which the client gets."""
        if text and not self._hold and not self._ahead and (tokens == 1 or not self._strict):
            # Nearly every chunk of nearly every stream: its text is whole, and so is everything before it.
            if self._tokens or self._client_text:
                self._candidates.clear()
                self._client_text = ""
                self._tokens = self._waiting = 0
            self._emitted += len(text)
            self._settled_at = self._emitted
            return
        self._tokens += tokens
        self._waiting += tokens
        self._emitted += len(text)
        repeated = min(self._ahead, len(text))
        self._ahead -= repeated
        self._client_text += text[repeated:]
        sure = tokens == 1 or not self._strict or len(self._client_text) > MAX_UNSETTLED_CHARS
        if text and sure and len(self._candidates) < MAX_CANDIDATES:
            self._candidates.append((self._emitted + self._hold, self._waiting))
            self._waiting = 0
        self._settle()

    def _settle(self) -> None:
        reached = self._settled_at + len(self._client_text)
        while self._candidates and self._candidates[0][0] <= reached:
            place, tokens = self._candidates.popleft()
            self._tokens -= tokens
            self._client_text = self._client_text[place - self._settled_at :]
            self._settled_at = place
