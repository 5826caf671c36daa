"""A small storm: each process of the money's way dies once under load, and everybody counts the same (`make storm`)."""

import random

from tests.storm.storm import VICTIMS, storm, storm_suite

SEED = 5


async def test_every_process_dies_once_and_nothing_is_lost_or_counted_twice() -> None:
    kills = random.Random(SEED).sample(VICTIMS, len(VICTIMS))
    async with storm_suite(step_ms=5) as (suite, stripe):
        report = await storm(suite, stripe, requests=300, seed=SEED, kills=kills, pause_s=0.2)
    assert report.kills == dict.fromkeys(VICTIMS, 1)
    assert report.complete > 0
    assert report.problems() == []
    told = {line.source: line.tokens for line in report.lines if line.tokens is not None}
    assert len(told) == 7, told
    assert told["Stripe's meters"], "nothing reached Stripe"
