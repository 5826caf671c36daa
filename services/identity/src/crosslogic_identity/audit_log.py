"""The use cases of the audit log."""

from crosslogic_identity import checks
from crosslogic_identity.audit import NO_HASH, AuditEntry, AuditRecord, Head, Verdict, verify
from crosslogic_identity.ports import AuditStore

MAX_LOOKED_AT = 100_000
_BATCH = 2_000
_NEWEST = 2**63 - 1


class AuditLog:
    """What administrators did."""

    def __init__(self, *, store: AuditStore) -> None:
        self._store = store

    async def record(self, entry: AuditEntry) -> AuditRecord:
        """Writes down what another service carries out."""
        checks.short("action", entry.action, 1, 100)
        checks.short("object_kind", entry.object_kind, 0, 100)
        checks.short("object_id", entry.object_id, 0, 200)
        checks.json_text("before_json", entry.before)
        checks.json_text("after_json", entry.after)
        checks.reason(entry.reason)
        return await self._store.record(entry)

    async def records(
        self, before_seq: int, limit: int, *, org_id: str, object_id: str, action: str
    ) -> list[AuditRecord]:
        """Records with smaller numbers (0: all), newest first."""
        for field, text in (("object_id", object_id), ("action", action)):
            checks.short(field, text, 0, 200)
        return await self._store.records(
            before_seq=before_seq or _NEWEST, limit=limit, org_id=org_id, object_id=object_id, action=action
        )

    async def verify(self, from_seq: int, max_records: int, known: Head | None) -> Verdict:
        """Looks at a part of the log, and at the record that somebody remembers."""
        start = max(1, from_seq)
        end = start + max_records - 1
        if known is not None:
            remembered, head = await self._store.span(known.seq, known.seq)
            if not remembered or remembered[0].hash != known.hash:
                return Verdict(known.seq, "known hash" if remembered else "missing", 0, 0, head)
        before, head = await self._store.span(start - 1, start - 1)
        link = NO_HASH if start == 1 else before[0].hash if before else None
        looked = 0
        while True:
            records, head = await self._store.span(start, min(start + _BATCH - 1, end))
            verdict = verify(
                records, from_seq=start, up_to_seq=min(start + _BATCH - 1, end), previous_hash=link, head=head
            )
            looked += verdict.records
            if not verdict.intact or not verdict.next_seq or verdict.next_seq > end:
                return Verdict(verdict.broken_seq, verdict.problem, looked, verdict.next_seq, verdict.head)
            start, link = verdict.next_seq, records[-1].hash
