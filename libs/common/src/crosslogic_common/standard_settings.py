"""Settings that every service has."""

from dataclasses import dataclass
from pathlib import Path

from crosslogic_common.settings import (
    Settings,
    address,
    boolean,
    existing_file,
    number,
    one_of,
    optional_address,
    setting,
)
from crosslogic_common.tls import TlsFiles


@dataclass(frozen=True, kw_only=True)
class StandardSettings(Settings):
    """Where a service listens, who it is, and how it stops."""

    listen: str = setting("CROSSLOGIC_LISTEN", parse=address, doc="host:port of the gRPC server")
    metrics_listen: str = setting(
        "CROSSLOGIC_METRICS_LISTEN",
        default="",
        parse=optional_address,
        doc="host:port that serves Prometheus metrics; empty: none",
    )
    log_level: str = setting(
        "CROSSLOGIC_LOG_LEVEL",
        default="INFO",
        parse=one_of("DEBUG", "INFO", "WARNING", "ERROR"),
        doc="DEBUG, INFO, WARNING or ERROR",
    )
    shutdown_grace_s: float = setting(
        "CROSSLOGIC_SHUTDOWN_GRACE_S",
        default="20",
        parse=number(0, 3600),
        doc="seconds that running work has to finish after SIGTERM",
    )
    tls_cert_file: Path = setting(
        "CROSSLOGIC_TLS_CERT_FILE", parse=existing_file, doc="this service's certificate, PEM"
    )
    tls_key_file: Path = setting("CROSSLOGIC_TLS_KEY_FILE", parse=existing_file, doc="its private key, PEM")
    tls_ca_file: Path = setting("CROSSLOGIC_TLS_CA_FILE", parse=existing_file, doc="certificates to trust, PEM")
    migrate: bool = setting(
        "CROSSLOGIC_MIGRATE",
        default="0",
        parse=boolean,
        doc="1: bring the schema up to date at start (development; elsewhere a job does it)",
    )

    @property
    def tls(self) -> TlsFiles:
        """Where this service's identity lies."""
        return TlsFiles(self.tls_cert_file, self.tls_key_file, self.tls_ca_file)
