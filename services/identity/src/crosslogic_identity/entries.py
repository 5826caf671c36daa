"""What an administrator did to a thing, as an entry of the audit log. Pure."""

from crosslogic_identity.audit import Audited, AuditEntry, view
from crosslogic_identity.domain import Actor, Org, Plan


def entry_of(by: Actor, action: str, before: Audited | None, after: Audited | None, *, reason: str = "") -> AuditEntry:
    """The entry. `action` begins with the kind of the thing."""
    thing = after or before
    assert thing is not None  # noqa: S101  # something was done to something
    if isinstance(thing, Org):
        org_id = thing.id
    elif isinstance(thing, Plan):
        org_id = ""
    else:
        org_id = thing.org_id
    return AuditEntry(
        actor=by,
        action=action,
        org_id=org_id,
        object_kind=action.partition(".")[0],
        object_id=thing.name if isinstance(thing, Plan) else thing.id,
        before=view(before),
        after=view(after),
        reason=reason or getattr(after, "status_reason", ""),
    )
