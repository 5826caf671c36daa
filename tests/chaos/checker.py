"""What must hold after every experiment, whatever went wrong in it."""

import time
from collections.abc import Sequence
from typing import LiteralString

import psycopg

from crosslogic.common.v1 import common_pb2
from tests.chaos.clients import Asked
from tests.chaos.world import WITNESS_GRACE_S, World

HOLD_GRACE_S = 30.0


def check(world: World, asked: Sequence[Asked], *, may_fail: bool = False) -> None:
    """Every client saw the undisturbed answer, or where `may_fail` a clean error; every token is billed once; and the
    books are in order."""
    check_answers(asked, may_fail=may_fail)
    check_bills(world, asked)
    check_books(world)


def check_answers(asked: Sequence[Asked], *, may_fail: bool = False) -> None:
    """What clients saw."""
    found = {number: faults for number, each in enumerate(asked) if (faults := each.faults(may_fail=may_fail))}
    told = "\n".join(f"  {number}: {asked[number].body} {faults}" for number, faults in list(found.items())[:5])
    assert not found, f"{len(found)} of {len(asked)} went wrong:\n{told}"


def check_bills(world: World, asked: Sequence[Asked]) -> None:
    """What clients pay: what they were sent, once; nothing for what failed."""
    complete = {each.request_id: each for each in asked if each.complete}
    world.ledger.holding(complete)
    entries = world.ledger.still(quiet_s=WITNESS_GRACE_S + 0.5)
    mine = {each.request_id: entries[each.request_id] for each in asked if each.request_id in entries}
    assert {key: entry for key, entry in mine.items() if entry.times != 1} == {}, "billed more than once"
    wrong = {
        key: (mine[key].tokens, each.expected.tokens)
        for key, each in complete.items()
        if mine[key].tokens != each.expected.tokens or mine[key].outcome != common_pb2.OUTCOME_SUCCEEDED
    }
    assert wrong == {}, f"billed and delivered differ: {wrong}"
    unpaid = [key for key in complete if mine[key].cost_picodollars <= 0]
    assert unpaid == [], "an answer was given away"
    failed = [each.request_id for each in asked if not each.complete and not each.broke]
    charged = {key: mine[key] for key in failed if key in mine and mine[key].cost_picodollars}
    assert charged == {}, f"a request that failed was charged: {charged}"


def check_books(world: World) -> None:
    """Nothing waits in the gateway, and where there is a ledger of money, its debits are its credits."""
    until = time.monotonic() + 30
    while world.gateway_metric("crosslogic_usage_outbox_records"):
        assert time.monotonic() < until, "usage records wait in the gateway"
        time.sleep(0.05)
    assert world.gateway_metric("crosslogic_usage_refused") == 0, "the accountant refused records for good"
    with psycopg.connect(world.suite.database_url, connect_timeout=5) as connection:
        _check_money(connection)


def _check_money(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    if _value(connection, "SELECT to_regclass('ledger.postings')") is None:
        return
    assert _value(connection, "SELECT coalesce(sum(amount_picodollars), 0) FROM ledger.postings") == 0, (
        "debits and credits differ"
    )
    assert (
        _value(
            connection,
            """SELECT count(*) FROM ledger.accounts a WHERE balance_picodollars <>
               (SELECT coalesce(sum(amount_picodollars), 0) FROM ledger.postings p WHERE p.account_id = a.id)""",
        )
        == 0
    ), "an account's balance is not the sum of its postings"
    overdue = "SELECT count(*) FROM ledger.open_holds WHERE expire_time < now() - make_interval(secs => %s)"
    until = time.monotonic() + HOLD_GRACE_S
    while _value(connection, overdue, HOLD_GRACE_S):
        assert time.monotonic() < until, "a hold is pending past its time"
        time.sleep(0.2)


def _value(connection: "psycopg.Connection[tuple[object, ...]]", query: LiteralString, *given: object) -> object:
    row = connection.execute(query, given).fetchone()
    return None if row is None else row[0]
