"""When three witnesses say that a node is gone, and when not."""

import math

from hypothesis import given
from hypothesis import strategies as st

from crosslogic_registry.domain import STATUSES, Link, Silence
from crosslogic_registry.testimony import (
    MASS_NODES,
    Probe,
    cause,
    is_dead,
    is_mass_silence,
    is_missing,
)
from crosslogic_registry.testimony import Testimony as Said

links: st.SearchStrategy[Link] = st.sampled_from(["here", "elsewhere", "broken"])
silences = st.builds(
    lambda suspect, more, most: Silence(suspect_s=suspect, unhealthy_s=suspect + more, dead_s=suspect + more + most),
    st.floats(0.1, 10),
    st.floats(0, 60),
    st.floats(1, 600),
)
testimonies = st.builds(
    Said,
    status=st.sampled_from(STATUSES),
    link=links,
    silent_s=st.floats(0, 1000),
    heard_by_gateways_s=st.none() | st.floats(0, 1000) | st.just(math.inf),
    probe=st.sampled_from(Probe),
)


def said(silent_s: float, heard_s: float | None = None, probe: Probe = Probe.NONE, link: Link = "broken") -> Said:
    return Said("active", link, silent_s, heard_s, probe)


@given(silences, links, st.floats(0, 1000), st.floats(0, 1000))
def test_silence_never_makes_a_node_better(silence: Silence, link: Link, early: float, more: float) -> None:
    before, after = said(early, link=link), said(early + more, link=link)
    if is_missing(before, silence):
        assert is_missing(after, silence)
    if is_dead(before, silence, blind=False, mass=False):
        assert is_dead(after, silence, blind=False, mass=False)


@given(silences, testimonies, st.booleans())
def test_a_node_is_unreachable_before_it_is_dead(silence: Silence, what: Said, mass: bool) -> None:
    if is_dead(what, silence, blind=False, mass=mass):
        assert is_missing(what, silence)


@given(silences, testimonies, st.booleans())
def test_nobody_is_given_up_by_a_replica_that_cannot_see(silence: Silence, what: Said, mass: bool) -> None:
    assert not is_dead(what, silence, blind=True, mass=mass)


@given(silences, testimonies)
def test_node_that_any_one_witness_hears_is_never_given_up(silence: Silence, what: Said) -> None:
    heard_s = what.heard_by_gateways_s
    if (
        what.silent_s < silence.dead_s
        or what.probe is Probe.ALIVE
        or (heard_s is not None and heard_s < 15 <= silence.unhealthy_s)
    ):
        assert not is_dead(what, silence, blind=False, mass=False)


@given(silences, testimonies)
def test_in_a_mass_silence_only_the_proven_dead_are_given_up(silence: Silence, what: Said) -> None:
    if what.probe is not Probe.REFUSED:
        assert not is_dead(what, silence, blind=False, mass=True)


def test_cut_between_registry_and_node_alone_leaves_a_node_that_serves_in_service() -> None:
    serving = said(600, heard_s=0.8, probe=Probe.SILENT)
    assert not is_missing(serving, Silence())
    assert not is_dead(serving, Silence(), blind=False, mass=False)


def test_killed_nodes_last_bytes_at_a_gateway_do_not_keep_it_in_service() -> None:
    assert is_missing(said(3.1, heard_s=2.9), Silence())
    assert is_missing(said(3.1, heard_s=math.inf), Silence())


def test_idle_node_that_no_gateway_uses_is_judged_by_heartbeat_and_probe() -> None:
    assert is_dead(said(61, probe=Probe.SILENT), Silence(), blind=False, mass=False)
    assert is_dead(said(61, heard_s=3600.0, probe=Probe.REFUSED), Silence(), blind=False, mass=True)
    assert not is_dead(said(61, probe=Probe.ALIVE), Silence(), blind=False, mass=False)


def test_one_dead_node_of_two_is_no_mass_silence_and_six_of_ten_are() -> None:
    assert not is_mass_silence(1, 2)
    assert not is_mass_silence(MASS_NODES - 1, MASS_NODES - 1)
    assert is_mass_silence(6, 10)
    assert not is_mass_silence(5, 10)
    assert is_mass_silence(10_000, 10_000)


def test_why_a_node_was_given_up_names_every_witness() -> None:
    assert cause(said(61)) == "no gateway uses it; probe: not probed"
    assert cause(said(61, heard_s=40.2, probe=Probe.SILENT)) == "gateways heard it 40 s ago; probe: silent"
    assert cause(said(61, heard_s=math.inf)) == "no gateway hears it; probe: not probed"
