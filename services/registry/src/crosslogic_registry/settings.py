"""The registry's settings."""

from dataclasses import dataclass
from pathlib import Path

from crosslogic_common.settings import Secret, address, existing_file, integer, number, secret_setting, setting
from crosslogic_common.standard_settings import StandardSettings
from crosslogic_model_store.place import Place, place_of


@dataclass(frozen=True, kw_only=True)
class RegistrySettings(StandardSettings):
    """Read from the environment once, at start."""

    database_url: Secret = secret_setting("DATABASE_URL", doc="PostgreSQL, as a libpq address")
    redis_url: Secret = secret_setting(
        "REDIS_URL",
        default="",
        doc="Redis, as redis://host:port/db, where replicas learn of each other's nodes; empty: the only replica",
    )
    join_listen: str = setting(
        "CROSSLOGIC_JOIN_LISTEN",
        parse=address,
        doc="host:port where machines without a certificate may join, and nothing else",
    )
    accountant_target: str = setting("CROSSLOGIC_ACCOUNTANT_TARGET", parse=address, doc="host:port of the accountant")
    node_ca_cert_file: Path = setting(
        "CROSSLOGIC_NODE_CA_CERT_FILE", parse=existing_file, doc="the CA that signs node certificates, PEM"
    )
    node_ca_key_file: Path = setting("CROSSLOGIC_NODE_CA_KEY_FILE", parse=existing_file, doc="its private key, PEM")
    node_certificate_validity_s: float = setting(
        "CROSSLOGIC_NODE_CERTIFICATE_VALIDITY_S",
        default="3600",
        parse=number(60, 604800),
        doc="seconds that a node's certificate is valid; agents renew at half of it",
    )
    heartbeat_interval_ms: int = setting(
        "CROSSLOGIC_HEARTBEAT_INTERVAL_MS",
        default="5000",
        parse=integer(100, 60_000),
        doc="milliseconds between a node's heartbeats",
    )
    suspect_s: float = setting(
        "CROSSLOGIC_SUSPECT_S",
        default="3",
        parse=number(0.1, 600),
        doc="seconds after a node's stream broke until it is passed over",
    )
    unhealthy_s: float = setting(
        "CROSSLOGIC_UNHEALTHY_S", default="15", parse=number(0.1, 600), doc="seconds of silence until it is passed over"
    )
    dead_s: float = setting(
        "CROSSLOGIC_DEAD_S", default="60", parse=number(1, 86400), doc="seconds of silence until it is given up"
    )
    forgotten_s: float = setting(
        "CROSSLOGIC_FORGOTTEN_S",
        default="86400",
        parse=number(60, 31_536_000),
        doc="seconds after its death that a node is still listed",
    )
    pool_size: int = setting(
        "CROSSLOGIC_POOL_SIZE", default="10", parse=integer(2, 200), doc="most database connections, 2 to 200"
    )
    r2_account_id: str = setting(
        "R2_ACCOUNT_ID", default="", doc="the account whose R2 holds the weights of models; empty: S3_ENDPOINT"
    )
    s3_endpoint: str = setting(
        "S3_ENDPOINT", default="", doc="another S3's address as nodes reach it, in place of an R2 account; empty: none"
    )
    s3_region: str = setting("S3_REGION", default="auto", doc="its region; R2's is `auto`")
    r2_access_key_id: Secret = secret_setting(
        "R2_ACCESS_KEY_ID", default="", doc="a key that may read the bucket: what nodes are given is signed with it"
    )
    r2_secret_access_key: Secret = secret_setting("R2_SECRET_ACCESS_KEY", default="", doc="the key's secret")
    r2_bucket_name: str = setting("R2_BUCKET_NAME", default="", doc="the bucket; empty: there is no model store")
    weights_url_s: int = setting(
        "CROSSLOGIC_WEIGHTS_URL_S",
        default="3600",
        parse=integer(60, 604_800),
        doc="seconds that the addresses are good which nodes read weights at",
    )

    def place(self) -> Place | None:
        """Where weights are. None: nowhere. Raises ModelStoreError."""
        return place_of(
            endpoint=self.s3_endpoint,
            account_id=self.r2_account_id,
            bucket=self.r2_bucket_name,
            region=self.s3_region,
            access_key_id=self.r2_access_key_id.reveal(),
            secret_access_key=self.r2_secret_access_key.reveal(),
        )
