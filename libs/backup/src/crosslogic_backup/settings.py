"""The settings of a backup."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from crosslogic_backup.directory import Directory
from crosslogic_backup.ports import Place
from crosslogic_backup.s3 import Bucket, open_client
from crosslogic_common.settings import Secret, Settings, integer, secret_setting, setting


def _place(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return text
    if parts.scheme == "s3" and parts.netloc:
        return text
    raise ValueError(f"must be s3://bucket/prefix or file:///folder, not {text!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSettings(Settings):
    """Which database, and where its backups are."""

    database_url: Secret = secret_setting(
        "DATABASE_URL",
        doc="PostgreSQL, as a libpq address; the role must be able to read (restore: to make) everything",
    )
    place: str = setting(
        "CROSSLOGIC_BACKUP_PLACE", parse=_place, doc="where backups are: s3://bucket/prefix or file:///folder"
    )
    s3_endpoint: str = setting("CROSSLOGIC_BACKUP_S3_ENDPOINT", default="", doc="the S3 API's address; empty: AWS")
    s3_region: str = setting("CROSSLOGIC_BACKUP_S3_REGION", default="us-east-1", doc="the bucket's region")
    access_key_id: Secret = secret_setting(
        "CROSSLOGIC_BACKUP_ACCESS_KEY_ID", default="", doc="key of the S3 API; empty: the machine's own identity"
    )
    secret_access_key: Secret = secret_setting(
        "CROSSLOGIC_BACKUP_SECRET_ACCESS_KEY", default="", doc="the key's secret"
    )
    keep_days: int = setting(
        "CROSSLOGIC_BACKUP_KEEP_DAYS", default="30", parse=integer(1, 3650), doc="days after which a backup is removed"
    )
    keep_least: int = setting(
        "CROSSLOGIC_BACKUP_KEEP_LEAST",
        default="7",
        parse=integer(1, 1000),
        doc="the newest so many are kept however old they are",
    )
    lock_wait_s: int = setting(
        "CROSSLOGIC_BACKUP_LOCK_WAIT_S",
        default="60",
        parse=integer(1, 3600),
        doc="seconds to wait for a table that a migration holds",
    )

    def open_place(self) -> Place:
        """The place that the settings name."""
        parts = urlsplit(self.place)
        if parts.scheme == "file":
            return Directory(Path(parts.path))
        client = open_client(
            endpoint=self.s3_endpoint,
            region=self.s3_region,
            access_key_id=self.access_key_id.reveal(),
            secret_access_key=self.secret_access_key.reveal(),
        )
        return Bucket(client, bucket=parts.netloc, prefix=parts.path.strip("/"))
