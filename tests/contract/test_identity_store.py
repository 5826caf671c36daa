"""The fake store does what the real one does."""

import pytest

from tests.contract.identity_store_suite import Announced, AnyStore, StoreSuite
from tests.contract.identity_terms_suite import TermsSuite
from tests.fakes.identity_store import FakeClock, FakeStore


class TestFakeStore(StoreSuite, TermsSuite):
    @pytest.fixture
    def store(self) -> AnyStore:
        return FakeStore(FakeClock())

    @pytest.fixture
    def announced(self, store: FakeStore) -> Announced:
        async def taken() -> list[str]:
            found, store.announced = store.announced, []
            return found

        return taken
