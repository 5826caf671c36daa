"""What billing charges by is written down as it changes, whoever changes it."""

from collections.abc import AsyncIterator
from importlib.resources import files

import pytest

from crosslogic_common.postgres import Pool, migrate, open_pool
from crosslogic_identity.domain import OrgChanges, PlanChanges
from crosslogic_identity.plan_store import PostgresPlanStore
from crosslogic_identity.store import PostgresStore
from crosslogic_identity.term_changes import PostgresTermChanges, TermChange
from tests.contract.identity_store_suite import new_org
from tests.contract.identity_terms_suite import new_plan
from tests.fakes.identity_store import NOBODY


@pytest.fixture
async def pool(pg_url: str) -> AsyncIterator[Pool]:
    await migrate(pg_url, schema="identity", migrations=files("crosslogic_identity.migrations"))
    async with open_pool(pg_url, schema="identity", max_size=4) as opened:
        yield opened


async def of(pool: Pool, *names: str) -> list[TermChange]:
    """Changes of some plans and organisations."""
    page = await PostgresTermChanges(pool).page(since=None, after=0, limit=1_000)
    return [change for change in page if change.org_id in names or (not change.org_id and change.plan in names)]


async def test_billing_hears_of_every_change_of_plan_and_capacity_and_of_nothing_else(pool: Pool) -> None:
    orgs, plans = PostgresStore(pool), PostgresPlanStore(pool)
    plan = await plans.add_plan(new_plan(), NOBODY)
    org = await orgs.add_org(new_org(), "", NOBODY)
    await orgs.change_org(org.id, OrgChanges(name="Another name", allowed_regions=("eu-west",)), NOBODY)
    await plans.change_plan(plan.name, PlanChanges(priority="low"), NOBODY)
    await plans.change_plan(plan.name, PlanChanges(billing_mode="reserved", overage_policy="bill"), NOBODY)
    await orgs.change_org(org.id, OrgChanges(plan=plan.name), NOBODY)
    await orgs.change_org(org.id, OrgChanges(reserved_capacity=(("llama-3-8b", 3),)), NOBODY)
    changes = await of(pool, plan.name, org.id)
    assert [(one.org_id, one.plan, one.reserved_capacity, one.billing_mode, one.overage_policy) for one in changes] == [
        ("", plan.name, (), "serverless", "shed"),
        (org.id, "default", (), None, None),
        ("", plan.name, (), "reserved", "bill"),
        (org.id, plan.name, (), None, None),
        (org.id, plan.name, (("llama-3-8b", 3),), None, None),
    ]
    times = [change.from_time for change in changes]
    assert times == sorted(set(times))


async def test_a_reader_goes_on_where_it_was_and_a_page_ends_nowhere_in_between(pool: Pool) -> None:
    orgs, changes = PostgresStore(pool), PostgresTermChanges(pool)
    made = [(await orgs.add_org(new_org(), "", NOBODY)).id for _ in range(3)]
    first, second, third = await of(pool, *made)
    assert [one.org_id for one in await changes.page(since=first.from_time, after=first.id, limit=2)] == made[1:]
    assert list(await changes.page(since=third.from_time, after=0, limit=9)) == [third]
    assert second.id < third.id


async def test_a_plan_from_before_the_upgrade_counts_from_the_upgrade_on(pool: Pool) -> None:
    # An earlier migration made it, when there was no trigger yet.
    async with pool.connection() as connection:
        found = await connection.execute("SELECT plan, billing_mode FROM term_changes WHERE org_id IS NULL ORDER BY id")
        rows = await found.fetchall()
    assert ("default", "serverless") in rows
