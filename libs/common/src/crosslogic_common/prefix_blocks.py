"""Into which blocks a prompt is cut where its beginning is compared with what nodes have read lately.

Blocks grow with the distance from the start: what is shared is known to within half of its length, at any length, for
few hashes.
"""

SHORTEST_BYTES = 512
LONGEST_BYTES = 128 * 1024
BYTES_A_TOKEN = 4
"""Of English text, about. Only compared with itself."""


def _ends() -> tuple[int, ...]:
    ends = []
    end = SHORTEST_BYTES
    while end <= LONGEST_BYTES:
        ends += [end, end + end // 2]
        end *= 2
    return tuple(each for each in ends if each <= LONGEST_BYTES)


BLOCK_ENDS = _ends()
"""Where the n-th block ends, in bytes from the prompt's start."""
