"""From a folder to object storage: whole or not at all.

A file's object is named by its SHA-256, and the parts of a file are always cut alike. So what was uploaded before a
kill is recognised by its name and the number of each part, and only what is missing is sent. The manifest comes last.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, HTTPClientError

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.local_model import LocalModel, OnBytes, identity_of
from crosslogic_model_store.manifest import (
    FileEntry,
    Manifest,
    blob_key,
    manifest_key,
    parse_manifest,
)
from crosslogic_model_store.place import Place

PART_BYTES: Final = 16 * 2**20
MAX_PARTS: Final = 10_000
_MIB: Final = 2**20
_WORKERS: Final = 8
_GONE: Final = frozenset({"404", "NoSuchKey", "NoSuchUpload", "NotFound"})


@dataclass(frozen=True, slots=True)
class _Part:
    number: int
    start: int
    size_bytes: int


def part_bytes(size_bytes: int, least_bytes: int = PART_BYTES) -> int:
    """How long each part of a file is but the last. It follows from the file's size alone: resuming relies on it."""
    needed = -(-size_bytes // MAX_PARTS)
    return max(least_bytes, -(-needed // _MIB) * _MIB)


def open_client(place: Place, *, workers: int = _WORKERS) -> Any:
    """A client of the S3 API."""
    return boto3.client(
        "s3",
        endpoint_url=place.endpoint,
        region_name=place.region,
        aws_access_key_id=place.access_key_id,
        aws_secret_access_key=place.secret_access_key,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"max_attempts": 6, "mode": "standard"},
            max_pool_connections=workers + 2,
            connect_timeout=10,
            read_timeout=60,
            # Not every S3 knows the newer checksums in trailers: Content-MD5 below is known to all.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


class Uploader:
    """Puts versions of models into a bucket."""

    def __init__(
        self,
        place: Place,
        *,
        workers: int = _WORKERS,
        least_part_bytes: int = PART_BYTES,
        on_bytes: OnBytes = lambda _bytes: None,
    ) -> None:
        """`on_bytes` is told, from several threads, how many more bytes are there: sent now, or found."""
        self._client = open_client(place, workers=workers)
        self._bucket = place.bucket
        self._workers = workers
        self._least_part_bytes = least_part_bytes
        self._on_bytes = on_bytes

    def upload(self, model: LocalModel) -> bool:
        """Brings a version there. False: it was there already. Raises ModelStoreError."""
        try:
            return self._upload(model)
        except (ClientError, BotoCoreError) as error:
            raise refusal(error) from None

    def _upload(self, model: LocalModel) -> bool:
        manifest = model.manifest
        written = self._is_written(manifest)
        # The same content under two names is one object.
        once = {file.sha256: file for file in manifest.files}.values()
        with ThreadPoolExecutor(self._workers) as pool:
            whole = set(pool.map(lambda file: file.sha256 if self._is_whole(model, file) else "", once))
            missing = [file for file in once if file.sha256 not in whole]
            self._on_bytes(manifest.size_bytes - sum(file.size_bytes for file in missing))
            if written and not missing:
                return False
            large = [file for file in missing if file.size_bytes > self._part_bytes(file)]
            small = [file for file in missing if file.size_bytes <= self._part_bytes(file)]
            _all(pool, lambda file: self._put(model, file), small)
            for file in large:
                self._put_in_parts(pool, model, file)
        self._check(manifest)
        # Of a version whose objects were lost the manifest is there already.
        return self._write_manifest(manifest) or bool(missing)

    def _put(self, model: LocalModel, file: FileEntry) -> None:
        key = blob_key(model.manifest.model, file.sha256)
        body = (model.folder / file.path).read_bytes()
        if hashlib.sha256(body).hexdigest() != file.sha256:
            raise _changed(file)
        self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentMD5=_md5(body))
        self._on_bytes(file.size_bytes)

    def _put_in_parts(self, pool: ThreadPoolExecutor, model: LocalModel, file: FileEntry) -> None:
        key = blob_key(model.manifest.model, file.sha256)
        path = model.folder / file.path
        upload_id = (
            self._unfinished(key) or self._client.create_multipart_upload(Bucket=self._bucket, Key=key)["UploadId"]
        )
        parts = list(_parts(file.size_bytes, self._part_bytes(file)))
        there = self._there(key, upload_id, parts)
        self._on_bytes(sum(part.size_bytes for part in parts if part.number in there))

        def send(part: _Part) -> None:
            with path.open("rb") as opened:
                opened.seek(part.start)
                body = opened.read(part.size_bytes)
            # Asked after reading and before sending: a part that was sent is what the object's name says, so that a
            # later run may go on from it.
            if identity_of(path) != model.identities[file.path]:
                raise _changed(file)
            there[part.number] = self._send(body, key, upload_id, part)
            self._on_bytes(part.size_bytes)

        try:
            _all(pool, send, [part for part in parts if part.number not in there])
        except ModelStoreError:
            # What was sent is of a file that is no more.
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
            raise
        self._complete(key, upload_id, there, file)

    def _send(self, body: bytes, key: str, upload_id: str, part: _Part) -> str:
        answer = self._client.upload_part(
            Bucket=self._bucket,
            Key=key,
            UploadId=upload_id,
            PartNumber=part.number,
            Body=body,
            ContentMD5=_md5(body),
        )
        return str(answer["ETag"])

    def _complete(self, key: str, upload_id: str, etags: Mapping[int, str], file: FileEntry) -> None:
        parts = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
        try:
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
        except ClientError as error:
            # Somebody else who uploads the same has completed it: the name says that it is the same.
            if _code(error) not in _GONE or self._size(key) != file.size_bytes:
                raise

    def _unfinished(self, key: str) -> str:
        """An upload of this object that was begun and not ended. Empty: there is none."""
        answer = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=key)
        begun = [each for each in answer.get("Uploads", ()) if each["Key"] == key]
        return str(min(begun, key=lambda each: each["Initiated"])["UploadId"]) if begun else ""

    def _there(self, key: str, upload_id: str, parts: Sequence[_Part]) -> dict[int, str]:
        """ETags of the parts that were sent before, by number."""
        sizes = {part.number: part.size_bytes for part in parts}
        pages = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload_id)
        return {
            each["PartNumber"]: each["ETag"]
            for page in pages
            for each in page.get("Parts", ())
            if sizes.get(each["PartNumber"]) == each["Size"]
        }

    def _check(self, manifest: Manifest) -> None:
        """Before the manifest says that they are there, the objects are looked at once more."""
        for file in manifest.files:
            if self._size(blob_key(manifest.model, file.sha256)) != file.size_bytes:
                raise ModelStoreError(f"{file.path} is not there whole after it was uploaded: run it again.")

    def _is_written(self, manifest: Manifest) -> bool:
        """Whether the version's manifest is there. One that says something else is nobody's, and is removed."""
        key = manifest_key(manifest.model, manifest.revision)
        try:
            found = parse_manifest(self._read(key))
        except ModelStoreError:
            found = None
        except ClientError as error:
            if _code(error) in _GONE:
                return False
            raise
        if found is not None and (found.model, found.revision) == (manifest.model, manifest.revision):
            return True
        self._client.delete_object(Bucket=self._bucket, Key=key)
        return False

    def _write_manifest(self, manifest: Manifest) -> bool:
        body = manifest.to_json()
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=manifest_key(manifest.model, manifest.revision),
                Body=body,
                ContentType="application/json",
                ContentMD5=_md5(body),
                # A version is written once: whoever comes second finds the first.
                IfNoneMatch="*",
            )
        except ClientError as error:
            if _code(error) not in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409"):
                raise
            return False
        return True

    def _read(self, key: str) -> bytes:
        return bytes(self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read())

    def _is_whole(self, model: LocalModel, file: FileEntry) -> bool:
        return self._size(blob_key(model.manifest.model, file.sha256)) == file.size_bytes

    def _size(self, key: str) -> int | None:
        try:
            return int(self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"])
        except ClientError as error:
            if _code(error) in _GONE:
                return None
            raise

    def _part_bytes(self, file: FileEntry) -> int:
        return part_bytes(file.size_bytes, self._least_part_bytes)


def _parts(size_bytes: int, each_bytes: int) -> Iterator[_Part]:
    for index, start in enumerate(range(0, size_bytes, each_bytes)):
        yield _Part(index + 1, start, min(each_bytes, size_bytes - start))


def _all(pool: ThreadPoolExecutor, work: Callable[[Any], None], on: Sequence[Any]) -> None:
    """Runs `work` on each at once. The first failure is raised once what had begun is over; the rest is not begun."""
    waiting = [pool.submit(work, each) for each in on]
    try:
        for future in waiting:
            future.result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


def _changed(file: FileEntry) -> ModelStoreError:
    return ModelStoreError(f"{file.path} changed while it was uploaded: run it again once nobody writes there.")


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def refusal(error: Exception) -> ModelStoreError:
    """What the object storage's client raised, in words."""
    words = str(error)
    if isinstance(error, HTTPClientError | EndpointConnectionError):
        return ModelStoreError(f"The object storage does not answer: {words}")
    if isinstance(error, ClientError):
        said = error.response.get("Error", {})
        words = f"{said.get('Code', '')} {said.get('Message', '')} ({error.operation_name})"
    return ModelStoreError(f"The object storage refused: {words}")
