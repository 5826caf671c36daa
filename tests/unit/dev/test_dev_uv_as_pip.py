"""Behind a company's mirror `make venv` installs from there, whichever tool is at work, and asks nobody else."""

import pytest

from scripts.uv_as_pip import variables


def test_without_a_configuration_nothing_has_to_be_told() -> None:
    assert variables("") == {}


def test_indexes_and_folders_are_told_and_the_environment_counts_most() -> None:
    listed = """\
:env:.disable-pip-version-check='1'
:env:.index-url='https://mirror.example/simple'
global.cert='/etc/ssl/ca.crt'
global.extra-index-url='file:///a/simple file:///b/simple'
global.find-links='/x\\n/y'
global.index-url='https://other.example/simple'
"""
    assert variables(listed) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "file:///a/simple file:///b/simple",
        "UV_FIND_LINKS": "/x,/y",
    }


@pytest.mark.parametrize("line", ["global.no-index='true'", "global.proxy='http://p:1'", "install.no-binary=':all:'"])
def test_what_uv_cannot_be_told_is_left_to_pip(line: str) -> None:
    assert variables(f"global.index-url='https://mirror.example/simple'\n{line}\n") is None
