"""Which nodes have lately read the beginning of a prompt."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from crosslogic_common.prefix_blocks import BLOCK_ENDS, BYTES_A_TOKEN

MAX_BLOCKS = 200_000
"""Blocks remembered in all, the latest used. At about 250 bytes each they take 50 MB."""
MAX_HOLDERS = 4
"""Nodes remembered for a block, the latest first. A prefix that is read everywhere needs no more to be found."""


class PrefixIndex:
    """Blocks of prompts and the nodes that were sent them, by the scheduler's own picks.

    What a node has dropped from its cache since is not known; blocks that nobody asks for leave by age. The hashes hold
    each organisation's salt: one never finds another's.
    """

    def __init__(self, *, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._holders: OrderedDict[int, tuple[str, ...]] = OrderedDict()

    def __len__(self) -> int:
        """Blocks."""
        return len(self._holders)

    def longest(self, hashes: Sequence[int]) -> Iterator[tuple[str, int]]:
        """Node ids with how many of the blocks each was sent, longest first; a node may come again with fewer."""
        for number in range(len(hashes) - 1, -1, -1):
            holders = self._holders.get(hashes[number])
            if holders is not None:
                for node_id in holders:
                    yield node_id, number + 1

    def read_tokens(self, hashes: Sequence[int], node_id: str) -> int:
        """Prompt tokens of these blocks that the node was sent before, an estimate."""
        for number in range(len(hashes) - 1, -1, -1):
            if node_id in self._holders.get(hashes[number], ()):
                return BLOCK_ENDS[number] // BYTES_A_TOKEN if number < len(BLOCK_ENDS) else 0
        return 0

    def note(self, hashes: Sequence[int], node_id: str) -> None:
        """The node is sent a prompt with these blocks."""
        all_holders = self._holders
        for block in hashes:
            holders = all_holders.get(block)
            if holders is None:
                all_holders[block] = (node_id,)
                if len(all_holders) > self._max_blocks:
                    all_holders.popitem(last=False)
                continue
            all_holders.move_to_end(block)
            if holders[0] != node_id:
                all_holders[block] = (node_id, *(each for each in holders if each != node_id))[:MAX_HOLDERS]
