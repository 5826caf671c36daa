"""What lies in the bucket: versions, whether their bytes are still theirs, and uploads that nobody ended."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.manifest import Manifest, blob_key, manifests_prefix, model_prefix, parse_manifest
from crosslogic_model_store.place import Place
from crosslogic_model_store.upload import open_client, refusal

_READ_BYTES: Final = 4 * 2**20
_WORKERS: Final = 8


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An object that somebody began to upload in parts, and neither ended nor gave up. It is paid for."""

    key: str
    upload_id: str
    begun_at: datetime
    size_bytes: int
    """Of the parts that were sent."""


class StoredModels:
    """The models in a bucket. Every method raises ModelStoreError."""

    def __init__(self, place: Place) -> None:
        self._client = open_client(place, workers=_WORKERS)
        self._bucket = place.bucket

    def versions(self, model: str, *, on_wrong: Callable[[str, str], None] = lambda _key, _why: None) -> list[Manifest]:
        """The versions that are whole, in no order. `on_wrong` is told of manifests that are none, and why."""
        found: list[Manifest] = []
        with _words():
            for key in self._keys(manifests_prefix(model)):
                try:
                    found.append(parse_manifest(self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()))
                except ModelStoreError as error:
                    on_wrong(key, str(error))
        return found

    def wrong_files(
        self, manifest: Manifest, *, remove: bool = False, on_bytes: Callable[[int], None] = lambda _bytes: None
    ) -> list[str]:
        """Reads a version's objects back; the paths of those that are not there, or are not what the manifest says.

        With `remove` such objects are removed: uploading the model again then sends them, and nothing else.
        """

        def look(sha256: str) -> str:
            key = blob_key(manifest.model, sha256)
            if self._sha256(key, on_bytes) == sha256:
                return ""
            if remove:
                self._client.delete_object(Bucket=self._bucket, Key=key)
            return sha256

        with _words(), ThreadPoolExecutor(_WORKERS) as pool:
            wrong = set(pool.map(look, sorted({file.sha256 for file in manifest.files})))
        return [file.path for file in manifest.files if file.sha256 in wrong]

    def unfinished(self, model: str = "") -> list[Unfinished]:
        """Uploads that were not ended, oldest first; `model` empty: of all models."""
        found = []
        with _words():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=model_prefix(model)
            )
            for each in (each for page in pages for each in page.get("Uploads", ())):
                size_bytes = self._sent_bytes(each["Key"], each["UploadId"])
                found.append(Unfinished(each["Key"], each["UploadId"], each["Initiated"], size_bytes))
        return sorted(found, key=lambda each: each.begun_at)

    def abort(self, upload: Unfinished) -> None:
        """Gives an upload up: its parts are gone."""
        with _words():
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload.key, UploadId=upload.upload_id)

    def _keys(self, prefix: str) -> Iterator[str]:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
            for each in page.get("Contents", ()):
                yield str(each["Key"])

    def _sent_bytes(self, key: str, upload_id: str) -> int:
        pages = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload_id)
        return sum(int(part["Size"]) for page in pages for part in page.get("Parts", ()))

    def _sha256(self, key: str, on_bytes: Callable[[int], None]) -> str:
        """Of an object; empty: it is not there."""
        try:
            body: Any = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
        except self._client.exceptions.NoSuchKey:
            return ""
        digest = hashlib.sha256()
        for block in body.iter_chunks(_READ_BYTES):
            digest.update(block)
            on_bytes(len(block))
        return digest.hexdigest()


@contextmanager
def _words() -> Iterator[None]:
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise refusal(error) from None
