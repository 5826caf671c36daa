"""The gateway's README says what its operators will find."""

import re
from pathlib import Path

import pytest

from crosslogic_gateway.admin.routes import OPERATIONS
from crosslogic_gateway.inference import APIS

GATEWAY = Path(__file__).parents[2] / "services/gateway"


@pytest.fixture
def readme() -> str:
    return (GATEWAY / "README.md").read_text(encoding="utf-8")


def test_every_metric_is_in_the_readme(readme: str) -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted(GATEWAY.glob("src/**/*.py")))
    names = set(re.findall(r'"(crosslogic_(?!gateway)[a-z_]+)"', source))
    assert names
    assert [name for name in sorted(names) if f"`{name}" not in readme] == []


def test_every_inference_path_is_in_the_readme(readme: str) -> None:
    assert [api.path for api in APIS if f"{api.path}`" not in readme] == []
    assert all(operation.path.startswith("/admin/") for operation in OPERATIONS)
