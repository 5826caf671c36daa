"""Where a suite on this machine keeps its pids, logs, certificates, secrets and data."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folder `.run` of a suite."""

    path: Path

    @property
    def env_file(self) -> Path:
        """What a shell or a test needs to use the suite, as KEY=value lines."""
        return self.path / "env"

    @property
    def plan_file(self) -> Path:
        """What runs: engine, model, nodes, ports, the seeded organisation. JSON."""
        return self.path / "plan.json"

    @property
    def tls(self) -> Path:
        """Certificates and keys."""
        return self.path / "tls"

    @property
    def machines(self) -> Path:
        """What the orchestrator's provider `local` keeps of its machines."""
        return self.path / "machines"

    def pid_file(self, name: str) -> Path:
        """The process's number, while it runs."""
        return self.path / f"{name}.pid"

    def log_file(self, name: str) -> Path:
        """Everything the process printed."""
        return self.path / f"{name}.log"

    def state_dir(self, name: str) -> Path:
        """Where the process keeps what outlives it."""
        return self.path / "state" / name

    def make(self) -> None:
        """Makes the folders. Others may pass through, to data that belongs to another user, and read nothing."""
        for folder, mode in ((self.path, 0o711), (self.path / "state", 0o711), (self.path / "secrets", 0o700)):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)

    def secret_file(self, name: str, text: str | None = None) -> Path:
        """A file that only its owner reads. Made once, with `text` or 32 random bytes in URL-safe letters."""
        file = self.path / "secrets" / name
        if not file.exists():
            write_private(file, (text if text is not None else secrets.token_urlsafe(32)) + "\n")
        return file

    def secret(self, name: str) -> str:
        """The contents of such a file."""
        return self.secret_file(name).read_text().strip()


def write_private(file: Path, text: str) -> None:
    """Replaces a file by one that only its owner may read; a reader sees the old text or the new."""
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    fresh.replace(file)
