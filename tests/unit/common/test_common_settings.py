"""Settings: an operator with a wrong environment reads every problem at once, and no log ever reads a secret."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_common.settings import (
    Secret,
    Settings,
    SettingsError,
    address,
    boolean,
    describe,
    existing_file,
    integer,
    json_strings,
    number,
    one_of,
    optional_address,
    secret_setting,
    setting,
    words,
)


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    listen: str = setting("LISTEN", parse=address, doc="where it listens")
    size: int = setting("SIZE", parse=integer(1, 10), default="5", doc="how many | at most")
    name: str = setting("NAME", doc="what it is called")
    token: Secret = secret_setting("TOKEN", doc="what admits an operator")
    spare: Secret = secret_setting("SPARE", default="", doc="another, if any")


GOOD = {"LISTEN": "127.0.0.1:80", "NAME": "n", "TOKEN": "s3cret-value"}


def test_every_problem_is_told_at_once_each_with_its_variable_and_meaning() -> None:
    with pytest.raises(SettingsError) as caught:
        Example.from_env({"LISTEN": "nowhere", "SIZE": "11", "NAME": ""})
    assert str(caught.value).splitlines() == [
        "LISTEN must be host:port, not 'nowhere' (where it listens)",
        "SIZE must be a whole number from 1 to 10, not '11' (how many | at most)",
        "NAME is empty (what it is called)",
        "TOKEN is not set (what admits an operator)",
    ]


def test_empty_admin_token_lets_nobody_start_a_server_that_admits_everybody() -> None:
    with pytest.raises(SettingsError, match="TOKEN is empty"):
        Example.from_env({**GOOD, "TOKEN": ""})


def test_secret_is_shown_by_no_repr_nor_str_nor_format() -> None:
    settings = Example.from_env(GOOD)
    shown = f"{settings} {settings!r} {settings.token} {settings.token!r}"
    assert "s3cret" not in shown
    assert settings.token.reveal() == "s3cret-value"
    assert settings.token
    assert not settings.spare


def test_secret_in_a_file_loses_only_the_newline_at_its_end(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" s3cret \r\n")
    environ = {**GOOD, "TOKEN_FILE": str(file)}
    del environ["TOKEN"]
    assert Example.from_env(environ).token.reveal() == " s3cret "


def test_secret_given_twice_is_refused_rather_than_one_of_the_two_used(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TOKEN and TOKEN_FILE are both set: keep one") as caught:
        Example.from_env({**GOOD, "TOKEN_FILE": str(tmp_path / "token")})
    assert "s3cret" not in str(caught.value)


def test_secret_file_that_cannot_be_read_is_named_and_its_bytes_are_not(tmp_path: Path) -> None:
    environ = {key: value for key, value in GOOD.items() if key != "TOKEN"}
    with pytest.raises(SettingsError, match=r"TOKEN cannot be read: TOKEN_FILE names .*missing.*No such file"):
        Example.from_env({**environ, "TOKEN_FILE": str(tmp_path / "missing")})
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfekey")
    with pytest.raises(SettingsError, match="not UTF-8 text") as caught:
        Example.from_env({**environ, "TOKEN_FILE": str(binary)})
    assert "xff" not in str(caught.value)


def test_readme_table_has_a_row_a_setting_and_survives_a_bar_in_its_text() -> None:
    assert describe(Example).splitlines() == [
        "| variable | default | meaning |",
        "|---|---|---|",
        "| `LISTEN` | required | where it listens |",
        "| `SIZE` | `5` | how many \\| at most |",
        "| `NAME` | required | what it is called |",
        "| `TOKEN` or `TOKEN_FILE` | required | what admits an operator |",
        "| `SPARE` or `SPARE_FILE` | empty | another, if any |",
    ]


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (boolean, "Yes", True),
        (boolean, "off", False),
        (integer(-5, 5), "-5", -5),
        (number(0, 10), "2.5", 2.5),
        (address, "[::1]:8080", "[::1]:8080"),
        (address, "localhost:0", "localhost:0"),
        (optional_address, "", ""),
        (one_of("a", "b"), "b", "b"),
        (words, " a, b ,,c", ("a", "b", "c")),
        (json_strings, '["vllm", "--port"]', ("vllm", "--port")),
        (json_strings, "", ()),
    ],
)
def test_what_is_written_is_what_is_meant(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (boolean, "maybe"),
        (integer(0, 5), "1.0"),
        (integer(0, 5), "²"),
        (integer(0, 5), "--1"),
        (integer(0, 5), "9" * 5000),
        (number(0, 10), "nan"),
        (number(0, 10), "inf"),
        (number(0, 10), "ten"),
        (address, "::1:80"),
        (address, ":80"),
        (address, "host:65536"),
        (address, "host:٣"),
        (address, " host:80"),
        (address, "http://host"),
        (one_of("a", "b"), "A"),
        (existing_file, "/nowhere/at/all"),
        (json_strings, "vllm serve"),
        (json_strings, '{"a": 1}'),
        (json_strings, "[1]"),
    ],
)
def test_what_is_not_meant_is_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse(text)


@given(st.text(), st.sampled_from([boolean, integer(0, 9), number(0, 9), address, one_of("a"), json_strings, words]))
def test_no_text_makes_a_parser_fail_in_another_way(text: str, parse: Callable[[str], object]) -> None:
    try:
        parse(text)
    except ValueError as error:
        assert str(error).startswith("must")  # noqa: PT017  # not raising is as good
