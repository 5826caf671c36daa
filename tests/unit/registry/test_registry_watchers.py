"""What watchers are told, and what a slow one costs."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_registry.watchers import MAX_NODES_A_MESSAGE, News, Watcher, Watchers


def node(number: int, reason: str = "") -> pb.Node:
    return pb.Node(id=f"{number:05}", status_reason=reason)


async def drained(watcher: Watcher) -> list[News]:
    found = []
    while True:
        try:
            found.append(await asyncio.wait_for(watcher.next(), 0.01))
        except TimeoutError:
            return found


async def test_a_watcher_that_reads_nothing_costs_one_entry_a_node() -> None:
    watcher = Watcher(gather_s=0.0)
    for _ in range(100):
        for number in range(500):
            watcher.put(node(number).id, node(number), urgent=True)
    assert len(watcher._pending) == 500


async def test_a_watcher_too_far_behind_starts_again_and_goes_on_from_there() -> None:
    watcher = Watcher(gather_s=0.0, max_pending=10)
    for number in range(12):
        watcher.put(node(number).id, node(number), urgent=False)
    assert watcher._pending == {}
    assert (await watcher.next()).start_again
    watcher.put("a", node(1), urgent=False)
    assert [found.id for found in (await watcher.next()).nodes] == ["00001"]


async def test_news_of_load_gather_but_a_change_of_status_does_not_wait_for_them() -> None:
    watcher = Watcher(gather_s=10.0)
    watcher.put("a", node(1), urgent=False)
    waiting = asyncio.create_task(watcher.next())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    watcher.put("b", node(2), urgent=True)
    assert len((await asyncio.wait_for(waiting, 0.05)).nodes) == 2


async def test_a_message_holds_at_most_a_thousand_nodes_and_the_rest_follows() -> None:
    watcher = Watcher(gather_s=0.0)
    for number in range(2 * MAX_NODES_A_MESSAGE + 1):
        watcher.put(node(number).id, node(number), urgent=True)
    assert [len(news.nodes) for news in await drained(watcher)] == [MAX_NODES_A_MESSAGE, MAX_NODES_A_MESSAGE, 1]


async def test_watchers_beyond_the_bound_are_refused_and_those_that_left_make_room() -> None:
    watchers = Watchers(max_watchers=1)
    with watchers.watching():
        with pytest.raises(CodedError) as refused, watchers.watching():
            pass
        assert refused.value.code == ErrorCode.OVERLOADED
    with watchers.watching():
        assert len(watchers) == 1


@given(st.lists(st.tuples(st.sampled_from(["put", "forget", "read"]), st.integers(0, 8)), max_size=60))
def test_whatever_is_read_when_a_watcher_ends_up_with_the_fleet_as_it_is(steps: list[tuple[str, int]]) -> None:
    async def follow() -> None:
        watchers = Watchers(new=lambda: Watcher(gather_s=0.0))
        fleet: dict[str, pb.Node] = {}
        seen: dict[str, str] = {}

        def take(news: News) -> None:
            seen.update({found.id: found.status_reason for found in news.nodes})
            for node_id in news.removed_node_ids:
                seen.pop(node_id, None)

        with watchers.watching() as watcher:
            for step, (what, number) in enumerate(steps):
                changed = node(number, reason=str(step))
                if what == "put":
                    fleet[changed.id] = changed
                    watchers.tell(changed, urgent=True)
                elif what == "forget" and fleet.pop(changed.id, None) is not None:
                    watchers.tell_forgotten(changed.id)
                elif what == "read" and watcher._pending:
                    take(await watcher.next())
            while watcher._pending:
                take(await watcher.next())
        assert seen == {node_id: found.status_reason for node_id, found in fleet.items()}

    asyncio.run(follow())
