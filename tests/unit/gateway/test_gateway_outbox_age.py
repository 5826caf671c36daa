"""An operator sees how long usage waits for the ledger."""

from dataclasses import dataclass

from crosslogic_gateway.outbox_age import MAX_MARKS, OutboxAge


@dataclass
class Outbox:
    next_id: int = 1
    oldest_id: int | None = None


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_record_that_waits_grows_older_from_scrape_to_scrape() -> None:
    outbox, clock = Outbox(), Clock()
    age = OutboxAge(outbox, clock)
    assert age.seconds() == 0
    outbox.next_id, outbox.oldest_id = 6, 5
    ages = []
    for _ in range(4):
        clock.now += 15
        outbox.next_id += 100
        ages.append(age.seconds())
    assert ages == [15, 30, 45, 60]


def test_traffic_that_settles_at_once_has_no_age() -> None:
    outbox, clock = Outbox(), Clock()
    age = OutboxAge(outbox, clock)
    for _ in range(100):
        clock.now += 15
        outbox.next_id += 1_000
        outbox.oldest_id = outbox.next_id - 3
        assert age.seconds() <= 15
    outbox.oldest_id = None
    assert age.seconds() == 0


def test_oldest_record_that_settles_leaves_the_age_of_the_next() -> None:
    outbox, clock = Outbox(), Clock()
    age = OutboxAge(outbox, clock)
    for number in range(1, 5):
        outbox.next_id, outbox.oldest_id = number * 10, 1
        age.seconds()
        clock.now += 15
    outbox.oldest_id = 25
    assert age.seconds() == 45


def test_outage_of_weeks_is_remembered_in_bounded_space() -> None:
    outbox, clock = Outbox(2, 1), Clock()
    age = OutboxAge(outbox, clock)
    for _ in range(MAX_MARKS + 50):
        clock.now += 15
        age.seconds()
    assert len(age._marks) <= MAX_MARKS
