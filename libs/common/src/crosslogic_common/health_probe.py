"""`python -m crosslogic_common.health_probe`: is the process in this container alive? For images, which have no curl.

It asks what the process itself serves: the gateway's `/health`, the others' `/live` beside their metrics. Where neither
is configured there is nothing to ask, and the answer is yes. Kubernetes asks by itself and does not use this.
"""

import http.client
import ipaddress
import os
import sys
from collections.abc import Mapping

_TIMEOUT_S = 3.0


def target(environ: Mapping[str, str]) -> tuple[str, int, str] | None:
    """Host, port and path to ask; None: nothing is served."""
    for variable, path in (("CROSSLOGIC_HTTP_LISTEN", "/health"), ("CROSSLOGIC_METRICS_LISTEN", "/live")):
        host, _, port = environ.get(variable, "").rpartition(":")
        if port.isdigit():
            host = host.strip("[]")
            return ("127.0.0.1" if _everywhere(host) else host), int(port), path
    return None


def _everywhere(host: str) -> bool:
    """Whether a server that listens there listens on every address of the machine."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def main() -> None:
    """Ends with code 0 when the process is well, else 1 and a line that says why."""
    asked = target(os.environ)
    if asked is None:
        return
    host, port, path = asked
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"{host}:{port}{path}: {error!r}")
    finally:
        connection.close()
    if status != http.client.OK:
        sys.exit(f"{host}:{port}{path}: HTTP status {status}")


if __name__ == "__main__":
    main()
