"""The audit log's records, how they are chained, and how a broken chain is found. Pure.

Each record's hash is over the hash before it and over every field, each with its length in front. Whoever removes or
alters a record must rewrite all that follow; whoever kept the hash of a later one sees that too.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from crosslogic_identity.domain import Actor, ApiKey, Environment, Org, Plan, User

NO_HASH = bytes(32)
Audited = Org | Environment | ApiKey | Plan | User
_SECRETS = frozenset({"cache_salt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """What is to be written down."""

    actor: Actor
    action: str
    outcome: str = "done"
    org_id: str = ""
    object_kind: str = ""
    object_id: str = ""
    before: str = ""
    """JSON without secrets. Empty: it was not there."""
    after: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """What was written down."""

    seq: int
    at: datetime
    entry: AuditEntry
    previous_hash: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record. `seq` 0: there is none."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What looking at a part of the log found."""

    broken_seq: int
    """The first record that is missing or altered. 0: none."""
    problem: str
    records: int
    next_seq: int
    """Where to go on. 0: that was the end."""
    head: Head

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong with what was looked at."""
        return not self.problem


def view(thing: Audited | None) -> str:
    """A thing as JSON, the same for the same thing, without secrets. Empty for nothing."""
    if thing is None:
        return ""
    shown = {name: value for name, value in asdict(thing).items() if name not in _SECRETS}
    return json.dumps(shown, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def hash_of(seq: int, at: datetime, entry: AuditEntry, previous_hash: bytes) -> bytes:
    """A record's hash."""
    actor = entry.actor
    parts = (
        str(seq),
        at.astimezone(UTC).isoformat(timespec="microseconds"),
        actor.kind,
        actor.id,
        actor.name,
        actor.org_id,
        actor.address,
        actor.request_id,
        entry.action,
        entry.outcome,
        entry.org_id,
        entry.object_kind,
        entry.object_id,
        entry.before,
        entry.after,
        entry.reason,
    )
    digest = hashlib.sha256(previous_hash)
    for part in parts:
        encoded = part.encode()
        # With lengths: ("a", "bc") is not ("ab", "c").
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.digest()


def next_record(head: Head, at: datetime, entry: AuditEntry) -> AuditRecord:
    """The record that follows the newest one."""
    seq = head.seq + 1
    return AuditRecord(seq, at, entry, head.hash, hash_of(seq, at, entry, head.hash))


def verify(
    records: Iterable[AuditRecord],
    *,
    from_seq: int,
    up_to_seq: int,
    previous_hash: bytes | None,
    head: Head,
) -> Verdict:
    """Looks at the records `from_seq` to `up_to_seq`, by number.

    `previous_hash` is that of the record before, None when it is missing; `head` is what the log says its newest is.
    """
    expected = from_seq
    link = previous_hash
    looked = 0
    if link is None:
        return Verdict(from_seq - 1, "missing", 0, 0, head)
    for record in records:
        problem = ""
        if record.seq != expected:
            problem = "missing"
        elif record.hash != hash_of(record.seq, record.at, record.entry, record.previous_hash):
            problem = "altered"
        elif record.previous_hash != link:
            problem = "not linked"
        if problem:
            return Verdict(expected, problem, looked, 0, head)
        looked += 1
        link = record.hash
        expected += 1
    if expected <= min(up_to_seq, head.seq):
        return Verdict(expected, "missing", looked, 0, head)
    if expected > head.seq and (expected - 1, link) != (head.seq, head.hash):
        return Verdict(expected, "head", looked, 0, head)
    return Verdict(0, "", looked, expected if expected <= head.seq else 0, head)


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    raise TypeError(f"{type(value).__name__} has no place in the audit log")
