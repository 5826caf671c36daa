"""What lies in object storage: `crosslogic models stored`, `verify`, `unfinished`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from crosslogic_cli.context import config_of, confirm
from crosslogic_cli.failure import CliError, ExitCode
from crosslogic_cli.output import show_rows
from crosslogic_cli.progress import bars
from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.manifest import Manifest
from crosslogic_model_store.place import place_from
from crosslogic_model_store.stored_models import StoredModels

_VERSION = (
    ("revision", "revision"),
    ("bytes", "size_bytes"),
    ("parameters", "parameters"),
    ("dtype", "dtype"),
    ("context", "context_length"),
    ("licence", "licence"),
    ("source", "source"),
)
_VERIFIED = (("revision", "revision"), ("whole", "whole"), ("wrong files", "wrong"))
_UNFINISHED = (("object", "key"), ("begun", "begun_at"), ("bytes sent", "size_bytes"), ("given up", "aborted"))


def add_to(models: typer.Typer) -> None:
    """Adds the commands to the group `models`."""
    models.command("stored")(stored)
    models.command("verify")(verify)
    models.command("unfinished")(unfinished)


def stored(context: typer.Context, model: str) -> None:
    """List the versions of a model that are whole in object storage."""
    with refusals():
        found = StoredModels(place_from(os.environ)).versions(model, on_wrong=_warn)
    show_rows([row_of(manifest) for manifest in found], _VERSION, as_json=config_of(context).as_json)


def verify(
    context: typer.Context,
    model: str,
    revision: Annotated[str, typer.Option(help="one version; empty: all of them")] = "",
    remove: Annotated[bool, typer.Option("--remove-wrong", help="remove wrong objects, to be uploaded again")] = False,
) -> None:
    """Read a model's objects back and compare them with their checksums."""
    as_json = config_of(context).as_json
    if remove:
        confirm(context, f"Objects of {model} that are wrong are removed.")
    wrong_manifests: list[str] = []

    def on_wrong(key: str, why: str) -> None:
        wrong_manifests.append(key)
        _warn(key, why)

    with refusals(), bars(hidden=as_json) as shown:
        models = StoredModels(place_from(os.environ))
        versions = [
            each for each in models.versions(model, on_wrong=on_wrong) if each.revision == revision or not revision
        ]
        if not versions and not wrong_manifests:
            raise CliError(f"No such version of {model} is in the bucket.", ExitCode.NOT_FOUND)
        rows = []
        for each in versions:
            on_bytes = shown.add(f"verify {each.revision[:8]}", each.size_bytes)
            wrong = models.wrong_files(each, remove=remove, on_bytes=on_bytes)
            rows.append({"revision": each.revision, "whole": not wrong, "wrong": wrong})
    show_rows(rows, _VERIFIED, as_json=as_json)
    if wrong_manifests or any(row["wrong"] for row in rows):
        again = "upload the model again" if remove else "repeat with --remove-wrong, then upload the model again"
        raise CliError(f"Not all of {model} is what it should be: {again}.")


def unfinished(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="a model's name in the store; none: all models")] = "",
    abort: Annotated[bool, typer.Option("--abort", help="give them up: their parts are paid for")] = False,
    older_than_hours: Annotated[float, typer.Option(min=0, help="only those begun so long ago")] = 24.0,
) -> None:
    """List uploads that were begun and never ended."""
    as_json = config_of(context).as_json
    if abort:
        confirm(context, "Whoever still uploads these has to begin them anew.")
    before = datetime.now(UTC) - timedelta(hours=older_than_hours)
    with refusals():
        models = StoredModels(place_from(os.environ))
        found = [upload for upload in models.unfinished(model) if upload.begun_at <= before]
        for upload in found if abort else ():
            models.abort(upload)
    rows = [
        {"key": each.key, "begun_at": each.begun_at.isoformat(), "size_bytes": each.size_bytes, "aborted": abort}
        for each in found
    ]
    show_rows(rows, _UNFINISHED, as_json=as_json)


def row_of(manifest: Manifest) -> dict[str, object]:
    """A version, for people and scripts."""
    facts = manifest.facts
    return {
        "model": manifest.model,
        "revision": manifest.revision,
        "size_bytes": manifest.size_bytes,
        "parameters": facts.parameters,
        "dtype": facts.dtype,
        "context_length": facts.context_length,
        "licence": facts.licence,
        "chat_template": facts.chat_template,
        "source": manifest.source,
    }


@contextmanager
def refusals() -> Iterator[None]:
    """What the model store refuses and what the disk does becomes a CliError."""
    try:
        yield
    except ModelStoreError as error:
        raise CliError(str(error)) from None
    except OSError as error:
        raise CliError(f"{error.filename or 'the disk'}: {error.strerror}") from None


def _warn(key: str, why: str) -> None:
    sys.stderr.write(f"{key}: {why}\n")
