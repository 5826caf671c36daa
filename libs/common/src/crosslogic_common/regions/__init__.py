"""The region table: where nodes stand, whose customers they serve, what they cost, who takes over for whom."""

from crosslogic_common.regions.table import Region, RegionError, RegionTable, default_regions, regions_file

__all__ = ["Region", "RegionError", "RegionTable", "default_regions", "regions_file"]
