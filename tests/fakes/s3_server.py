"""An S3 server as a process of its own: moto's, on a free port, with a bucket."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crosslogic_model_store.place import Place
from crosslogic_model_store.upload import open_client

BUCKET = "weights"
_START_S = 60.0
# Whatever the machine's own cloud settings are, they are not for these tests.
_SETTINGS = {"AWS_EC2_METADATA_DISABLED": "true", "PYTHONUNBUFFERED": "1"}


@contextmanager
def s3_server(folder: Path) -> Iterator[Place]:
    """The server for as long as the block lasts; its log is in `folder`."""
    ready = folder / "s3.address"
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.s3_server", str(ready)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, **_SETTINGS},
            stdout=log,
            stderr=log,
        )
        try:
            place = Place(
                endpoint=_address(process, ready, folder / "s3.log"),
                bucket=BUCKET,
                region="us-east-1",
                access_key_id="root",
                secret_access_key="not-a-secret",
            )
            open_client(place).create_bucket(Bucket=BUCKET)
            yield place
        finally:
            process.kill()
            process.wait()


def environ_of(place: Place) -> dict[str, str]:
    """The place as settings of a process."""
    return {
        "S3_ENDPOINT": place.endpoint,
        "S3_REGION": place.region,
        "R2_ACCESS_KEY_ID": place.access_key_id,
        "R2_SECRET_ACCESS_KEY": place.secret_access_key,
        "R2_BUCKET_NAME": place.bucket,
    }


def _address(process: "subprocess.Popen[bytes]", ready: Path, log: Path) -> str:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        if ready.exists() and (address := ready.read_text()).endswith("\n"):
            return address.strip()
        time.sleep(0.02)
    raise AssertionError(f"no S3 server: {log.read_text()[-2000:]}")


def _serve(ready: Path) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    ready.write_text(f"http://127.0.0.1:{server.port}\n")
    server.serve_forever()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
