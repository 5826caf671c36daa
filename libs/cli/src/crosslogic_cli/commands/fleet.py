"""Models, nodes and machines."""

import contextlib
import time
from typing import Annotated, Any, Literal

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crosslogic_admin import rows
from crosslogic_admin.client import InstanceJob, JobLogLine, NewInstance
from crosslogic_cli.answers import show_answer, show_list
from crosslogic_cli.context import client_of, config_of, confirm, group
from crosslogic_cli.failure import CliError
from crosslogic_cli.output import console, show_json

Level = Literal["debug", "info", "warning", "error"]
Source = Literal["agent", "engine"]
FOLLOW_EVERY_S = 1.0
"""How often new lines are asked for; nodes ship them with their heartbeats."""
SHOWN_LINES = 3
"""Of a launch's log, while it is followed."""
TOLD_LINES = 20
"""Of the log of one that failed."""

models = group(
    "models",
    "The catalogue. Example: `crosslogic models register m --context 8192 --input 0.05 --output 0.1`",
)
nodes = group("nodes", "Machines that serve. Example: `crosslogic nodes drain NODE`")
instances = group(
    "instances",
    "Machines that this suite launches. Example: `crosslogic instances launch llama --provider local --region local`",
)

_MODEL = (
    ("name", "name"),
    ("context", "context_length"),
    ("input pico-$/token", "prompt_price_picodollars"),
    ("output pico-$/token", "completion_price_picodollars"),
    ("regions", "regions"),
)
_NODE = (
    ("id", "id"),
    ("status", "status"),
    ("region", "region"),
    ("models", "models"),
    ("running", "running"),
    ("waiting", "waiting"),
    ("tokens/s", "current_tokens_per_sec"),
    ("of", "max_tokens_per_sec"),
    ("reason", "status_reason"),
)
_INSTANCE = (
    ("id", "id"),
    ("state", "state"),
    ("model", "model_name"),
    ("provider", "provider"),
    ("region", "region"),
    ("type", "instance_type"),
    ("spot", "use_spot"),
    ("$/h", "hourly_price_usd"),
)


@models.command("list")
def list_models(context: typer.Context) -> None:
    """List the catalogue."""
    show_list(context, lambda admin: rows(admin.list_catalogue), _MODEL)


@models.command("register")
def register_model(
    context: typer.Context,
    name: str,
    input_price: Annotated[str, typer.Option("--input", help="dollars for a million prompt tokens")],
    output_price: Annotated[str, typer.Option("--output", help="dollars for a million generated tokens")],
    context_length: Annotated[
        int, typer.Option("--context", help="tokens that prompt and answer have together; 0: the version's")
    ] = 0,
    family: Annotated[str, typer.Option()] = "",
    region: Annotated[list[str] | None, typer.Option(help="where it is offered; may be repeated; none: all")] = None,
    environment: Annotated[str, typer.Option(help="development, staging or production")] = "",
    version: Annotated[str, typer.Option(help="of the model store; none: machines bring their own weights")] = "",
    endpoint: Annotated[str, typer.Option(help="where somebody else serves it, https://...")] = "",
) -> None:
    """Add a model to the catalogue; with an environment, a version or an endpoint, put that in place of what was."""
    body: Any = {
        "context_length": context_length,
        "input_usd_per_million": input_price,
        "output_usd_per_million": output_price,
        "family": family,
        "regions": region or [],
    }
    if environment or version or endpoint:
        body |= {"model": name, "environment": environment or "production", "version": version, "endpoint": endpoint}
        show_answer(context, lambda admin: admin.register_model(body))
    else:
        body["name"] = name
        show_answer(context, lambda admin: admin.create_model(body))


@nodes.command("list")
def list_nodes(context: typer.Context) -> None:
    """List nodes."""
    show_list(context, lambda admin: rows(admin.list_nodes), _NODE)


@nodes.command("drain")
def drain_node(context: typer.Context, node: str) -> None:
    """Take a node out of picking; what runs on it finishes."""
    show_answer(context, lambda admin: admin.drain_node(node))


@nodes.command("logs")
def node_logs(
    context: typer.Context,
    node: str,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with what comes, until interrupted")] = False,
    level: Annotated[Level, typer.Option(help="this and graver")] = "debug",
    source: Annotated[Source | None, typer.Option(help="none: both")] = None,
) -> None:
    """Show what a node's agent and engine logged lately."""
    as_json = config_of(context).as_json
    cursor = ""
    with client_of(context) as client, contextlib.suppress(KeyboardInterrupt):
        while True:
            page = client.admin.list_node_logs(node, level=level, source=source, cursor=cursor)
            cursor = page["cursor"]
            for line in page["data"]:
                if as_json:
                    show_json(line)
                else:
                    # As it is: what a node says is no markup.
                    console().print(Text(f"{line['time']} {line['level']:7} {line['source']:6} {line['text']}"))
            if not follow:
                break
            time.sleep(FOLLOW_EVERY_S)
    if page["dropped"] and not as_json:
        console().print(Text(f"the agent has dropped {page['dropped']} lines since its start", style="yellow"))


@nodes.command("token")
def join_token(
    context: typer.Context,
    org: Annotated[str, typer.Option(help="the organisation that alone may use the node; none: all")] = "",
    ttl_s: Annotated[int, typer.Option(help="seconds that it can be used")] = 600,
) -> None:
    """Make a token with which one machine joins."""
    show_answer(context, lambda admin: admin.create_join_token({"org_id": org, "ttl_s": ttl_s}))


@instances.command("list")
def list_instances(
    context: typer.Context, ended: Annotated[bool, typer.Option("--all", help="those that are gone too")] = False
) -> None:
    """List machines, newest first."""
    show_list(context, lambda admin: rows(admin.list_instances, include_ended=ended), _INSTANCE)


@instances.command("launch")
def launch(
    context: typer.Context,
    model: str,
    provider: Annotated[str, typer.Option(help="local, static, aws, gcp, azure, oci, …")],
    region: Annotated[str, typer.Option()],
    instance_type: Annotated[str, typer.Option("--type", help="empty: the provider chooses")] = "",
    spot: Annotated[bool, typer.Option("--spot", help="cheaper, and may be taken away")] = False,
    wait: Annotated[bool, typer.Option(help="follow it until it serves")] = True,
) -> None:
    """Launch a machine and follow its progress."""
    body: NewInstance = {
        "model_name": model,
        "provider": provider,
        "region": region,
        "instance_type": instance_type,
        "use_spot": spot,
    }
    with client_of(context) as client:
        job = client.admin.launch_instance(body)
    _follow(context, job, wait=wait)


@instances.command("terminate")
def terminate(
    context: typer.Context,
    instance: str,
    drain_timeout_s: Annotated[float, typer.Option(help="seconds that its running requests have")] = 120.0,
    wait: Annotated[bool, typer.Option(help="follow it until it is gone")] = True,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="give it up: its provider is not configured, and nobody ends it there")
    ] = False,
) -> None:
    """End a machine: drained, out of the pool, deleted."""
    if abandon:
        _abandon(context, instance)
        return
    confirm(context, f"The machine {instance} ends for good.")
    with client_of(context) as client:
        job = client.admin.terminate_instance(instance, {"drain_timeout_s": drain_timeout_s})
    _follow(context, job, wait=wait)


def _abandon(context: typer.Context, instance: str) -> None:
    """Its job fails, for nobody has ended the machine; whoever asked for just that is told what to look for."""
    confirm(context, f"The machine {instance} counts as ended, and nobody ends it at its provider: is it gone there?")
    with client_of(context) as client:
        job = client.admin.terminate_instance(instance, {"abandon": True})
    if config_of(context).as_json:
        show_json(job)
    else:
        console().print(
            Text(job["error"] or f"It was not given up. The job of its end: {job['status']}.", style="yellow")
        )


@instances.command("follow")
def follow(context: typer.Context, job: str) -> None:
    """Follow a job until it has ended."""
    with client_of(context) as client:
        found = client.admin.get_instance_job(job)
    _follow(context, found, wait=True)


def _follow(context: typer.Context, job: InstanceJob, *, wait: bool) -> None:
    as_json = config_of(context).as_json
    if wait and job["status"] == "running":
        with client_of(context) as client, Live(_progress(job), console=console(), transient=as_json) as live:
            for each in client.admin.watch_instance_job(job["id"]):
                job = each
                live.update(_progress(job))
    if as_json:
        show_json(job)
    elif job["status"] == "failed":
        for line in job["logs"][-TOLD_LINES:]:
            console().print(_told(line))
    elif not wait:
        console().print(f"job {job['id']} for machine {job['instance_id']}")
    if job["status"] == "failed":
        raise CliError(job["error"] or "The job failed.")


def _progress(job: InstanceJob) -> Group:
    table = Table(box=None, show_header=False, pad_edge=False)
    for step in job["steps"]:
        ended = step["end_time"] is not None
        mark = Text("✓", style="green") if ended else Text("✗" if job["status"] == "failed" else "…", style="yellow")
        size = f"{step['bytes_done']:,} of {step['bytes_total']:,} bytes" if step["bytes_total"] else ""
        table.add_row(mark, step["step"].replace("_", " "), Text(step["detail"] or size))
    latest = [_told(line) for line in job["logs"][-SHOWN_LINES:]]
    return Group(Text(f"{job['kind']} of {job['instance_id']}: {job['status']}", style="bold"), table, *latest)


def _told(line: JobLogLine) -> Text:
    # As it is: what a machine says is no markup.
    return Text(f"{line['time']} {line['source']:12} {line['text']}", style="dim")
