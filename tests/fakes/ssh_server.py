"""An SSH server on loopback, as a process of its own. Its users are machines: each is a folder that their shell is in.

`python -m tests.fakes.ssh_server FOLDER` listens on a free port, which it writes to FOLDER/port. FOLDER/machines has a
folder for each user; the keys lie beside it. Whoever was at the other end, what was begun goes on, as with sshd.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import asyncssh

from crosslogic_dev.waiting import wait_until
from crosslogic_orchestrator.static_settings import default_ssh
from tests.fakes.debian import debian_binary

_START_S = 60.0
_NAME = "pool"
"""What the machines are called in known_hosts, whatever the port."""


class SshMachines:
    """The server, and how ssh finds it."""

    def __init__(self, folder: Path, users: Sequence[str]) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        for user in users:
            self.root(user).mkdir(parents=True)
        for name in ("host_key", "key", "other_key"):
            self._key(name)
        self.trust("host_key")

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.fakes.ssh_server", str(self.folder)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        file = self.folder / "port"
        assert wait_until(file.exists, timeout_s=_START_S, poll_s=0.02), (self.folder / "server.log").read_text()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int((self.folder / "port").read_text())

    def root(self, user: str) -> Path:
        """A machine's folder: its home, and where notes on its agent are kept."""
        return self.folder / "machines" / user

    def empty(self) -> None:
        """Takes everything from the machines."""
        for root in (self.folder / "machines").iterdir():
            shutil.rmtree(root)
            root.mkdir()

    def trust(self, name: str) -> None:
        """Writes the public half of a key to known_hosts, as the machines'. Empty: none is known."""
        line = f"{_NAME} {(self.folder / name).with_suffix('.pub').read_text()}" if name else ""
        (self.folder / "known_hosts").write_text(line)

    def ssh(self, *, port: int = 0, key: str = "key", options: Sequence[str] = ()) -> list[str]:
        """The real client as it is used unless somebody says otherwise, and what it needs to know of here.

        `options` come first, and so are what counts.
        """
        known = f"UserKnownHostsFile={self.folder / 'known_hosts'}"
        here = (known, "GlobalKnownHostsFile=/dev/null", f"HostKeyAlias={_NAME}", "IdentitiesOnly=yes")
        program, *usual = default_ssh()
        client = str(debian_binary("openssh-client", program, self.folder))
        place = ("-F", "none", "-p", str(port or self.port), "-i", str(self.folder / key))
        return [client, *_options(options), *usual, *place, *_options(here)]

    def stop_still(self) -> None:
        """It hangs: SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `stop_still`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _key(self, name: str) -> None:
        key = asyncssh.generate_private_key("ssh-ed25519")
        file = self.folder / name
        file.write_bytes(key.export_private_key())
        file.chmod(0o600)
        file.with_suffix(".pub").write_bytes(key.export_public_key())


def _options(options: Sequence[str]) -> list[str]:
    return [word for option in options for word in ("-o", option)]


class _Login(asyncssh.SSHServer):
    """One key opens every machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = asyncssh.read_public_key(folder / "key.pub")

    def begin_auth(self, username: str) -> bool:
        return bool(username)

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return (self._folder / "machines" / username).is_dir() and key == self._known


async def _serve(folder: Path) -> None:
    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        root = folder / "machines" / str(process.get_extra_info("username"))
        programs = f"{root / 'bin'}:{os.environ['PATH']}"
        shell = await asyncio.create_subprocess_exec(
            *("sh", "-c", process.command or "false"),
            cwd=root,
            env={**os.environ, "PATH": programs, "HOME": str(root), "CROSSLOGIC_STATIC_ROOT": str(root / "static")},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        await process.redirect(stdin=shell.stdin, stdout=shell.stdout, stderr=shell.stderr)
        process.exit(await shell.wait())

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: _Login(folder),
        server_host_keys=[folder / "host_key"],
        process_factory=run,
        encoding=None,
    )
    new = folder / "port.new"
    new.write_text(str(server.get_port()))
    new.rename(folder / "port")
    with contextlib.suppress(asyncio.CancelledError):
        await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
