"""A region that is down: who goes where, who stays, and how it comes back."""

import random
from collections import Counter

import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_scheduler.failover import BURST, Shares, next_region
from tests.fakes.scheduler_questions import Asked
from tests.fakes.scheduler_world import World, told_node

EVERYWHERE = ("in-mumbai", "ap-singapore", "eu-frankfurt", "us-virginia")


def clients(count: int, seed: int = 3) -> list[int]:
    draw = random.Random(seed)
    return [draw.getrandbits(64) or 1 for _ in range(count)]


def world(*regions: str, share: float = 0.2) -> World:
    made = World(share=share)
    made.tell_all(*(told_node(f"{region}-{number}", region=region) for region in regions for number in range(3)))
    return made


def served_from(made: World, region: str, client_keys: list[int], **asked: bool) -> dict[int, str]:
    """Where each client's request goes; "" where nowhere."""
    found = {}
    for key in client_keys:
        try:
            node, failed_over = made.route(Asked(region=region, client_key=key, **asked))  # type: ignore[arg-type]
        except CodedError as error:
            if error.code is not ErrorCode.NO_CAPACITY or error.retry_after_s is None:
                raise
            found[key] = ""
        else:
            assert failed_over == (node.region != region)
            found[key] = node.region
    return found


def test_a_region_that_is_up_serves_all_of_its_own() -> None:
    made = world(*EVERYWHERE)
    assert set(served_from(made, "in-mumbai", clients(200)).values()) == {"in-mumbai"}


def test_a_region_that_is_down_sends_a_fifth_to_each_next_one_in_order() -> None:
    made = world("ap-singapore", "eu-frankfurt", "us-virginia")
    counts = Counter(served_from(made, "in-mumbai", clients(4000)).values())
    for region in ("ap-singapore", "eu-frankfurt", "us-virginia"):
        assert 0.15 * 4000 < counts[region] <= 0.2 * 4000 + BURST
    assert counts[""] == 4000 - sum(counts[region] for region in EVERYWHERE)
    assert made.failed_over["in-mumbai"] == 4000 - counts[""]


def test_each_region_falls_back_as_the_table_says() -> None:
    assert set(served_from(world(*EVERYWHERE[1:]), "in-mumbai", clients(300)).values()) == {*EVERYWHERE[1:], ""}
    europe_down = world("in-mumbai", "ap-singapore", "us-virginia")
    assert set(served_from(europe_down, "eu-frankfurt", clients(300)).values()) == {"us-virginia", "ap-singapore", ""}
    usa_down = world("in-mumbai", "ap-singapore", "eu-frankfurt")
    assert set(served_from(usa_down, "us-virginia", clients(300)).values()) == {"eu-frankfurt", ""}


def test_a_client_stays_where_it_was_sent_also_when_a_further_region_goes_down() -> None:
    made = world("ap-singapore", "eu-frankfurt", "us-virginia")
    keys = clients(300)
    first = served_from(made, "in-mumbai", keys)
    assert served_from(made, "in-mumbai", keys) == first
    for number in range(3):
        made.view.apply(pb.WatchNodesResponse(removed_node_ids=[f"eu-frankfurt-{number}"]))
    later = served_from(made, "in-mumbai", keys)
    assert {key for key in keys if later[key] != first[key]} == {key for key in keys if first[key] == "eu-frankfurt"}


def test_one_client_that_sends_most_of_the_traffic_does_not_flood_the_next_region() -> None:
    made = world("eu-frankfurt")
    heavy = next(key for key in clients(100) if next_region(key, ("eu-frankfurt",), 0.2) is not None)
    counts = Counter(served_from(made, "us-virginia", [heavy]).get(heavy) for _ in range(1000))
    assert counts["eu-frankfurt"] <= 0.2 * 1000 + BURST


def test_the_share_is_the_operators_to_set() -> None:
    assert set(served_from(world("eu-frankfurt", share=0.0), "us-virginia", clients(100)).values()) == {""}
    assert set(served_from(world("eu-frankfurt", share=1.0), "us-virginia", clients(100)).values()) == {"eu-frankfurt"}
    counts = Counter(served_from(world("eu-frankfurt", share=0.5), "us-virginia", clients(2000)).values())
    assert 900 < counts["eu-frankfurt"] <= 1000 + BURST


def test_data_that_must_stay_in_its_region_never_leaves_it() -> None:
    made = world("ap-singapore", "eu-frankfurt", "us-virginia", share=1.0)
    assert set(served_from(made, "in-mumbai", clients(200), residency_pinned=True).values()) == {""}
    made.tell(told_node("silent", region="in-mumbai", reachable=False))
    assert set(served_from(made, "in-mumbai", clients(200), residency_pinned=True).values()) == {"in-mumbai"}


def test_a_tenant_that_names_its_regions_is_taken_over_by_these_only_in_their_order() -> None:
    made = world("ap-singapore", "eu-frankfurt", "us-virginia", share=1.0)
    asked = Asked(region="in-mumbai", client_key=1, allowed_regions=("india", "europe", "us"))
    assert made.route(asked)[0].region == "eu-frankfurt"
    with pytest.raises(CodedError):
        made.route(Asked(region="in-mumbai", client_key=1, allowed_regions=("in-mumbai",)))
    # Regions that the table does not know have a fallback where the tenant names one.
    made.tell(told_node("own-site", region="site-b"))
    assert made.route(Asked(region="site-a", allowed_regions=("site-a", "site-b")))[0].id == "own-site"


def test_who_is_not_taken_over_tries_the_silent_nodes_at_home() -> None:
    made = world("us-virginia", "ap-singapore")
    made.tell(*(told_node(f"silent{number}", region="eu-frankfurt", reachable=False) for number in range(2)))
    counts = Counter(served_from(made, "eu-frankfurt", clients(1000)).values())
    assert counts[""] == 0
    assert counts["us-virginia"] > 100
    assert counts["ap-singapore"] > 100
    assert counts["eu-frankfurt"] > 500


def test_when_nothing_is_heard_of_any_region_everybody_stays_at_home() -> None:
    """The registry is cut off, not the world."""
    made = World()
    made.tell_all(*(told_node(f"{region}-n", region=region, reachable=False) for region in EVERYWHERE))
    for region in EVERYWHERE:
        assert set(served_from(made, region, clients(50)).values()) == {region}


def test_a_region_comes_back_by_itself() -> None:
    made = world("eu-frankfurt")
    keys = clients(200)
    assert "eu-frankfurt" in served_from(made, "us-virginia", keys).values()
    made.tell(told_node("back", region="us-virginia"))
    assert set(served_from(made, "us-virginia", keys).values()) == {"us-virginia"}


def test_a_region_whose_nodes_all_failed_this_one_request_is_not_down() -> None:
    made = world("us-virginia", "eu-frankfurt", share=1.0)
    excluded = tuple(f"us-virginia-{number}" for number in range(3))
    with pytest.raises(CodedError):
        made.route(Asked(region="us-virginia", excluded_node_ids=excluded))


def test_an_organisations_own_node_abroad_serves_it_first_and_nobody_else() -> None:
    made = world("eu-frankfurt", share=1.0)
    made.tell(told_node("own", region="eu-frankfurt", org="org-a"))
    assert made.route(Asked(region="us-virginia", org_id="org-a")) == (made.view._nodes["own"], True)
    assert "own" not in made.picks(Asked(region="us-virginia", org_id="org-b"))


def test_a_model_that_is_away_in_one_region_only_moves_alone() -> None:
    made = world("us-virginia", "eu-frankfurt", share=1.0)
    made.tell(told_node("rare", region="eu-frankfurt", models=("rare",)))
    assert made.route(Asked(model="rare", region="us-virginia"))[1]
    assert not made.route(Asked(region="us-virginia"))[1]


def test_names_of_clouds_and_people_mean_the_same_region() -> None:
    made = World()
    made.tell_all(told_node("aws", region="ap-south-1"), told_node("gcp", region="asia-south1"))
    for name in ("in-mumbai", "india", "mumbai", "ap-south-1"):
        assert set(made.picks(Asked(region=name))) == {"aws", "gcp"}
    assert made.pick(Asked(region="india")).region == "in-mumbai"


def test_a_region_of_a_customers_own_has_no_fallback() -> None:
    made = world("us-virginia")
    with pytest.raises(CodedError):
        made.route(Asked(region="customer-site"))


def test_shares_forget_what_was_long_ago() -> None:
    shares = Shares(share=0.2)
    for _ in range(1000):
        shares.offer("a", 0.0)
    taken = sum(shares.take("a", "b", 1.0) for _ in range(1000))
    assert taken == 200 + BURST
    shares.offer("a", 30.0)
    assert sum(shares.take("a", "b", 30.0) for _ in range(1000)) == BURST


@pytest.mark.parametrize("key", [0, 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("share", [0.0, 1e-9, 0.2, 1 / 3, 1.0])
def test_no_key_and_no_share_lead_to_a_region_that_is_not_there(key: int, share: float) -> None:
    assert next_region(key, ("a", "b"), share) in ("a", "b", None)
