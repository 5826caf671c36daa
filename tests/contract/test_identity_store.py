"""The fake store does what the real one does."""

import pytest

from crosslogic_identity.ports import Store
from tests.contract.identity_store_suite import Announced, StoreSuite
from tests.fakes.identity_store import FakeClock, FakeStore


class TestFakeStore(StoreSuite):
    @pytest.fixture
    def store(self) -> Store:
        return FakeStore(FakeClock())

    @pytest.fixture
    def announced(self, store: FakeStore) -> Announced:
        async def taken() -> list[str]:
            found, store.announced = store.announced, []
            return found

        return taken
