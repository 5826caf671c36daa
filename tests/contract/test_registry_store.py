"""The fake store does what the real one does."""

import pytest

from tests.contract.registry_store_suite import RegistryStoreSuite, WholeStore
from tests.fakes.registry_store import FakeRegistryClock, FakeRegistryStore


class TestFakeRegistryStore(RegistryStoreSuite):
    @pytest.fixture
    def store(self) -> WholeStore:
        return FakeRegistryStore(FakeRegistryClock())
