"""The admin API's operations: the one table that both the routes and the OpenAPI document are made from."""

from typing import Any

from aiohttp import web

from crosslogic_gateway.admin import fleet, node_logs, schemas, usage
from crosslogic_gateway.admin.access import ANYBODY, Access, of_query
from crosslogic_gateway.admin.auth import AdminGate
from crosslogic_gateway.admin.billing_operations import BILLING_OPERATIONS
from crosslogic_gateway.admin.budget_operations import BUDGET_OPERATIONS
from crosslogic_gateway.admin.deployment_operations import DEPLOYMENT_OPERATIONS
from crosslogic_gateway.admin.deps import AdminDeps
from crosslogic_gateway.admin.instance_operations import INSTANCE_OPERATIONS
from crosslogic_gateway.admin.model_store_operations import MODEL_STORE_OPERATIONS
from crosslogic_gateway.admin.notification_operations import NOTIFICATION_OPERATIONS
from crosslogic_gateway.admin.operation import Operation, route_of
from crosslogic_gateway.admin.people_operations import PEOPLE_OPERATIONS
from crosslogic_gateway.admin.placement_operations import PLACEMENT_OPERATIONS
from crosslogic_gateway.admin.tenant_operations import TENANT_OPERATIONS
from crosslogic_gateway.admin.upgrade_operations import UPGRADE_OPERATIONS

OPERATIONS: tuple[Operation[Any, Any], ...] = (
    *TENANT_OPERATIONS,
    *PEOPLE_OPERATIONS,
    *INSTANCE_OPERATIONS,
    *DEPLOYMENT_OPERATIONS,
    Operation(
        method="POST",
        path="/admin/models",
        name="createModel",
        summary="Add a model to the catalogue",
        tag="Models",
        handle=fleet.create_model,
        body=schemas.NewModel,
        answer=schemas.Model,
        status=201,
        errors=(409, 415),
    ),
    Operation(
        method="GET",
        path="/admin/models",
        name="listCatalogue",
        access=ANYBODY,
        summary="List the catalogue",
        tag="Models",
        handle=fleet.list_models,
        query=schemas.PageQuery,
        answer=schemas.ModelList,
    ),
    *PLACEMENT_OPERATIONS,
    *MODEL_STORE_OPERATIONS,
    *UPGRADE_OPERATIONS,
    Operation(
        method="GET",
        path="/admin/nodes",
        name="listNodes",
        summary="List nodes",
        tag="Nodes",
        handle=fleet.list_nodes,
        query=schemas.PageQuery,
        answer=schemas.NodeList,
    ),
    Operation(
        method="POST",
        path="/admin/nodes/join-tokens",
        name="createJoinToken",
        summary="Make a single-use token with which a machine becomes a node",
        tag="Nodes",
        handle=fleet.create_join_token,
        body=schemas.NewJoinToken,
        body_optional=True,
        answer=schemas.JoinToken,
        status=201,
        errors=(415,),
    ),
    Operation(
        method="GET",
        path="/admin/nodes/{id}/logs",
        name="listNodeLogs",
        summary="List the last lines that a node's agent and engine logged; ask again with the cursor for what follows",
        tag="Nodes",
        handle=node_logs.list_node_logs,
        query=node_logs.NodeLogsQuery,
        answer=node_logs.NodeLogs,
        errors=(404,),
    ),
    Operation(
        method="POST",
        path="/admin/nodes/{id}/drain",
        name="drainNode",
        summary="Take a node out of picking; what runs on it finishes",
        tag="Nodes",
        handle=fleet.drain_node,
        answer=schemas.Node,
        errors=(404,),
    ),
    Operation(
        method="GET",
        path="/admin/usage",
        name="queryUsage",
        access=Access("read_only", of_query),
        summary="Sum the ledger",
        tag="Usage",
        handle=usage.query_usage,
        query=schemas.UsageQuery,
        answer=schemas.UsageList,
    ),
    Operation(
        method="GET",
        path="/admin/usage/records",
        name="listUsageRecords",
        access=Access("read_only", of_query),
        summary="List single records, newest first",
        tag="Usage",
        handle=usage.list_records,
        query=schemas.RecordsQuery,
        answer=schemas.UsageRecordList,
    ),
    *BILLING_OPERATIONS,
    *BUDGET_OPERATIONS,
    *NOTIFICATION_OPERATIONS,
)


def make_admin_routes(deps: AdminDeps) -> list[web.RouteDef]:
    """The admin API. Handlers raise CodedError; the app's middleware renders it and sets the request's ids."""
    gate = AdminGate(deps)
    return [route_of(operation, deps, gate) for operation in OPERATIONS]
