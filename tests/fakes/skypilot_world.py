"""SkyPilot itself: its API server as a process of a throwaway environment, and a fake of one cloud's API beside it.

The fake is moto's server, to which boto3 is pointed by AWS_ENDPOINT_URL. There are two regions. In us-west-2 spot is
cheapest, but its network has no way out, so that nothing can be made there; us-east-1 has no spot at all. Nothing
leaves the machine: every proxy variable points at a closed port.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from crosslogic_dev.ports import free_port

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "services/orchestrator/skypilot_worker"
REQUIREMENTS = WORKER / "requirements-test.txt"
WAIT_S = 240.0
TWO_PLACES = """
[[region]]
code = "us"
name = "USA"
clouds = { aws = "us-west-2" }
[[region]]
code = "us-east"
name = "USA (east)"
clouds = { aws = "us-east-1" }
"""
"""Regions as the orchestrator reads them: `us`, where nothing can be made, and `us-east`, which has no spot."""
_STARTS = 6
"""SkyPilot's server gives up where a process of its own needs over a minute to start, as on a loaded machine, and where
its queue's port is taken: that lies among those of outgoing connections and follows from the server's."""
_GPU = "\"{'Gpus': [{'Name': 'A10G', 'Count': 1.0, 'MemoryInfo': {'SizeInMiB': 22888}}]}\""
_COLUMNS = (
    "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone,Arch"
)
_CATALOGUE = {
    "aws/vms.csv": [
        _COLUMNS,
        f"g5.xlarge,A10G,1.0,4.0,16.0,{_GPU},1.006,,us-east-1,use1-az1,x86_64",
        f"g5.xlarge,A10G,1.0,4.0,16.0,{_GPU},1.206,0.40,us-west-2,usw2-az1,x86_64",
    ],
    "aws/images.csv": [
        "Tag,Region,OS,OSVersion,ImageId,CreationDate,BaseImageId",
        *(
            f"skypilot:custom-gpu-ubuntu{kind},{region},ubuntu,20.04,ami-12c6146b,20250101,ami-12c6146b"
            for kind in ("", "-cuda13")
            for region in ("us-east-1", "us-west-2")
        ),
    ],
    "common/accelerators.csv": ["AcceleratorName,Clouds", "A10G,\"['AWS']\""],
}
# Run where boto3 is.
_ACCOUNT = """
import boto3, json
ec2 = boto3.client("ec2", region_name="us-east-1")
vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
table = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"][0]["RouteTableId"]
ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
# What operators make before the first launch: without it SkyPilot makes one that may do anything with EC2 and S3.
iam = boto3.client("iam")
trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
iam.create_role(
    RoleName="skypilot-v1", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
)
iam.create_instance_profile(InstanceProfileName="skypilot-v1")
iam.add_role_to_instance_profile(InstanceProfileName="skypilot-v1", RoleName="skypilot-v1")
"""
_RIGHTS = """
import boto3, json
iam = boto3.client("iam", region_name="us-east-1")
found = []
for role in iam.list_roles()["Roles"]:
    name = role["RoleName"]
    found += [each["PolicyArn"] for each in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]]
    found += iam.list_role_policies(RoleName=name)["PolicyNames"]
print(json.dumps(found))
"""
_INSTANCES = """
import boto3, json
found = []
for region in ("us-east-1", "us-west-2"):
    for reservation in boto3.client("ec2", region_name=region).describe_instances()["Reservations"]:
        for each in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in each.get("Tags", [])}
            kind = each.get("InstanceLifecycle", "on demand")
            state, name = each["State"]["Name"], each["InstanceId"]
            found.append({"region": region, "id": name, "state": state, "kind": kind, "tags": tags})
print(json.dumps(found))
"""


class SkyPilotWorld:
    """Both servers, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.home = folder / "home"
        self._venv = folder / "venv"
        self._cloud = f"http://127.0.0.1:{free_port()}"
        self._port = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self._server: subprocess.Popen[bytes] | None = None
        self.log = folder / "skypilot.log"

    @property
    def api(self) -> str:
        """SkyPilot's API server."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def python(self) -> Path:
        """The interpreter that has SkyPilot."""
        return self._venv / "bin/python"

    @property
    def environ(self) -> dict[str, str]:
        """What every process of SkyPilot's gets here."""
        nowhere = f"http://127.0.0.1:{free_port()}"
        # By it CI finds and ends what a cut run left behind.
        mark = {name: os.environ[name] for name in ("CI_RUN_MARK",) if name in os.environ}
        return {
            **mark,
            "PATH": f"{self._folder / 'bin'}:{self._venv / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "PYTHONPATH": str(WORKER),
            "PIP_NO_BUILD_ISOLATION": "0",
            "AWS_ENDPOINT_URL": self._cloud,
            "AWS_EC2_METADATA_DISABLED": "true",
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
            "SKYPILOT_API_SERVER_LOCAL_PORT": str(self._port),
            # Few processes of its own: each takes seconds to import it.
            "SKYPILOT_POD_CPU_CORE_LIMIT": "1",
            "SKYPILOT_POD_MEMORY_GB_LIMIT": "3",
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), nowhere),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
        }

    def start(self) -> None:
        """Installs SkyPilot, lays its catalogue, and starts both servers."""
        self._lay()
        self._install()
        self._run("-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", self._cloud.rpartition(":")[2])
        self._until(lambda: _answers(self._cloud), "the fake cloud does not answer")
        self._ask(_ACCOUNT)
        for _ in range(_STARTS):
            self._port = _port()
            if self._serve():
                return
        raise AssertionError(self.log.read_text()[-2_000:])

    def restart_server(self) -> None:
        """Kills SkyPilot's API server with all that it started, as a pod that dies, and starts it where it was."""
        assert self._server is not None
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        for _ in range(_STARTS):
            if self._serve():
                return
        raise AssertionError(self.log.read_text()[-2_000:])

    def _serve(self) -> bool:
        """Starts the API server. False: it gave up."""
        server = self._server = self._run("-m", "sky.server.server", "--host", "127.0.0.1", "--port", str(self._port))
        self._until(
            lambda: server.poll() is not None or _answers(f"{self.api}/api/health"),
            "SkyPilot's API server does not answer",
        )
        return server.poll() is None

    def stop(self) -> None:
        """Ends every process with its children."""
        for process in self._processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self._processes:
            process.wait()

    def instances(self) -> list[dict[str, object]]:
        """What the cloud has."""
        found: list[dict[str, object]] = json.loads(self._ask(_INSTANCES))
        return found

    def rights_of_machines(self) -> list[str]:
        """Policies of the roles there are: whoever is on a machine may do what its role may."""
        found: list[str] = json.loads(self._ask(_RIGHTS))
        return found

    def _lay(self) -> None:
        for name, lines in _CATALOGUE.items():
            file = self.home / ".sky/catalogs/v8" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(lines) + "\n")
        account = self.home / ".aws"
        account.mkdir()
        (account / "config").write_text("[default]\nregion = us-east-1\n")
        (account / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
        programs = self._folder / "bin"
        programs.mkdir()
        # No machine of the fake can be reached, so that SkyPilot waits for it; rsync is only looked for.
        for name, code in (("ssh", 255), ("scp", 255), ("rsync", 0)):
            (programs / name).write_text(f"#!/bin/sh\nexit {code}\n")
            (programs / name).chmod(0o755)

    def _install(self) -> None:
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self._venv)], check=True)
        hashed = ["--no-deps", "--require-hashes", "-r", str(REQUIREMENTS)]
        options = ["--quiet", "--python", str(self.python), *_indexes()]
        quick = subprocess.run([uv, "pip", "install", *options, *hashed], capture_output=True, text=True, check=False)
        if quick.returncode:
            # uv reads none of pip's configuration; pip is slower and knows every mirror.
            pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet"]
            subprocess.run([*pip, *hashed], check=True)

    def _run(self, *arguments: str) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [self.python, *arguments], env=self.environ, stdout=log, stderr=log, start_new_session=True
            )
        self._processes.append(process)
        return process

    def _ask(self, script: str) -> str:
        asked = subprocess.run(
            [self.python, "-c", script], env=self.environ, capture_output=True, text=True, check=False, timeout=WAIT_S
        )
        assert asked.returncode == 0, asked.stderr[-2_000:]
        return asked.stdout

    def _until(self, check: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + WAIT_S
        while not check():
            assert time.monotonic() < until, f"{what}: {self.log.read_text()[-2_000:]}"
            time.sleep(0.1)


def _port() -> int:
    """A port for SkyPilot's server whose queue's port is free too."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", 50_000 + (11 + port - 46_580) % 10_000))
            except OSError:
                continue
        return port


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10, trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False


def _indexes() -> list[str]:
    index = os.environ.get("PIP_INDEX_URL")
    return ["--default-index", index] if index else []
