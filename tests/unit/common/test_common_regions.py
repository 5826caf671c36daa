"""The region table: the documented default, and what an operator's own file may not say."""

from decimal import Decimal
from pathlib import Path

import pytest

from crosslogic_common.regions import RegionError, RegionTable, default_regions, regions_file


def table(*rows: str) -> RegionTable:
    return RegionTable.parse("\n".join(f"[[region]]\n{row}" for row in rows))


def test_customers_are_pinned_where_they_expect_their_data() -> None:
    regions = default_regions()
    for word, country, code in (
        ("india", "IN", "in-mumbai"), ("us", "US", "us-virginia"),
        ("eu", "DE", "eu-frankfurt"), ("apac", "SG", "ap-singapore"),
    ):  # fmt: skip
        assert regions.code(word) == code
        pinned = regions.for_country(country)
        assert pinned is not None
        assert pinned.code == code
    assert regions.for_country("AQ") is None


def test_who_takes_over_for_whom() -> None:
    fallbacks = {region.code: region.fallback for region in default_regions().regions.values()}
    assert fallbacks["in-mumbai"] == ("ap-singapore", "eu-frankfurt", "us-virginia")
    assert fallbacks["eu-frankfurt"] == ("us-virginia", "ap-singapore")
    assert fallbacks["us-virginia"] == ("eu-frankfurt",)


def test_a_node_that_states_its_clouds_name_is_in_the_region() -> None:
    regions = default_regions()
    assert {regions.code(name) for name in ("ap-south-1", "asia-south1", "centralindia", "in-mumbai")} == {"in-mumbai"}
    for region in regions.regions.values():
        assert set(region.clouds) == {"aws", "gcp", "azure"}
        assert region.node_pools
        assert region.cost_multiplier > 0


def test_a_region_of_a_customers_own_needs_no_row() -> None:
    assert default_regions().code("customer-site") == "customer-site"
    assert default_regions().get("customer-site") is None


def test_an_operators_table_replaces_the_default(tmp_path: Path) -> None:
    file = tmp_path / "regions.toml"
    file.write_text('[[region]]\ncode = "mars"\nname = "Mars"\ncost_multiplier = "12.5"\n')
    regions = regions_file(str(file))
    assert list(regions.regions) == ["mars"]
    assert regions.regions["mars"].cost_multiplier == Decimal("12.5")
    assert regions_file("").get("us") is not None
    with pytest.raises(ValueError, match="cannot be read"):
        regions_file(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ((), "no region table"),
        (('code = "a"',), "name"),
        (('code = "A"\nname = ""',), "1 to 63"),
        (('code = "a"\nname = ""', 'code = "a"\nname = ""'), "each code once"),
        (('code = "a"\nname = ""\nfallback = ["b"]',), "no region's code"),
        (('code = "a"\nname = ""\nfallback = ["a"]',), "itself"),
        (('code = "a"\nname = ""\naliases = ["b"]', 'code = "b"\nname = ""'), "names both"),
        (('code = "a"\nname = ""\ncountries = ["IN"]', 'code = "b"\nname = ""\ncountries = ["IN"]'), "country IN"),
        (('code = "a"\nname = ""\ncountries = ["India"]',), "two capital letters"),
        (('code = "a"\nname = ""\ncost_multiplier = "0"',), "above 0"),
        (('code = "a"\nname = ""\ncost_multiplier = "1e308"',), "above 0"),
        (('code = "a"\nname = ""\ncost_multiplier = 1.1',), "no region table"),
        (('code = "a"\nname = ""\nfallbacks = []',), "unknown field"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused_with_the_reason(rows: tuple[str, ...], told: str) -> None:
    with pytest.raises(RegionError, match=told):
        table(*rows)
