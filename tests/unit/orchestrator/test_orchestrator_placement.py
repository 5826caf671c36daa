"""Where machines are launched: the cheapest place that meets the constraints, interruptions counted in."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crosslogic_common.regions import default_regions
from crosslogic_orchestrator.scaling.catalogue import CatalogueError, read_catalogue
from crosslogic_orchestrator.scaling.domain import ANYWHERE, Constraints
from crosslogic_orchestrator.scaling.forecast import Hour, pattern_of
from crosslogic_orchestrator.scaling.placement import Kind, Lived, Question, offers_of, rate_of

DOLLAR = 10**12
NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
ASKED = Question(constraints=ANYWHERE, strategy="cost", lived={}, counts={})


def kind(
    provider: str, on_demand: float, spot: float | None = None, *, region: str = "us-east", gpu: str = "L4"
) -> Kind:
    return Kind(
        provider=provider,
        region=region,
        instance_type="g",
        gpu=gpu,
        gpu_count=1,
        vram_bytes=24 * 2**30,
        on_demand_picodollars=round(on_demand * DOLLAR),
        spot_picodollars=None if spot is None else round(spot * DOLLAR),
    )


def places(*kinds: Kind, question: Question = ASKED) -> list[tuple[str, bool]]:
    return [(offer.provider, offer.spot) for offer in offers_of(kinds, question)]


def test_cheapest_comes_first_and_says_why() -> None:
    offers = offers_of([kind("aws", 2.0, 1.0), kind("gcp", 1.5)], ASKED)
    assert [(offer.provider, offer.spot) for offer in offers] == [("aws", True), ("gcp", False), ("aws", False)]
    assert offers[0].why == "$1.0000 an hour as spot, $1.0017 with interruptions: 0.050 an hour, 120 s to start again"


def test_spot_that_is_taken_back_all_the_time_is_dearer_than_it_looks() -> None:
    often = replace(ASKED, lived={"aws/us-east/g": Lived(hours=10, taken=300)}, start_s=600)
    assert places(kind("aws", 3.0, 1.0), kind("gcp", 3.0, 1.2), question=often)[0] == ("gcp", True)
    assert rate_of(Lived(hours=10, taken=300)) == pytest.approx(10.03, abs=0.01)


def test_availability_shuns_what_cost_would_take() -> None:
    lived = {"aws/us-east/g": Lived(hours=1_000, taken=400)}
    cost, careful = replace(ASKED, lived=lived), replace(ASKED, lived=lived, strategy="availability")
    kinds = (kind("aws", 3.0, 1.0), kind("gcp", 3.0, 1.1))
    assert places(*kinds, question=cost)[0] == ("aws", True)
    assert places(*kinds, question=careful)[0] == ("gcp", True)


def test_spread_takes_the_place_with_the_fewest() -> None:
    question = replace(ASKED, strategy="spread", counts={"aws/us-east/g": 2, "gcp/us-east/g": 1})
    assert places(kind("aws", 1.0), kind("gcp", 2.0), question=question) == [("gcp", False), ("aws", False)]


def test_place_where_launches_fail_comes_last_but_comes() -> None:
    question = replace(ASKED, failing=frozenset({"aws/us-east/g"}))
    assert places(kind("aws", 1.0), kind("gcp", 2.0), question=question) == [("gcp", False), ("aws", False)]


@pytest.mark.parametrize(
    "constraints",
    [
        Constraints(providers=("gcp",)),
        Constraints(regions=("eu-west",)),
        Constraints(gpu="h100"),
        Constraints(min_vram_bytes=25 * 2**30),
        Constraints(instance_types=("x",)),
    ],
)
def test_what_does_not_meet_the_constraints_is_not_offered(constraints: Constraints) -> None:
    assert places(kind("aws", 1.0), question=replace(ASKED, constraints=constraints)) == []


def test_catalogue_is_read_as_skypilot_writes_it_and_nonsense_rows_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "aws").mkdir()
    (tmp_path / "aws/vms.csv").write_text(
        "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone\n"
        "g6.xlarge,L4,1.0,4.0,16.0,\"{'Gpus': [], 'TotalGpuMemoryInMiB': 22888}\",0.8,0.4,us-east-1,us-east-1a\n"
        "g6.xlarge,L4,1.0,4.0,16.0,\"{'Gpus': [], 'TotalGpuMemoryInMiB': 22888}\",0.8,0.3,us-east-1,us-east-1b\n"
        "free,L4,1.0,4.0,16.0,__import__('os'),0,,us-east-1,us-east-1b\n"
        "odd,L4,nan,4.0,16.0,[[[,inf,-1,us-east-1,us-east-1b\n"
    )
    (found,) = read_catalogue(tmp_path, default_regions())
    assert found.region == default_regions().code("us-east-1")
    assert (found.on_demand_picodollars, found.spot_picodollars) == (800_000_000_000, 300_000_000_000)
    assert found.vram_bytes == 22888 * 2**20


def test_catalogue_without_prices_is_refused(tmp_path: Path) -> None:
    (tmp_path / "aws.csv").write_text("InstanceType,Region\ng,us-east-1\n")
    with pytest.raises(CatalogueError, match="no column Price, SpotPrice"):
        read_catalogue(tmp_path, default_regions())


def hours_of(days: int, *, burst_day: int = -1) -> list[Hour]:
    start = datetime(2026, 11, 20, tzinfo=UTC) - timedelta(days=days)
    return [
        Hour(start + timedelta(hours=n), 10, (36_000 if n % 24 == 13 else 3_600) * (50 if n // 24 == burst_day else 1))
        for n in range(24 * days)
    ]


def test_usual_hour_is_foreseen_and_a_burst_of_one_day_is_not() -> None:
    pattern = pattern_of(hours_of(5, burst_day=2), now=NOW)
    assert pattern.most(datetime(2026, 11, 20, 13, 0, tzinfo=UTC), ahead_s=1_800) == pytest.approx(10.0)
    assert pattern.most(datetime(2026, 11, 20, 5, 0, tzinfo=UTC), ahead_s=600) == pytest.approx(1.0)


def test_two_days_are_no_pattern_but_tell_how_long_requests_are() -> None:
    pattern = pattern_of(hours_of(2), now=NOW)
    assert pattern.most(NOW, ahead_s=600) == 0
    assert pattern.tokens_per_request > 0
