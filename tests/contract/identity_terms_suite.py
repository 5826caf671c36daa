"""What every store of identity must do about plans, users, terms of tenants, suspensions and the audit log."""

import json
from dataclasses import replace
from typing import Protocol

import pytest

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import LEAST_ID
from crosslogic_identity.audit import AuditRecord, verify
from crosslogic_identity.domain import (
    NO_LIMITS,
    Actor,
    EnvironmentChanges,
    KeyChanges,
    Limits,
    OrgChanges,
    Plan,
    PlanChanges,
    User,
    UserChanges,
)
from crosslogic_identity.ports import AuditStore, PlanStore, TenantStore, UserStore
from tests.contract.identity_store_suite import IDS, NOW, Announced, digest, new_environment, new_key, new_org
from tests.fakes.identity_store import NOBODY

ALL_LIMITS = Limits(1, 2, 3, 4, 5, 6, 7)
PLATFORM = Actor("user", str(IDS.next()), "ops@example.com", "", "192.0.2.1", "request-1")


class Everything(TenantStore, PlanStore, UserStore, AuditStore, Protocol):
    """All that the suite is about."""


def new_plan(name: str = "") -> Plan:
    return Plan(name=name or f"p-{IDS.next()}", created_at=NOW, updated_at=NOW)


def new_user(org_id: str, email: str = "") -> User:
    return User(
        str(IDS.next()), org_id, email or f"{IDS.next()}@example.com", "A", "developer", "active", "", "", NOW, NOW
    )


async def written_since(store: Everything, seq: int) -> list[AuditRecord]:
    newest = await store.records(before_seq=2**62, limit=100)
    return [record for record in reversed(newest) if record.seq > seq]


async def newest_seq(store: Everything) -> int:
    _, head = await store.span(1, 1)
    return head.seq


class TermsSuite:
    """The suite."""

    async def test_every_term_of_a_tenant_is_read_back_and_reaches_whoever_resolves_the_key(
        self, store: Everything
    ) -> None:
        plan = replace(
            new_plan(),
            description="d",
            key_limits=ALL_LIMITS,
            priority="high",
            billing_mode="reserved",
            overage_policy="bill",
            monthly_cap_picodollars=2**63 - 1,
            max_prompt_tokens=10,
            max_output_tokens=20,
        )
        assert await store.add_plan(plan, NOBODY) == plan == await store.plan(plan.name)
        org = replace(
            new_org(),
            plan=plan.name,
            limits=ALL_LIMITS,
            reserved_capacity=(("a", 5), ("b", 10**9)),
            allowed_regions=("us", "eu"),
            monthly_cap_picodollars=2**63 - 1,
        )
        environment = replace(
            new_environment(org),
            limits=Limits(concurrency=3),
            max_prompt_tokens=5,
            max_output_tokens=6,
            fallback_regions=("eu",),
            monthly_cap_picodollars=7,
        )
        key = replace(
            new_key(environment),
            limits=Limits(tokens_per_day=2**53 - 1),
            allowed_regions=("eu",),
            allowed_cidrs=("192.0.2.0/24", "2001:db8::/32"),
            monthly_cap_picodollars=8,
        )
        await store.add_org(org, "", NOBODY)
        await store.add_environment(environment, "", NOBODY)
        await store.add_api_key(key, secret := digest(), NOBODY)
        owner = await store.owner(secret)
        assert owner is not None
        assert (owner.org, owner.environment, owner.key, owner.plan) == (org, environment, key, plan)
        assert await store.org(org.id) == org
        cleared = await store.change_api_key(key.id, KeyChanges(limits=NO_LIMITS, allowed_cidrs=()), NOBODY)
        assert (cleared.limits, cleared.allowed_cidrs, cleared.allowed_regions) == (NO_LIMITS, (), ("eu",))

    async def test_nobody_is_put_on_a_plan_that_is_not_there(self, store: Everything) -> None:
        org = await store.add_org(new_org(), "", NOBODY)
        for attempt in (
            store.change_org(org.id, OrgChanges(plan="no-such-plan"), NOBODY),
            store.add_org(replace(new_org(), plan="no-such-plan"), "", NOBODY),
        ):
            with pytest.raises(CodedError) as raised:
                await attempt
            assert (raised.value.code, raised.value.param) == (ErrorCode.INVALID_ARGUMENT, "plan")
        assert await store.org(org.id) == org

    async def test_a_changed_plan_is_announced_and_its_description_is_not(
        self, store: Everything, announced: Announced
    ) -> None:
        plan = await store.add_plan(new_plan(), NOBODY)
        await announced()
        await store.change_plan(plan.name, PlanChanges(description="new"), NOBODY)
        changed = await store.change_plan(plan.name, PlanChanges(priority="low", org_limits=ALL_LIMITS), NOBODY)
        assert (changed.description, changed.priority, changed.org_limits) == ("new", "low", ALL_LIMITS)
        assert await announced() == [f"plan:{plan.name}"]
        with pytest.raises(CodedError) as raised:
            await store.add_plan(plan, NOBODY)
        assert raised.value.code == ErrorCode.ALREADY_EXISTS

    async def test_streams_are_cut_when_it_was_asked_and_only_with_a_suspension_or_revocation(
        self, store: Everything, announced: Announced
    ) -> None:
        org = await store.add_org(new_org(), "", NOBODY)
        environment = await store.add_environment(new_environment(org), "", NOBODY)
        key = await store.add_api_key(new_key(environment), digest(), NOBODY)
        await announced()
        await store.change_org(org.id, OrgChanges(status="suspended"), NOBODY, cut=True)
        await store.change_org(org.id, OrgChanges(status="active"), NOBODY, cut=True)
        await store.change_environment(environment.id, EnvironmentChanges(status="suspended"), NOBODY, cut=True)
        await store.change_api_key(key.id, KeyChanges(status="suspended"), NOBODY, cut=True)
        await store.revoke_api_key(key.id, NOW, NOBODY, cut=True)
        assert await announced() == [
            f"cut_org:{org.id}",
            f"org:{org.id}",
            f"cut_environment:{environment.id}",
            f"cut_api_key:{key.id}",
            f"cut_api_key:{key.id}",
        ]

    async def test_an_organisation_cannot_end_a_suspension_by_the_operators(self, store: Everything) -> None:
        org = await store.add_org(new_org(), "", NOBODY)
        environment = await store.add_environment(new_environment(org), "", NOBODY)
        key = await store.add_api_key(new_key(environment), digest(), NOBODY)
        tenant = replace(PLATFORM, org_id=org.id)
        by_operator = KeyChanges(status="suspended", status_reason="abuse")
        suspended = await store.change_api_key(key.id, by_operator, PLATFORM)
        assert suspended.status_reason == "abuse"
        with pytest.raises(CodedError) as raised:
            await store.change_api_key(key.id, KeyChanges(status="active"), tenant)
        assert raised.value.code == ErrorCode.PERMISSION_DENIED
        again = await store.change_api_key(key.id, KeyChanges(status="suspended", status_reason="mine"), tenant)
        assert (again.status_reason, again.suspended_by) == ("abuse", "platform")
        assert (await store.change_api_key(key.id, KeyChanges(status="active"), PLATFORM)).status_reason == ""
        await store.change_api_key(key.id, KeyChanges(status="suspended"), tenant)
        assert (await store.change_api_key(key.id, KeyChanges(status="active"), tenant)).status == "active"

    async def test_a_program_that_suspends_does_not_write_over_why_an_operator_did(self, store: Everything) -> None:
        org = await store.add_org(new_org(), "", NOBODY)
        abuse = OrgChanges(status="suspended", status_reason="abuse")
        unpaid = OrgChanges(status="suspended", status_reason="unpaid")
        billing = Actor("service", name="billing")
        await store.change_org(org.id, abuse, PLATFORM)
        assert (await store.change_org(org.id, unpaid, billing)).status_reason == "abuse"
        await store.change_org(org.id, OrgChanges(status="active"), PLATFORM)
        assert (await store.change_org(org.id, unpaid, billing)).status_reason == "unpaid"
        assert (await store.change_org(org.id, abuse, PLATFORM)).status_reason == "abuse"

    async def test_a_person_has_one_place_in_each_organisation(self, store: Everything) -> None:
        org, other = (await store.add_org(new_org(), "", NOBODY), await store.add_org(new_org(), "", NOBODY))
        email = f"{IDS.next()}@example.com"
        places = [await store.add_user(new_user(place, email), NOBODY) for place in (org.id, other.id, "")]
        for place in (org.id, ""):
            with pytest.raises(CodedError) as raised:
                await store.add_user(new_user(place, email), NOBODY)
            assert raised.value.code == ErrorCode.ALREADY_EXISTS
        assert await store.users(org.id, LEAST_ID, 10) == [places[0]]
        assert places[2] in await store.users("", LEAST_ID, 1000)
        with pytest.raises(CodedError) as raised:
            await store.add_user(new_user(str(IDS.next())), NOBODY)
        assert raised.value.code == ErrorCode.NOT_FOUND

    async def test_a_first_sign_in_takes_the_places_of_the_email_for_good(self, store: Everything) -> None:
        org = await store.add_org(new_org(), "", NOBODY)
        email = f"{IDS.next()}@example.com"
        user = await store.add_user(new_user(org.id, email), NOBODY)
        subject, thief = str(IDS.next()), str(IDS.next())
        assert await store.signed_in("https://idp", subject, "", NOBODY, 10) == []
        (found,) = await store.signed_in("https://idp", subject, email, NOBODY, 10)
        assert (found.id, found.issuer, found.subject) == (user.id, "https://idp", subject)
        assert await store.signed_in("https://idp", subject, "", NOBODY, 10) == [found]
        # Somebody else who shows the same email later, or the same subject at another issuer, is somebody else.
        assert await store.signed_in("https://idp", thief, email, NOBODY, 10) == []
        assert await store.signed_in("https://other", subject, email, NOBODY, 10) == []
        await store.change_user(user.id, UserChanges(status="suspended"), NOBODY)
        assert await store.signed_in("https://idp", subject, email, NOBODY, 10) == []
        await store.remove_user(user.id, NOBODY)
        assert await store.user(user.id) is None

    async def test_each_action_leaves_a_record_of_who_what_before_and_after(self, store: Everything) -> None:
        seq = await newest_seq(store)
        org = await store.add_org(new_org(), "", PLATFORM)
        environment = await store.add_environment(new_environment(org), "", PLATFORM)
        secret = digest()
        key = await store.add_api_key(new_key(environment), secret, PLATFORM)
        await store.change_org(org.id, OrgChanges(status="suspended", status_reason="unpaid"), PLATFORM)
        await store.change_environment(environment.id, EnvironmentChanges(region="eu"), PLATFORM)
        await store.change_api_key(key.id, KeyChanges(name="new"), PLATFORM)
        await store.rotate_api_key(key.id, new_key(environment), digest(), NOW, PLATFORM)
        await store.revoke_api_key(key.id, NOW, PLATFORM)
        user = await store.add_user(new_user(org.id), PLATFORM)
        await store.change_user(user.id, UserChanges(role="admin"), PLATFORM)
        await store.remove_user(user.id, PLATFORM)
        records = await written_since(store, seq)
        assert [record.entry.action for record in records] == [
            "org.create",
            "environment.create",
            "api_key.create",
            "org.update",
            "environment.update",
            "api_key.update",
            "api_key.rotate",
            "api_key.create",
            "api_key.revoke",
            "user.create",
            "user.update",
            "user.delete",
        ]
        assert {record.entry.actor for record in records} == {PLATFORM}
        assert {record.entry.org_id for record in records} == {org.id}
        assert (records[0].entry.before, records[-1].entry.after) == ("", "")
        update = records[3].entry
        assert (json.loads(update.before)["status"], json.loads(update.after)["status"]) == ("active", "suspended")
        assert (update.reason, update.object_id) == ("unpaid", org.id)
        everything = "".join(record.entry.before + record.entry.after for record in records)
        assert org.cache_salt not in everything
        assert secret.hex() not in everything
        _, head = await store.span(1, 1)
        previous = records[0].previous_hash
        verdict = verify(records, from_seq=records[0].seq, up_to_seq=records[-1].seq, previous_hash=previous, head=head)
        assert verdict.intact, verdict

    async def test_what_was_refused_is_not_in_the_audit_log(self, store: Everything) -> None:
        org = await store.add_org(new_org(), "", NOBODY)
        seq = await newest_seq(store)
        with pytest.raises(CodedError):
            await store.change_org(org.id, OrgChanges(plan="no-such-plan"), NOBODY)
        assert await written_since(store, seq) == []

    async def test_the_audit_log_is_read_by_organisation_thing_and_action(self, store: Everything) -> None:
        org, other = (await store.add_org(new_org(), "", NOBODY), await store.add_org(new_org(), "", NOBODY))
        await store.change_org(org.id, OrgChanges(name="new"), NOBODY)
        found = await store.records(before_seq=2**62, limit=10, org_id=org.id)
        assert [record.entry.action for record in found] == ["org.update", "org.create"]
        assert await store.records(before_seq=found[0].seq, limit=10, org_id=org.id) == found[1:]
        assert await store.records(before_seq=2**62, limit=10, object_id=org.id, action="org.update") == found[:1]
        assert len(await store.records(before_seq=2**62, limit=10, object_id=other.id)) == 1
