"""The agent's side of its engine: how it is reached, asked and looked after."""

import contextlib
from dataclasses import dataclass

from crosslogic_common.process import StartError
from crosslogic_common.public_addresses import AddressRules
from crosslogic_node_agent.assembly import NEVER, AnswerTemplates
from crosslogic_node_agent.dialect import Dialect, VllmDialect
from crosslogic_node_agent.domain import EngineAddress
from crosslogic_node_agent.engine_api import EngineApi
from crosslogic_node_agent.engine_connection import EnginePool
from crosslogic_node_agent.external.api import ExternalApi, OwnLoad
from crosslogic_node_agent.external.credential import Credential
from crosslogic_node_agent.external.dialect import ExternalDialect, Standing
from crosslogic_node_agent.external.dialing import ExternalDialer, client_tls
from crosslogic_node_agent.external.terms import EndpointUrl, ExternalTerms
from crosslogic_node_agent.metrics import AgentMetrics
from crosslogic_node_agent.report import max_sequences_of
from crosslogic_node_agent.settings import NodeAgentSettings
from crosslogic_node_agent.supervisor import Patience

ASSUMED_TOKENS_PER_SEC = 5000.0
"""Of an endpoint: its requests are paid for, so what it can do is not tried out."""
_ABSENT_INTERVAL_S = 5.0
"""Between two looks at an endpoint that does not answer, or less where it is looked at more often anyway."""


@dataclass(frozen=True, slots=True)
class EngineSide:
    """An engine, or an endpoint of somebody else's in its place."""

    pool: EnginePool
    api: EngineApi
    dialect: Dialect
    templates: AnswerTemplates
    patience: Patience
    measured: bool
    """It may be put under load to learn what it can do."""
    fixed_tokens_per_sec: float
    """What it is said to do instead. 0: what was measured."""
    max_sequences: int
    """Requests that it was told to run at once. 0: not known."""


def open_engine(settings: NodeAgentSettings, metrics: AgentMetrics, stack: contextlib.AsyncExitStack) -> EngineSide:
    """What the settings name. Raises StartError."""
    if settings.external_url is not None:
        return _external(settings, settings.external_url, metrics, stack)
    assert settings.engine_url is not None  # noqa: S101  # one of the two is set: `check_together`
    return _own(settings, settings.engine_url, stack)


def _own(settings: NodeAgentSettings, address: EngineAddress, stack: contextlib.AsyncExitStack) -> EngineSide:
    pool = EnginePool(address)
    stack.callback(pool.close)
    templates = AnswerTemplates(from_tokens=settings.assemble_from_tokens)
    return EngineSide(
        pool=pool,
        api=EngineApi(pool),
        dialect=VllmDialect(templates),
        templates=templates,
        patience=Patience(
            start_s=settings.engine_start_timeout_s, hang_s=settings.engine_hang_s, stop_s=settings.engine_stop_s
        ),
        measured=settings.measure == "quick",
        fixed_tokens_per_sec=settings.max_tokens_per_sec,
        max_sequences=max_sequences_of(settings.engine_command),
    )


def _external(
    settings: NodeAgentSettings, url: EndpointUrl, metrics: AgentMetrics, stack: contextlib.AsyncExitStack
) -> EngineSide:
    terms = ExternalTerms(
        url=url,
        model=settings.external_model or settings.model,
        key=Credential(settings.external_key, header=settings.external_key_header),
        usage=settings.external_usage,
        limit_field=settings.external_limit_field,
        more_fields=frozenset(settings.external_fields),
    )
    try:
        tls = client_tls(settings.external_ca_file) if url.tls else None
    except OSError as error:
        raise StartError(f"CROSSLOGIC_EXTERNAL_CA_FILE cannot be read: {error.strerror or error}.") from None
    rules = AddressRules(settings.external_networks, public=not settings.air_gapped)
    dialer = ExternalDialer(url, rules=rules, tls=tls)
    stack.callback(dialer.close)
    pool = EnginePool(dialer)
    stack.callback(pool.close)
    standing = Standing()
    return EngineSide(
        pool=pool,
        api=ExternalApi(pool, terms=terms, standing=standing, load=OwnLoad(metrics).read),
        dialect=ExternalDialect(terms, standing),
        templates=AnswerTemplates(from_tokens=NEVER),
        patience=Patience(
            check_interval_s=settings.external_check_s,
            absent_interval_s=min(settings.external_check_s, _ABSENT_INTERVAL_S),
        ),
        measured=False,
        fixed_tokens_per_sec=settings.max_tokens_per_sec or ASSUMED_TOKENS_PER_SEC,
        max_sequences=settings.max_calls,
    )
