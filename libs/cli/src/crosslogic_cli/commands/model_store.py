"""`crosslogic models upload` and what else looks at the model store."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from crosslogic_cli.commands.stored_models import refusals, row_of
from crosslogic_cli.context import client_of, config_of
from crosslogic_cli.failure import CliError
from crosslogic_cli.output import console, show_json, show_one
from crosslogic_cli.progress import Bars, bars
from crosslogic_model_store.facts import ModelFacts, facts_of
from crosslogic_model_store.fit import Demand, fit, usual_concurrency
from crosslogic_model_store.gpus import accelerators, accelerators_of, known_names
from crosslogic_model_store.hub import Hub
from crosslogic_model_store.local_model import LocalModel, describe, find_files, read_model
from crosslogic_model_store.place import place_from
from crosslogic_model_store.safetensors_header import TensorTotals
from crosslogic_model_store.upload import Uploader

_MIB = 2**20


def add_to(models: typer.Typer) -> None:
    """Adds the commands to the group `models`."""
    models.command("upload")(upload)
    models.command("fit")(fit_model)


def upload(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="a folder, or a hub id (`owner/name`)")],
    name: Annotated[str, typer.Option(help="the model's name in the store; empty: the folder's or the id's")] = "",
    licence: Annotated[str, typer.Option(help="for example apache-2.0; empty: what the model's card says")] = "",
    hub_revision: Annotated[str, typer.Option(help="branch, tag or commit at the hub")] = "main",
    cache: Annotated[Path | None, typer.Option(help="where files of a hub are kept; none: a temporary folder")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="parts on their way at a time")] = 8,
    part_mib: Annotated[int, typer.Option(min=5, max=1024, help="least size of a part, in MiB")] = 16,
    register: Annotated[bool, typer.Option(help="tell the catalogue of the version")] = True,
) -> None:
    """Bring a model's weights into object storage.

    Only safetensors, configurations and tokenizers are taken. Run again after it was interrupted, it sends what is
    missing; once the version is there, nothing. The bucket: `R2_ACCOUNT_ID` (or `S3_ENDPOINT`, `S3_REGION`),
    `R2_ACCESS_KEY_ID`, `R2_SECRET_ACCESS_KEY`, `R2_BUCKET_NAME`.
    """
    as_json = config_of(context).as_json
    with refusals():
        place = place_from(os.environ)
    if register:
        # Found out before the hours that it may take, and not after them.
        with client_of(context) as client:
            client.admin.list_model_versions(page_size=1)
    with (
        refusals(),
        bars(hidden=as_json) as shown,
        _local(model, hub_revision, cache, shown) as (folder, source),
    ):
        local = _read(folder, name or _name(model), source, licence, shown)
        on_bytes = shown.add("upload", local.manifest.size_bytes)
        uploader = Uploader(place, workers=workers, least_part_bytes=part_mib * _MIB, on_bytes=on_bytes)
        new = uploader.upload(local)
    if register:
        with client_of(context) as client:
            client.admin.add_model_version({"manifest": local.manifest.to_json().decode()})
    row = {
        **row_of(local.manifest),
        "files": len(local.manifest.files),
        "left_out": list(local.left_out),
        "uploaded": new,
        "registered": register,
    }
    show_one(row, as_json=as_json)


def _read(folder: Path, name: str, source: str, licence: str, shown: Bars) -> LocalModel:
    wanted, _ = find_files(folder)
    on_bytes = shown.add("checksums", sum((folder / path).stat().st_size for path in wanted))
    return read_model(folder, name, source=source, licence=licence, on_bytes=on_bytes)


def _name(model: str) -> str:
    return Path(model).resolve().name if Path(model).is_dir() else model


@contextmanager
def _local(model: str, hub_revision: str, cache: Path | None, shown: Bars) -> Iterator[tuple[Path, str]]:
    """The folder of the model, and where it is from. One of a hub is fetched first."""
    if Path(model).is_dir():
        yield Path(model), ""
        return
    hub = Hub(endpoint=os.environ.get("HF_ENDPOINT", ""), token=os.environ.get("HF_TOKEN", ""))
    try:
        found = hub.look_up(model, revision=hub_revision)
        with tempfile.TemporaryDirectory(prefix="crosslogic-hub-") as temporary:
            folder = (cache or Path(temporary)) / found.folder_name
            folder.mkdir(parents=True, exist_ok=True)
            hub.fetch(found, folder, on_bytes=shown.add("fetch", sum(found.sizes.values())))
            yield folder, found.source
    finally:
        hub.close()


def fit_model(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="a model's folder, or a folder with its config.json alone")],
    gpu: Annotated[str, typer.Option(help="accelerator, for example H100; or a cloud's machine")],
    count: Annotated[int, typer.Option(min=1, help="accelerators of the machine")] = 1,
    context_tokens: Annotated[int, typer.Option("--context", help="tokens of a request; 0: all the model takes")] = 0,
    concurrency: Annotated[int, typer.Option(min=0, help="requests of that length at once; 0: 65,536 tokens")] = 0,
    parameters: Annotated[float, typer.Option(help="thousand millions, where the weights are not there")] = 0.0,
    bytes_each: Annotated[float, typer.Option(help="bytes a parameter, for --parameters")] = 2.0,
) -> None:
    """Reckon whether a model fits: weights, KV cache, engine; and over how many accelerators it is split."""
    gpus = accelerators_of(gpu) or accelerators(gpu, count)
    if gpus is None:
        raise CliError(f"{gpu} is not known here; known are {', '.join(known_names())}, and clouds' machines.")
    with refusals():
        facts = _facts(folder, parameters, bytes_each)
    try:
        context_tokens = context_tokens or facts.context_length
        demand = Demand(context_tokens=context_tokens, concurrency=concurrency or usual_concurrency(context_tokens))
        found = fit(facts, gpus, demand)
    except ValueError as error:
        raise CliError(f"{error}.") from None
    if config_of(context).as_json:
        show_json(
            {
                "fits": found.fits,
                "tensor_parallel": found.share.tensor_parallel,
                "needed_bytes": found.share.total_bytes,
                "available_bytes": found.available_bytes,
                "arithmetic": list(found.arithmetic),
            }
        )
    else:
        for line in found.arithmetic:
            console().print(line, markup=False, highlight=False)
    if not found.fits:
        raise CliError("It does not fit.")


def _facts(folder: Path, parameters: float, bytes_each: float) -> ModelFacts:
    if not parameters:
        return describe(folder, find_files(folder)[0])
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (ValueError, RecursionError):
        raise CliError("config.json is not JSON.") from None
    if not isinstance(config, dict):
        raise CliError("config.json is no configuration of a model.")
    elements = int(parameters * 1e9)
    return facts_of(config, TensorTotals(elements, int(elements * bytes_each), {}))
