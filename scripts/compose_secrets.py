"""Makes what compose.yaml mounts, once, in .run/compose: a development CA, a certificate for each service, secrets.

.venv/bin/python scripts/compose_secrets.py
docker compose --env-file .run/compose/env up --build
"""

import argparse
import base64
import os
import secrets
import sys
from pathlib import Path

from crosslogic_dev.certificates import OPERATOR, DevelopmentCa
from crosslogic_dev.run_dir import write_private
from crosslogic_dev.topology import GATEWAY, SERVICES

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".run/compose"


def make(folder: Path) -> Path:
    """Makes what is missing; the file of variables for `docker compose --env-file`."""
    ca = DevelopmentCa(folder / "tls")
    for name in (*SERVICES, GATEWAY, OPERATOR):
        ca.service(name)
    ca.node_ca()
    password = _once(folder / "postgres_password", secrets.token_hex(24))
    _once(folder / "database_url", f"postgresql://postgres:{password}@postgres:5432/crosslogic")
    for name in ("seal_key", "notify_key"):
        _once(folder / name, base64.b64encode(secrets.token_bytes(32)).decode())
    _once(folder / "admin_token", secrets.token_hex(24))
    # Empty until an operator asks for one: docs/deployment.md.
    _once(folder / "join_token", "")
    env = folder / "env"
    env.write_text(f"CROSSLOGIC_UID={os.getuid()}\nCROSSLOGIC_GID={os.getgid()}\nCROSSLOGIC_COMPOSE={folder}\n")
    return env


def _once(file: Path, value: str) -> str:
    if not file.exists():
        write_private(file, value)
    return file.read_text()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Makes the certificates and secrets that compose.yaml mounts.")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    sys.stdout.write(f"docker compose --env-file {make(parser.parse_args().folder)} up --build\n")


if __name__ == "__main__":
    main()
