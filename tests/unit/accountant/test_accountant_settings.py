"""The accountant's settings and README."""

from pathlib import Path

from crosslogic_accountant.settings import AccountantSettings
from crosslogic_common.settings import describe

README = Path(__file__).parents[3] / "services/accountant/README.md"


def test_the_readme_tells_every_setting_as_it_is() -> None:
    assert describe(AccountantSettings) in README.read_text(encoding="utf-8")
