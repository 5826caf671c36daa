"""Organisations, environments, keys and users."""

from typing import Annotated, Any

import typer

from crosslogic_cli.context import client_of, config_of, confirm, group
from crosslogic_cli.limits import parsed_limits
from crosslogic_cli.output import show_one, show_rows

orgs = group("orgs", "Organisations: the tenants. Example: `crosslogic orgs create Acme --plan default`")
envs = group(
    "envs", "Environments of an organisation. Example: `crosslogic envs create ORG production --region us-east`"
)
keys = group(
    "keys", "API keys of an environment. Example: `crosslogic keys create ENV --name ci --limit requests_per_minute=60`"
)
users = group(
    "users", "People and their roles. Example: `crosslogic users add a@example.com --org ORG --role developer`"
)
plans = group("plans", "Plans: named limits and terms. Example: `crosslogic plans list`")

Limits = Annotated[list[str] | None, typer.Option("--limit", help="NAME=NUMBER or NAME=none; may be repeated")]
Cut = Annotated[bool, typer.Option("--cut-streams", help="requests under way end too")]
Reason = Annotated[str, typer.Option(help="why; it is kept in the audit log")]
_ORG = (("id", "id"), ("name", "name"), ("status", "status"), ("plan", "plan"), ("made", "create_time"))
_ENV = (("id", "id"), ("name", "name"), ("status", "status"), ("region", "region"), ("models", "allowed_models"))
_KEY = (("id", "id"), ("name", "name"), ("hint", "hint"), ("status", "status"), ("ends", "expire_time"))
_USER = (("id", "id"), ("e-mail", "email"), ("role", "role"), ("org", "org_id"), ("status", "status"))
_PLAN = (("name", "name"), ("priority", "priority"), ("billing", "billing_mode"), ("overage", "overage_policy"))


def _list(context: typer.Context, path: str, columns: tuple[tuple[str, str], ...]) -> None:
    with client_of(context) as client:
        show_rows(client.pages(path), columns, as_json=config_of(context).as_json)


def _do(context: typer.Context, method: str, path: str, body: dict[str, Any] | None = None, **query: Any) -> None:
    with client_of(context) as client:
        show_one(client.call(method, path, body=body, query=query), as_json=config_of(context).as_json)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@orgs.command("list")
def list_orgs(context: typer.Context) -> None:
    """List organisations."""
    _list(context, "/admin/orgs", _ORG)


@orgs.command("create")
def create_org(
    context: typer.Context, name: str, plan: Annotated[str | None, typer.Option()] = None, limit: Limits = None
) -> None:
    """Make an organisation."""
    _do(context, "POST", "/admin/orgs", _given(name=name, plan=plan, limits=parsed_limits(limit or []) or None))


@orgs.command("show")
def show_org(context: typer.Context, org: str) -> None:
    """Show an organisation."""
    _do(context, "GET", f"/admin/orgs/{org}")


@orgs.command("update")
def update_org(
    context: typer.Context,
    org: str,
    name: Annotated[str | None, typer.Option()] = None,
    plan: Annotated[str | None, typer.Option()] = None,
    limit: Limits = None,
) -> None:
    """Change an organisation's name, plan or limits."""
    _do(
        context,
        "PATCH",
        f"/admin/orgs/{org}",
        _given(name=name, plan=plan, limits=parsed_limits(limit or []) or None),
    )


@orgs.command("suspend")
def suspend_org(context: typer.Context, org: str, reason: Reason = "", cut: Cut = False) -> None:
    """Refuse everything under an organisation, until it is resumed."""
    confirm(context, f"Every request of {org} will be refused.")
    body = {"status": "suspended", "status_reason": reason, "cut_streams": cut}
    _do(context, "PATCH", f"/admin/orgs/{org}", body)


@orgs.command("resume")
def resume_org(context: typer.Context, org: str) -> None:
    """Let a suspended organisation work again."""
    _do(context, "PATCH", f"/admin/orgs/{org}", {"status": "active"})


@envs.command("list")
def list_envs(context: typer.Context, org: str) -> None:
    """List an organisation's environments."""
    _list(context, f"/admin/orgs/{org}/environments", _ENV)


@envs.command("create")
def create_env(
    context: typer.Context,
    org: str,
    name: str,
    region: Annotated[str | None, typer.Option()] = None,
    model: Annotated[list[str] | None, typer.Option(help="an allowed model; may be repeated; none: all")] = None,
    limit: Limits = None,
) -> None:
    """Make an environment."""
    body = _given(name=name, region=region, allowed_models=model, limits=parsed_limits(limit or []) or None)
    _do(context, "POST", f"/admin/orgs/{org}/environments", body)


@envs.command("show")
def show_env(context: typer.Context, env: str) -> None:
    """Show an environment."""
    _do(context, "GET", f"/admin/environments/{env}")


@envs.command("suspend")
def suspend_env(context: typer.Context, env: str, reason: Reason = "", cut: Cut = False) -> None:
    """Refuse everything under an environment, until it is resumed."""
    confirm(context, f"Every request of {env} will be refused.")
    body = {"status": "suspended", "status_reason": reason, "cut_streams": cut}
    _do(context, "PATCH", f"/admin/environments/{env}", body)


@envs.command("resume")
def resume_env(context: typer.Context, env: str) -> None:
    """Let a suspended environment work again."""
    _do(context, "PATCH", f"/admin/environments/{env}", {"status": "active"})


@keys.command("list")
def list_keys(context: typer.Context, env: str) -> None:
    """List an environment's keys."""
    _list(context, f"/admin/environments/{env}/keys", _KEY)


@keys.command("create")
def create_key(
    context: typer.Context,
    env: str,
    name: Annotated[str, typer.Option(help="shown to people")] = "",
    kind: Annotated[str, typer.Option(help="live or test")] = "live",
    expires: Annotated[str | None, typer.Option(help="a time such as 2027-01-01T00:00:00Z")] = None,
    cidr: Annotated[list[str] | None, typer.Option(help="a network that may use it; may be repeated")] = None,
    limit: Limits = None,
) -> None:
    """Make a key. Its secret is shown this once."""
    body = _given(
        name=name, kind=kind, expire_time=expires, allowed_cidrs=cidr, limits=parsed_limits(limit or []) or None
    )
    _do(context, "POST", f"/admin/environments/{env}/keys", body)


@keys.command("rotate")
def rotate_key(
    context: typer.Context,
    key: str,
    overlap_s: Annotated[int, typer.Option(help="seconds that the old key goes on working; 0: it ends at once")] = 3600,
) -> None:
    """Make a key's successor. Its secret is shown this once."""
    _do(context, "POST", f"/admin/keys/{key}/rotate", {"overlap_s": overlap_s})


@keys.command("revoke")
def revoke_key(context: typer.Context, key: str, cut: Cut = False) -> None:
    """End a key for good."""
    confirm(context, f"The key {key} ends for good.")
    _do(context, "DELETE", f"/admin/keys/{key}", cut_streams="true" if cut else None)


@users.command("list")
def list_users(context: typer.Context, org: Annotated[str | None, typer.Option()] = None) -> None:
    """List an organisation's people, or the platform's own."""
    _list(context, f"/admin/orgs/{org}/users" if org else "/admin/users", _USER)


@users.command("add")
def add_user(
    context: typer.Context,
    email: str,
    org: Annotated[str | None, typer.Option(help="none: one of the platform's own people")] = None,
    role: Annotated[str, typer.Option(help="admin, developer or read_only")] = "read_only",
) -> None:
    """Let somebody in who signs in with this e-mail address."""
    _do(context, "POST", f"/admin/orgs/{org}/users" if org else "/admin/users", {"email": email, "role": role})


@users.command("remove")
def remove_user(context: typer.Context, user: str) -> None:
    """Let somebody in no more."""
    confirm(context, f"{user} loses all access.")
    _do(context, "DELETE", f"/admin/users/{user}")


@plans.command("list")
def list_plans(context: typer.Context) -> None:
    """List plans."""
    _list(context, "/admin/plans", _PLAN)


@plans.command("show")
def show_plan(context: typer.Context, name: str) -> None:
    """Show a plan."""
    _do(context, "GET", f"/admin/plans/{name}")
