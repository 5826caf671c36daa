"""`python -m crosslogic_dev up|down|status|external`: what the targets of the Makefile with these names call."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from crosslogic_dev.external import Endpoint, relay_to
from crosslogic_dev.failure import DevError
from crosslogic_dev.plan import ENGINE_KINDS
from crosslogic_dev.progress import printed_progress
from crosslogic_dev.run_dir import RunDir
from crosslogic_dev.stack import Running, Stack, Wishes
from crosslogic_dev.status import machine_statuses, machine_table, missing_machines, status_table, statuses
from crosslogic_dev.teardown import take_down


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 when it did what was asked, 1 with one clear line on stderr when not."""
    arguments = _parser().parse_args(argv)
    root = arguments.root.resolve()
    run_dir = RunDir(root / ".run")
    try:
        if arguments.command == "up":
            return _up(arguments, root, run_dir)
        if arguments.command == "external":
            return _external(arguments, run_dir)
        return _down(run_dir) if arguments.command == "down" else _status(run_dir)
    except DevError as error:
        print(f"make {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"make {arguments.command}: interrupted; `make down` stops what runs", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crosslogic_dev", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the checkout; everything is kept in its .run")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the suite, or what of it does not run")
    up.add_argument("--engine", type=lambda text: text or None, help=" or ".join(ENGINE_KINDS))
    up.add_argument("--model", type=lambda text: text or None, help="a hub id or a path; empty: a tiny one made here")
    up.add_argument("--nodes", type=_count, help="how many nodes, each with an engine")
    up.add_argument("--tunnel", type=_flag, help="1: nodes dial the gateway and listen nowhere, as behind NAT")
    up.add_argument("--ports", choices=("fixed", "free"), default="fixed", help="free: any that nobody uses")
    external = commands.add_parser("external", help="relay to an endpoint of somebody else's, beside a suite that runs")
    external.add_argument("--model", default="", help="as clients are to name it")
    external.add_argument("--url", default="", help="the endpoint's base address, as OpenAI's clients take it")
    external.add_argument("--key-file", default="", help="a file with what the endpoint knows us by")
    external.add_argument("--its-model", default="", help="the endpoint's own name of the model; empty: the same")
    commands.add_parser("down", help="stop every process; the data stays")
    commands.add_parser("status", help="tell what runs")
    return parser


def _count(text: str) -> int | None:
    return int(text) if text else None


def _flag(text: str) -> bool | None:
    if text not in ("", "0", "1"):
        raise argparse.ArgumentTypeError(f"must be 0 or 1, not {text!r}")
    return text == "1" if text else None


def _up(arguments: argparse.Namespace, root: Path, run_dir: RunDir) -> int:
    progress = printed_progress()
    wishes = Wishes(
        root=root,
        run_dir=run_dir,
        engine=arguments.engine,
        model=arguments.model,
        nodes=arguments.nodes,
        tunnel=arguments.tunnel,
        free_ports=arguments.ports == "free",
        machines=True,
        environ=dict(os.environ),
    )
    running = Stack(wishes, progress).up()
    progress("ready" if running.changed else "everything runs already; nothing was changed")
    print(_summary(running, run_dir))
    return 0


def _summary(running: Running, run_dir: RunDir) -> str:
    request = {
        "model": running.topology.engine.model,
        "max_tokens": 32,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    curl = (
        f"curl {running.plan.base_url}/v1/chat/completions -H 'Authorization: Bearer {running.api_key}'"
        f" -H 'Content-Type: application/json' -d '{json.dumps(request)}'"
    )
    rows = {
        "API key": running.api_key,
        "Try it": curl,
        "Settings": run_dir.env_file,
        "Logs": f"{run_dir.log_file('<process>')}, {run_dir.machines / '<machine>' / 'agent.log'}",
        "Stop": "make down",
    }
    return "\n".join(["", *(f"{label:<9} {value}" for label, value in rows.items()), ""])


def _external(arguments: argparse.Namespace, run_dir: RunDir) -> int:
    asked = Endpoint(
        model=arguments.model, url=arguments.url, key_file=arguments.key_file, its_model=arguments.its_model
    )
    name = relay_to(asked, run_dir, printed_progress())
    print(f"{name} serves {asked.model}; its log is {run_dir.log_file(name)}, and `make down` stops it too.")
    return 0


def _down(run_dir: RunDir) -> int:
    progress = printed_progress()
    stopped = take_down(run_dir, progress)
    progress(f"nothing runs any more; the data stays in {run_dir.path}" if stopped else "nothing was running")
    return 0


def _status(run_dir: RunDir) -> int:
    rows, machines = statuses(run_dir), machine_statuses(run_dir)
    if not rows and not machines:
        print("Nothing runs. `make up` starts the suite.")
        return 0
    print(status_table(rows))
    if machines:
        print(f"\n{machine_table(machines)}")
    missing = missing_machines(run_dir, machines)
    if missing:
        print(
            f"\n{missing} of the machines asked for {'does' if missing == 1 else 'do'} not serve yet, or not any more."
        )
    return 0 if not missing and all(row.pid is not None for row in rows) else 1
