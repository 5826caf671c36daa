"""Organisations, environments, keys and users."""

from typing import Annotated, Any

import typer

from crosslogic_admin import rows
from crosslogic_cli.answers import show_answer, show_list
from crosslogic_cli.context import confirm, group
from crosslogic_cli.limits import parsed_limits

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


def _given(**values: Any) -> Any:
    """A body of what was said; the gateway checks it."""
    return {name: value for name, value in values.items() if value is not None}


@orgs.command("list")
def list_orgs(context: typer.Context) -> None:
    """List organisations."""
    show_list(context, lambda admin: rows(admin.list_orgs), _ORG)


@orgs.command("create")
def create_org(
    context: typer.Context, name: str, plan: Annotated[str | None, typer.Option()] = None, limit: Limits = None
) -> None:
    """Make an organisation."""
    body = _given(name=name, plan=plan, limits=parsed_limits(limit or []) or None)
    show_answer(context, lambda admin: admin.create_org(body))


@orgs.command("show")
def show_org(context: typer.Context, org: str) -> None:
    """Show an organisation."""
    show_answer(context, lambda admin: admin.get_org(org))


@orgs.command("update")
def update_org(
    context: typer.Context,
    org: str,
    name: Annotated[str | None, typer.Option()] = None,
    plan: Annotated[str | None, typer.Option()] = None,
    limit: Limits = None,
) -> None:
    """Change an organisation's name, plan or limits."""
    body = _given(name=name, plan=plan, limits=parsed_limits(limit or []) or None)
    show_answer(context, lambda admin: admin.update_org(org, body))


@orgs.command("suspend")
def suspend_org(context: typer.Context, org: str, reason: Reason = "", cut: Cut = False) -> None:
    """Refuse everything under an organisation, until it is resumed."""
    confirm(context, f"Every request of {org} will be refused.")
    body = _given(status="suspended", status_reason=reason, cut_streams=cut)
    show_answer(context, lambda admin: admin.update_org(org, body))


@orgs.command("resume")
def resume_org(context: typer.Context, org: str) -> None:
    """Let a suspended organisation work again."""
    show_answer(context, lambda admin: admin.update_org(org, {"status": "active"}))


@envs.command("list")
def list_envs(context: typer.Context, org: str) -> None:
    """List an organisation's environments."""
    show_list(context, lambda admin: rows(admin.list_environments, org), _ENV)


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
    show_answer(context, lambda admin: admin.create_environment(org, body))


@envs.command("show")
def show_env(context: typer.Context, env: str) -> None:
    """Show an environment."""
    show_answer(context, lambda admin: admin.get_environment(env))


@envs.command("suspend")
def suspend_env(context: typer.Context, env: str, reason: Reason = "", cut: Cut = False) -> None:
    """Refuse everything under an environment, until it is resumed."""
    confirm(context, f"Every request of {env} will be refused.")
    body = _given(status="suspended", status_reason=reason, cut_streams=cut)
    show_answer(context, lambda admin: admin.update_environment(env, body))


@envs.command("resume")
def resume_env(context: typer.Context, env: str) -> None:
    """Let a suspended environment work again."""
    show_answer(context, lambda admin: admin.update_environment(env, {"status": "active"}))


@keys.command("list")
def list_keys(context: typer.Context, env: str) -> None:
    """List an environment's keys."""
    show_list(context, lambda admin: rows(admin.list_keys, env), _KEY)


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
    show_answer(context, lambda admin: admin.create_key(env, body))


@keys.command("rotate")
def rotate_key(
    context: typer.Context,
    key: str,
    overlap_s: Annotated[int, typer.Option(help="seconds that the old key goes on working; 0: it ends at once")] = 3600,
) -> None:
    """Make a key's successor. Its secret is shown this once."""
    show_answer(context, lambda admin: admin.rotate_key(key, {"overlap_s": overlap_s}))


@keys.command("revoke")
def revoke_key(context: typer.Context, key: str, cut: Cut = False) -> None:
    """End a key for good."""
    confirm(context, f"The key {key} ends for good.")
    show_answer(context, lambda admin: admin.revoke_key(key, cut_streams=cut or None))


@users.command("list")
def list_users(context: typer.Context, org: Annotated[str | None, typer.Option()] = None) -> None:
    """List an organisation's people, or the platform's own."""
    show_list(context, lambda admin: rows(admin.list_org_users, org) if org else rows(admin.list_platform_users), _USER)


@users.command("add")
def add_user(
    context: typer.Context,
    email: str,
    org: Annotated[str | None, typer.Option(help="none: one of the platform's own people")] = None,
    role: Annotated[str, typer.Option(help="admin, developer or read_only")] = "read_only",
) -> None:
    """Let somebody in who signs in with this e-mail address."""
    body = _given(email=email, role=role)
    show_answer(context, lambda admin: admin.create_org_user(org, body) if org else admin.create_platform_user(body))


@users.command("remove")
def remove_user(context: typer.Context, user: str) -> None:
    """Let somebody in no more."""
    confirm(context, f"{user} loses all access.")
    show_answer(context, lambda admin: admin.delete_user(user))


@plans.command("list")
def list_plans(context: typer.Context) -> None:
    """List plans."""
    show_list(context, lambda admin: rows(admin.list_plans), _PLAN)


@plans.command("show")
def show_plan(context: typer.Context, name: str) -> None:
    """Show a plan."""
    show_answer(context, lambda admin: admin.get_plan(name))
