"""Identity's README says what its operators will find."""

from pathlib import Path

import pytest

from crosslogic_common.metrics import Metrics
from crosslogic_identity.metrics import IdentityMetrics

README = Path(__file__).parents[2] / "services/identity/README.md"


@pytest.fixture
def readme() -> str:
    return README.read_text(encoding="utf-8")


def test_every_metric_of_identity_is_in_the_readme(readme: str) -> None:
    metrics = Metrics()
    own = IdentityMetrics(metrics)
    own.resolved("found")
    own.cache_write("stored")
    own.pushed("org")
    names = {
        line.split("{")[0].split(" ")[0]
        for line in metrics.text().decode().splitlines()
        if line.startswith("crosslogic_identity_") and "_created" not in line
    }
    assert names
    assert [name for name in sorted(names) if name not in readme] == []
