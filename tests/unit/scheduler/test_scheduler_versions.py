"""Two versions of a model serve at once: who gets which, and that nobody is refused or changes version in a stream."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.outliers import OutlierPolicy, Seen
from tests.fakes.scheduler_questions import Asked
from tests.fakes.scheduler_world import World, told_node


def world(*shares: tuple[str, int], old: int = 2, new: int = 2) -> World:
    made = World()
    made.tell_all(
        *(told_node(f"old-{number}", version="v1") for number in range(old)),
        *(told_node(f"new-{number}", version="v2") for number in range(new)),
    )
    made.serve(*shares)
    return made


def versions(made: World, asked: Asked = Asked(), count: int = 4_000) -> Counter[str]:  # noqa: B008  # frozen
    return Counter(node_id.partition("-")[0] for node_id in made.picks(asked, count).elements())


def test_versions_do_not_matter_until_the_catalogue_names_one() -> None:
    made = world()
    assert versions(made)["new"] > 1_000


def test_new_nodes_that_are_staged_get_nothing_not_even_when_the_old_ones_are_gone() -> None:
    made = world(("v1", 1_000))
    assert versions(made) == {"old": 4_000}
    made.tell_all(told_node("new-0", version="v2"))
    with pytest.raises(CodedError) as refused:
        made.pick()
    assert refused.value.code is ErrorCode.NO_CAPACITY


@pytest.mark.parametrize("per_mille", [50, 250, 500])
def test_each_version_gets_its_share(per_mille: int) -> None:
    made = world(("v1", 1_000 - per_mille), ("v2", per_mille))
    assert versions(made, count=10_000)["new"] == pytest.approx(per_mille * 10, abs=200)


def test_the_other_version_takes_over_where_one_has_no_node() -> None:
    made = world(("v1", 500), ("v2", 500), new=0)
    assert versions(made) == {"old": 4_000}
    made = world(("v1", 0), ("v2", 1_000), new=0)
    assert versions(made) == {"old": 4_000}
    made = world(("v1", 0), ("v2", 1_000))
    assert versions(made) == {"new": 4_000}


def test_the_other_versions_sound_node_comes_before_a_spared_one() -> None:
    made = World()
    made.tell_all(told_node("old-0", version="v1"), told_node("new-0", version="v2", health=10))
    made.serve(("v1", 0), ("v2", 1_000))
    assert versions(made) == {"old": 4_000}


def test_a_version_whose_nodes_are_full_leaves_requests_to_the_other() -> None:
    made = World()
    made.tell_all(told_node("old-0", version="v1"), told_node("new-0", version="v2", current=1_000.0, running=20))
    made.serve(("v1", 500), ("v2", 500))
    assert versions(made) == {"old": 4_000}


def test_a_request_that_failed_somewhere_tries_the_proven_version() -> None:
    made = world(("v1", 100), ("v2", 900), new=5)
    assert versions(made, Asked(excluded_node_ids=("new-0",))) == {"old": 4_000}


def test_a_stream_goes_on_at_its_own_version_or_not_at_all() -> None:
    made = world(("v1", 1_000))
    asked = Asked(excluded_node_ids=("new-0",))
    assert {made.view.pick(asked, "v2")[0].id for _ in range(50)} == {"new-1"}
    with pytest.raises(CodedError) as refused:
        made.view.pick(Asked(excluded_node_ids=("new-0", "new-1")), "v2")
    assert refused.value.code is ErrorCode.NO_CAPACITY


def test_a_stream_goes_on_at_its_own_version_also_where_versions_do_not_matter_yet() -> None:
    made = World()
    made.tell_all(told_node("a", org="o"), told_node("b"), told_node("c", version="v2"), told_node("d", version="v2"))
    asked = Asked(org_id="o", excluded_node_ids=("d",))
    assert {made.view.pick(asked, "v2")[0].id for _ in range(5)} == {"c"}
    assert {made.view.pick(asked, "")[0].id for _ in range(5)} == {"a"}


def test_an_organisations_own_nodes_serve_it_whatever_their_version() -> None:
    made = world(("v1", 1_000))
    made.tell(told_node("own-0", org="o", version="v9"))
    assert versions(made, Asked(org_id="o")) == {"own": 4_000}


def test_a_session_moves_once_while_shares_shift() -> None:
    asked = [Asked(session_key=key * 0x9E3779B97F4A7C15 % 2**64 or 1) for key in range(1, 200)]
    moved = [0] * len(asked)
    before = ["old"] * len(asked)
    made = world()
    for percent in (5, 25, 50, 100):
        made.serve(("v1", 1_000 - percent * 10), ("v2", percent * 10))
        for at, each in enumerate(asked):
            version = made.pick(each).id.partition("-")[0]
            moved[at] += version != before[at]
            before[at] = version
    assert moved == [1] * len(asked)


def test_no_request_tries_an_ejected_node_of_a_version_that_was_sent_back() -> None:
    made = world(("v1", 500), ("v2", 500))
    for number in range(2):
        made.view.report(f"new-{number}", Seen(0, 10, 10, 0))
    assert made.view.ejected == 2
    made.serve(("v1", 1_000))
    made.now += OutlierPolicy().base_ejection_s + 1.0
    assert versions(made) == {"old": 4_000}


def test_a_node_that_comes_back_with_another_version_is_found_as_that() -> None:
    made = world(("v1", 1_000))
    made.tell(told_node("old-0", version="v2"))
    assert set(made.picks()) == {"old-1"}


@given(
    st.integers(0, 3), st.integers(0, 3), st.integers(0, 1_000), st.booleans(), st.sampled_from([None, "v1", "v2", ""])
)
def test_nobody_is_refused_while_a_node_that_may_serve_is_there(
    old: int, new: int, per_mille: int, retried: bool, pinned: str | None
) -> None:
    made = world(("v1", 1_000 - per_mille), ("v2", per_mille), old=old, new=new)
    asked = Asked(excluded_node_ids=("gone",) if retried else ())
    there = {"v1": old, "v2": new, "": 0}
    if sum(there.values()) if pinned is None else there[pinned]:
        node = made.view.pick(asked, pinned)[0]
        assert pinned in (None, node.version)
    else:
        with pytest.raises(CodedError):
            made.view.pick(asked, pinned)
