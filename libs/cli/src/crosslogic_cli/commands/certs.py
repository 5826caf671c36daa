"""Certificates: who they name and how long they last."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509

from crosslogic_cli.context import config_of, group
from crosslogic_cli.failure import CliError, ExitCode
from crosslogic_cli.output import show_rows

certs = group("certs", "Certificates. Example: `crosslogic certs show .run/tls`")
_COLUMNS = (("file", "file"), ("names", "names"), ("ends", "ends"), ("days left", "days_left"))


@certs.command("show")
def show(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="a folder of PEM files, or one")],
    within_days: Annotated[float, typer.Option(help="fail when one ends within so many days")] = 0.0,
) -> None:
    """Show what certificates say, those that end first at the top."""
    found = sorted(described(folder), key=lambda row: str(row["ends"]))
    show_rows(found, _COLUMNS, as_json=config_of(context).as_json)
    ending = [row["file"] for row in found if row["days_left"] <= within_days]
    if ending:
        raise CliError(f"These end within {within_days:g} days: {', '.join(ending)}")


def described(place: Path, *, now: datetime | None = None) -> list[dict[str, Any]]:
    """What each certificate in a folder (or one file) says. Raises CliError when there is none."""
    files = sorted(place.glob("*.pem")) + sorted(place.glob("*.crt")) if place.is_dir() else [place]
    rows = []
    for file in files:
        try:
            text = file.read_bytes()
        except OSError as error:
            raise CliError(f"{file}: {error.strerror}", ExitCode.NOT_FOUND) from None
        if b"BEGIN CERTIFICATE" not in text:
            continue
        certificate = x509.load_pem_x509_certificate(text)
        ends = certificate.not_valid_after_utc
        left = ends - (now or datetime.now(UTC))
        rows.append(
            {
                "file": file.name,
                "names": _names(certificate),
                "ends": ends.isoformat(),
                "days_left": round(left.total_seconds() / 86_400, 1),
            }
        )
    if not rows:
        raise CliError(f"There is no certificate in {place}.", ExitCode.NOT_FOUND)
    return rows


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [certificate.subject.rfc4514_string()]
    return [*found.get_values_for_type(x509.UniformResourceIdentifier), *found.get_values_for_type(x509.DNSName)]
