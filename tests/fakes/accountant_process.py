"""An accountant as a process of its own, for tests that hurt it."""

import base64
import os
import subprocess
import sys
from pathlib import Path

from crosslogic_common.tls import TlsFiles
from tests.fakes.accountant_samples import SEAL_KEY


def accountant_environ(url: str, tls: TlsFiles, port: int) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", ""),
        "DATABASE_URL": url,
        "CROSSLOGIC_LISTEN": f"127.0.0.1:{port}",
        "CROSSLOGIC_MIGRATE": "1",
        "CROSSLOGIC_SEAL_KEY": base64.b64encode(SEAL_KEY).decode(),
        "CROSSLOGIC_WITNESS_GRACE_S": "0.5",
        "CROSSLOGIC_TLS_CERT_FILE": str(tls.cert_file),
        "CROSSLOGIC_TLS_KEY_FILE": str(tls.key_file),
        "CROSSLOGIC_TLS_CA_FILE": str(tls.ca_file),
        "CROSSLOGIC_SHUTDOWN_GRACE_S": "5",
    }


def start_accountant(environ: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as output:
        return subprocess.Popen([sys.executable, "-m", "crosslogic_accountant"], env=environ, stderr=output)
