"""The agent replaces itself: a signed bundle is installed beside the present version, and the next start tries it.

A bundle is a tar file with `wheels/*.whl`. What is on trial is left again by the launcher when it does not get well.
"""

import asyncio
import contextlib
import hashlib
import json
import re
import shutil
import sys
import tarfile
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.logs import get_logger
from crosslogic_node_agent.commands import CommandError, Done
from crosslogic_node_agent.launcher import switch
from crosslogic_node_agent.report import AGENT_VERSION

MAX_BUNDLE_BYTES = 1024**3
DOWNLOAD_TIMEOUT_S = 30.0
"""Without a byte."""
INSTALL_S = 300.0
KEPT_VERSIONS = 3
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}", re.ASCII)

Run = Callable[[list[str]], Awaitable[None]]


def signed_text(version: str, sha256: bytes) -> bytes:
    """What a bundle's signature is over."""
    return b"crosslogic-agent\n" + version.encode() + b"\n" + sha256


class Updates:
    """Installs versions under one directory (see launcher.py)."""

    def __init__(
        self,
        *,
        directory: Path,
        key_file: Path,
        on_installed: Callable[[], None],
        downloads: bool = True,
        run: Run | None = None,
    ) -> None:
        """`key_file`: the Ed25519 public key that bundles are signed with, PEM; without it nothing is installed.

        Without `downloads` bundles come from the node's own disk only. `on_installed` makes the agent stop, so that it
        is started again; it must not block. `run` runs a command and raises CommandError when it fails.
        """
        self._directory = directory
        self._key_file = key_file
        self._on_installed = on_installed
        self._downloads = downloads
        self._run = run or run_command
        self._turn = asyncio.Lock()
        self._log = get_logger(__name__)

    @property
    def on_trial(self) -> bool:
        """Whether the present version has not shown yet that it is well."""
        return (self._directory / "update.json").exists()

    def confirm(self) -> None:
        """The present version is well: it stays."""
        if self.on_trial:
            (self._directory / "update.json").unlink(missing_ok=True)
            self._log.info("update confirmed", version=AGENT_VERSION)

    @contextlib.asynccontextmanager
    async def running(self, well: Callable[[], bool], *, trial_s: float) -> AsyncIterator[None]:
        """Follows a trial for as long as the block lasts.

        The version stays once `well` says so; when it has not within `trial_s` seconds, the agent stops to be started
        again, which the launcher counts.
        """
        task = asyncio.create_task(self._follow_trial(well, trial_s), name="update trial")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow_trial(self, well: Callable[[], bool], trial_s: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + trial_s
        while self.on_trial:
            if well():
                self.confirm()
            elif loop.time() >= until:
                self._log.error("the version on trial does not get well, starting again", version=AGENT_VERSION)
                self._on_installed()
                return
            await asyncio.sleep(min(1.0, trial_s / 10))

    async def carry(self, command: pb.NodeCommand) -> Done:
        """Installs what is asked for. Raises CommandError, and leaves everything as it was then."""
        async with self._turn:
            update = command.update_agent
            if update.version == AGENT_VERSION:
                return Done("this version runs already")
            if not _VERSION.fullmatch(update.version):
                raise CommandError("that is no version")
            if self.on_trial:
                raise CommandError("another update is on trial")
            self._verify(update)
            target = self._directory / "versions" / update.version
            work = self._directory / f".update-{update.version}"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            try:
                bundle = await self._fetch(update, work / "bundle.tar")
                await asyncio.to_thread(_unpack, bundle, work)
                await self._install(work / "wheels", target)
                await asyncio.to_thread(self._switch, update.version)
            except (OSError, tarfile.TarError, TimeoutError) as error:
                raise CommandError(f"not installed: {type(error).__name__}: {error}") from None
            finally:
                await asyncio.to_thread(shutil.rmtree, work, True)  # whatever is left of it
            self._log.warning("update installed, starting again with it", version=update.version)
            self._on_installed()
            return Done(f"{update.version} is installed and will be tried now")

    def _verify(self, update: pb.UpdateAgent) -> None:
        try:
            key = load_pem_public_key(self._key_file.read_bytes())
        except (OSError, ValueError):
            raise CommandError("this node has no key to check updates with") from None
        if not isinstance(key, Ed25519PublicKey):
            raise CommandError("the key to check updates with is no Ed25519 key")
        try:
            key.verify(update.signature, signed_text(update.version, update.sha256))
        except InvalidSignature:
            raise CommandError("the update's signature is wrong") from None

    async def _fetch(self, update: pb.UpdateAgent, target: Path) -> Path:
        """The bundle, once its SHA-256 is the signed one."""
        parts = urlsplit(update.location)
        if parts.scheme == "https" and not self._downloads:
            raise CommandError("this node downloads nothing: name a file on it")
        if parts.scheme == "https":
            await asyncio.to_thread(_download, update.location, target)
        elif not parts.scheme and Path(update.location).is_absolute():
            await asyncio.to_thread(_copy, Path(update.location), target)
        else:
            raise CommandError("the location must be an https:// address or an absolute path")
        if await asyncio.to_thread(_sha256, target) != update.sha256:
            raise CommandError("the bundle is not the one that was signed")
        return target

    async def _install(self, wheels: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        python = str(target / "bin" / "python")
        try:
            async with asyncio.timeout(INSTALL_S):
                await self._run([sys.executable, "-m", "venv", str(target)])
                install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels)]
                await self._run([*install, "crosslogic-node-agent"])
                await self._run([python, "-c", "import crosslogic_node_agent.main"])
        except (CommandError, TimeoutError):
            await asyncio.to_thread(shutil.rmtree, target, True)  # as above
            raise

    def _switch(self, version: str) -> None:
        current = self._directory / "current"
        previous = str(current.readlink())
        (self._directory / "rolled-back").unlink(missing_ok=True)
        # Before the link: a machine that loses its power in between tries the old version on trial, and nothing else.
        (self._directory / "update.json").write_text(
            json.dumps({"version": version, "previous": previous, "starts": 0}), encoding="utf-8"
        )
        switch(self._directory, "previous", previous)
        switch(self._directory, "current", f"versions/{version}")
        self._forget_old({version, Path(previous).name})

    def _forget_old(self, needed: set[str]) -> None:
        versions = sorted((self._directory / "versions").iterdir(), key=lambda path: path.stat().st_mtime)
        for path in versions[:-KEPT_VERSIONS]:
            if path.name not in needed:
                shutil.rmtree(path, ignore_errors=True)


async def run_command(arguments: list[str]) -> None:
    """Runs a command to its end. Raises CommandError with its last words when it fails."""
    process = await asyncio.create_subprocess_exec(
        *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.returncode != 0:
        raise CommandError(f"{Path(arguments[0]).name} failed: {output.decode(errors='replace').strip()[-300:]}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _download(url: str, target: Path) -> None:
    """Fetches a bundle; certificates are checked, redirects and proxies are not used."""
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=DOWNLOAD_TIMEOUT_S) as answer, target.open("wb") as file:
        size = 0
        while data := answer.read(1 << 20):
            size += len(data)
            if size > MAX_BUNDLE_BYTES:
                raise CommandError("the bundle is too large")
            file.write(data)


def _copy(source: Path, target: Path) -> None:
    if source.stat().st_size > MAX_BUNDLE_BYTES:
        raise CommandError("the bundle is too large")
    shutil.copyfile(source, target)


def _sha256(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def _unpack(bundle: Path, target: Path) -> None:
    """Takes the wheels out, and nothing else."""
    (target / "wheels").mkdir()
    with tarfile.open(bundle) as archive:
        for member in archive:
            name = Path(member.name)
            if member.isfile() and name.suffix == ".whl" and name.parent.name == "wheels":
                source = archive.extractfile(member)
                if source is not None:
                    with source, (target / "wheels" / name.name).open("wb") as out:
                        shutil.copyfileobj(source, out)
