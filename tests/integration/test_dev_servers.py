"""What the suite's own PostgreSQL and Redis promise to whoever develops on them."""

import psycopg
import redis


def test_each_test_module_has_a_database_of_its_own(pg_url: str) -> None:
    with psycopg.connect(pg_url) as connection:
        connection.execute("CREATE TABLE only_here (id int)")
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (1,)


def test_postgres_is_new_enough_for_what_the_ledger_relies_on(pg_url: str) -> None:
    with psycopg.connect(pg_url) as connection:
        assert connection.info.server_version >= 180000


def test_a_stranger_on_the_machine_cannot_read_redis_without_its_password(redis_url: str) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    with redis.Redis(port=port) as stranger:
        try:
            stranger.ping()
        except redis.AuthenticationError:
            return
    raise AssertionError("redis answered without a password")


def test_one_tests_keys_are_not_seen_by_the_next(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "over")


def test_nor_the_other_way_round(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "over")
