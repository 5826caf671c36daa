"""Backups in a bucket, through the S3 API."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from crosslogic_backup.domain import BackupError

_ERRORS = (Boto3Error, BotoCoreError, ClientError, OSError)
# A part is sent again whole when its connection breaks.
_PARTS = TransferConfig(multipart_threshold=64 * 2**20, multipart_chunksize=64 * 2**20, max_concurrency=4)


def open_client(*, endpoint: str, region: str, access_key_id: str, secret_access_key: str) -> Any:
    """A client of the S3 API. Without an endpoint AWS's; without keys those that the machine or the pod has."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=region,
        aws_access_key_id=access_key_id or None,
        aws_secret_access_key=secret_access_key or None,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if endpoint else "auto"},
            retries={"max_attempts": 6, "mode": "standard"},
            connect_timeout=10,
            read_timeout=60,
            # Not every S3 knows the newer checksums in trailers; the manifest has the dump's own.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


class Bucket:
    """A Place in a bucket, below a prefix."""

    def __init__(self, client: Any, *, bucket: str, prefix: str) -> None:
        """`prefix` without a slash at its end; empty: the whole bucket."""
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def put(self, name: str, file: Path) -> None:
        """Uploads, in parts when it is large; an unfinished upload is no object."""
        try:
            self._client.upload_file(str(file), self._bucket, self._prefix + name, Config=_PARTS)
        except _ERRORS as error:
            raise self._error(f"{name} cannot be stored", error) from error

    def get(self, name: str, file: Path) -> None:
        """Downloads."""
        try:
            self._client.download_file(self._bucket, self._prefix + name, str(file), Config=_PARTS)
        except _ERRORS as error:
            raise self._error(f"{name} cannot be fetched", error) from error

    def names(self) -> Iterable[str]:
        """Every object below the prefix."""
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            for page in pages:
                for each in page.get("Contents", ()):
                    yield each["Key"].removeprefix(self._prefix)
        except _ERRORS as error:
            raise self._error("the backups cannot be listed", error) from error

    def delete(self, name: str) -> None:
        """Removes it; S3 does not say whether it was there."""
        try:
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)
        except _ERRORS as error:
            raise self._error(f"{name} cannot be removed", error) from error

    def _error(self, what: str, error: Exception) -> BackupError:
        return BackupError(f"{what} in bucket {self._bucket}: {error}")
