"""Which cached keys belong to an organisation, an environment or a key: so that forgetting one looks at no other."""

from collections import defaultdict

from crosslogic_gateway.domain import Principal


class KeyIndex:
    """Digests of secrets by the ids of their owners. As large as the cache that it is kept in step with."""

    def __init__(self) -> None:
        self._by_org: defaultdict[str, set[bytes]] = defaultdict(set)
        self._by_environment: defaultdict[str, set[bytes]] = defaultdict(set)
        self._by_key: dict[str, bytes] = {}

    def __len__(self) -> int:
        """Keys known."""
        return len(self._by_key)

    def add(self, digest: bytes, principal: Principal) -> None:
        """The digest is the principal's."""
        self._by_org[principal.org_id].add(digest)
        self._by_environment[principal.environment_id].add(digest)
        self._by_key[principal.api_key_id] = digest

    def remove(self, digest: bytes, principal: Principal) -> None:
        """The digest is not cached any more."""
        if self._by_key.get(principal.api_key_id) == digest:
            del self._by_key[principal.api_key_id]
        for index, owner in ((self._by_org, principal.org_id), (self._by_environment, principal.environment_id)):
            digests = index.get(owner)
            if digests is not None:
                digests.discard(digest)
                if not digests:
                    del index[owner]

    def of(self, *, org_id: str, environment_id: str, api_key_id: str) -> set[bytes]:
        """The digests of any of these."""
        found = self._by_org.get(org_id, set()) | self._by_environment.get(environment_id, set())
        digest = self._by_key.get(api_key_id)
        return found if digest is None else found | {digest}

    def clear(self) -> None:
        """Nothing is cached any more."""
        self._by_org.clear()
        self._by_environment.clear()
        self._by_key.clear()
