"""The admin API of gateway 0.1.0: types and a method for each operation. Made by `make admin-client`."""

from collections.abc import Iterator
from typing import Any, Literal, NotRequired, TypedDict

from crosslogic_admin.transport import Transport, part

NewOrg = TypedDict(
    "NewOrg",
    {
        'name': "str",
        'plan': "NotRequired[str]",
        'limits': "NotRequired[Limits]",
        'reserved_capacity': "NotRequired[dict[str, int]]",
        'allowed_regions': "NotRequired[list[str]]",
        'monthly_cap_picodollars': "NotRequired[int | None]",
    },
)

Limits = TypedDict(
    "Limits",
    {
        'requests_per_second': "NotRequired[int | None]",
        'requests_per_minute': "NotRequired[int | None]",
        'tokens_per_second': "NotRequired[int | None]",
        'tokens_per_minute': "NotRequired[int | None]",
        'tokens_per_hour': "NotRequired[int | None]",
        'tokens_per_day': "NotRequired[int | None]",
        'concurrency': "NotRequired[int | None]",
    },
)

Org = TypedDict(
    "Org",
    {
        'id': "str",
        'name': "str",
        'status': "Literal['active', 'suspended']",
        'status_reason': "str",
        'plan': "str",
        'limits': "Limits",
        'reserved_capacity': "dict[str, int]",
        'allowed_regions': "list[str]",
        'monthly_cap_picodollars': "int | None",
        'create_time': "str",
        'update_time': "str",
    },
)

OrgList = TypedDict(
    "OrgList",
    {
        'data': "list[Org]",
        'next_page_token': "str | None",
    },
)

OrgPatch = TypedDict(
    "OrgPatch",
    {
        'name': "NotRequired[str]",
        'status': "NotRequired[Literal['active', 'suspended']]",
        'status_reason': "NotRequired[str]",
        'cut_streams': "NotRequired[bool]",
        'plan': "NotRequired[str]",
        'limits': "NotRequired[Limits]",
        'reserved_capacity': "NotRequired[dict[str, int]]",
        'allowed_regions': "NotRequired[list[str]]",
        'monthly_cap_picodollars': "NotRequired[int | None]",
    },
)

NewEnvironment = TypedDict(
    "NewEnvironment",
    {
        'name': "str",
        'region': "NotRequired[str]",
        'country': "NotRequired[str]",
        'allowed_models': "NotRequired[list[str]]",
        'limits': "NotRequired[Limits]",
        'max_prompt_tokens': "NotRequired[int | None]",
        'max_output_tokens': "NotRequired[int | None]",
        'fallback_regions': "NotRequired[list[str]]",
        'residency_pinned': "NotRequired[bool]",
        'monthly_cap_picodollars': "NotRequired[int | None]",
    },
)

Environment = TypedDict(
    "Environment",
    {
        'id': "str",
        'org_id': "str",
        'name': "str",
        'status': "Literal['active', 'suspended']",
        'region': "str",
        'status_reason': "str",
        'allowed_models': "list[str]",
        'limits': "Limits",
        'max_prompt_tokens': "int | None",
        'max_output_tokens': "int | None",
        'fallback_regions': "list[str]",
        'residency_pinned': "bool",
        'monthly_cap_picodollars': "int | None",
        'create_time': "str",
        'update_time': "str",
    },
)

EnvironmentList = TypedDict(
    "EnvironmentList",
    {
        'data': "list[Environment]",
        'next_page_token': "str | None",
    },
)

EnvironmentPatch = TypedDict(
    "EnvironmentPatch",
    {
        'name': "NotRequired[str]",
        'status': "NotRequired[Literal['active', 'suspended']]",
        'status_reason': "NotRequired[str]",
        'cut_streams': "NotRequired[bool]",
        'region': "NotRequired[str]",
        'allowed_models': "NotRequired[list[str]]",
        'limits': "NotRequired[Limits]",
        'max_prompt_tokens': "NotRequired[int | None]",
        'max_output_tokens': "NotRequired[int | None]",
        'fallback_regions': "NotRequired[list[str]]",
        'residency_pinned': "NotRequired[bool]",
        'monthly_cap_picodollars': "NotRequired[int | None]",
    },
)

NewKey = TypedDict(
    "NewKey",
    {
        'name': "NotRequired[str]",
        'kind': "NotRequired[Literal['live', 'test']]",
        'allowed_models': "NotRequired[list[str]]",
        'limits': "NotRequired[Limits]",
        'allowed_regions': "NotRequired[list[str]]",
        'allowed_cidrs': "NotRequired[list[str]]",
        'monthly_cap_picodollars': "NotRequired[int | None]",
        'expire_time': "NotRequired[str | None]",
    },
)

CreatedKey = TypedDict(
    "CreatedKey",
    {
        'id': "str",
        'org_id': "str",
        'environment_id': "str",
        'name': "str",
        'kind': "Literal['live', 'test']",
        'status': "Literal['active', 'revoked', 'suspended']",
        'hint': "str",
        'status_reason': "str",
        'allowed_models': "list[str]",
        'limits': "Limits",
        'allowed_regions': "list[str]",
        'allowed_cidrs': "list[str]",
        'monthly_cap_picodollars': "int | None",
        'create_time': "str",
        'expire_time': "str | None",
        'revoke_time': "str | None",
        'key': "str",
    },
)

KeyList = TypedDict(
    "KeyList",
    {
        'data': "list[Key]",
        'next_page_token': "str | None",
    },
)

Key = TypedDict(
    "Key",
    {
        'id': "str",
        'org_id': "str",
        'environment_id': "str",
        'name': "str",
        'kind': "Literal['live', 'test']",
        'status': "Literal['active', 'revoked', 'suspended']",
        'hint': "str",
        'status_reason': "str",
        'allowed_models': "list[str]",
        'limits': "Limits",
        'allowed_regions': "list[str]",
        'allowed_cidrs': "list[str]",
        'monthly_cap_picodollars': "int | None",
        'create_time': "str",
        'expire_time': "str | None",
        'revoke_time': "str | None",
    },
)

KeyPatch = TypedDict(
    "KeyPatch",
    {
        'name': "NotRequired[str]",
        'status': "NotRequired[Literal['active', 'suspended']]",
        'status_reason': "NotRequired[str]",
        'cut_streams': "NotRequired[bool]",
        'allowed_models': "NotRequired[list[str]]",
        'limits': "NotRequired[Limits]",
        'allowed_regions': "NotRequired[list[str]]",
        'allowed_cidrs': "NotRequired[list[str]]",
        'monthly_cap_picodollars': "NotRequired[int | None]",
    },
)

KeyRotation = TypedDict(
    "KeyRotation",
    {
        'overlap_s': "NotRequired[int]",
        'cut_streams': "NotRequired[bool]",
    },
)

RotatedKey = TypedDict(
    "RotatedKey",
    {
        'id': "str",
        'org_id': "str",
        'environment_id': "str",
        'name': "str",
        'kind': "Literal['live', 'test']",
        'status': "Literal['active', 'revoked', 'suspended']",
        'hint': "str",
        'status_reason': "str",
        'allowed_models': "list[str]",
        'limits': "Limits",
        'allowed_regions': "list[str]",
        'allowed_cidrs': "list[str]",
        'monthly_cap_picodollars': "int | None",
        'create_time': "str",
        'expire_time': "str | None",
        'revoke_time': "str | None",
        'key': "str",
        'old_key': "Key",
    },
)

NewPlan = TypedDict(
    "NewPlan",
    {
        'name': "str",
        'description': "NotRequired[str]",
        'key_limits': "NotRequired[Limits]",
        'environment_limits': "NotRequired[Limits]",
        'org_limits': "NotRequired[Limits]",
        'priority': "NotRequired[Literal['high', 'low', 'normal']]",
        'billing_mode': "NotRequired[Literal['reserved', 'serverless']]",
        'overage_policy': "NotRequired[Literal['bill', 'shed']]",
        'monthly_cap_picodollars': "NotRequired[int | None]",
        'max_prompt_tokens': "NotRequired[int | None]",
        'max_output_tokens': "NotRequired[int | None]",
    },
)

Plan = TypedDict(
    "Plan",
    {
        'name': "str",
        'description': "str",
        'key_limits': "Limits",
        'environment_limits': "Limits",
        'org_limits': "Limits",
        'priority': "Literal['high', 'low', 'normal']",
        'billing_mode': "Literal['reserved', 'serverless']",
        'overage_policy': "Literal['bill', 'shed']",
        'monthly_cap_picodollars': "int | None",
        'max_prompt_tokens': "int | None",
        'max_output_tokens': "int | None",
        'create_time': "str",
        'update_time': "str",
    },
)

PlanList = TypedDict(
    "PlanList",
    {
        'data': "list[Plan]",
        'next_page_token': "str | None",
    },
)

PlanPatch = TypedDict(
    "PlanPatch",
    {
        'description': "NotRequired[str]",
        'key_limits': "NotRequired[Limits]",
        'environment_limits': "NotRequired[Limits]",
        'org_limits': "NotRequired[Limits]",
        'priority': "NotRequired[Literal['high', 'low', 'normal']]",
        'billing_mode': "NotRequired[Literal['reserved', 'serverless']]",
        'overage_policy': "NotRequired[Literal['bill', 'shed']]",
        'monthly_cap_picodollars': "NotRequired[int | None]",
        'max_prompt_tokens': "NotRequired[int | None]",
        'max_output_tokens': "NotRequired[int | None]",
    },
)

NewUser = TypedDict(
    "NewUser",
    {
        'email': "str",
        'role': "Literal['admin', 'developer', 'read_only']",
        'name': "NotRequired[str]",
    },
)

User = TypedDict(
    "User",
    {
        'id': "str",
        'org_id': "str | None",
        'email': "str",
        'name': "str",
        'role': "Literal['admin', 'developer', 'read_only']",
        'status': "Literal['active', 'suspended']",
        'issuer': "str | None",
        'create_time': "str",
        'update_time': "str",
    },
)

UserList = TypedDict(
    "UserList",
    {
        'data': "list[User]",
        'next_page_token': "str | None",
    },
)

UserPatch = TypedDict(
    "UserPatch",
    {
        'name': "NotRequired[str]",
        'role': "NotRequired[Literal['admin', 'developer', 'read_only']]",
        'status': "NotRequired[Literal['active', 'suspended']]",
    },
)

Me = TypedDict(
    "Me",
    {
        'kind': "Literal['token', 'user']",
        'name': "str",
        'places': "list[OwnPlace]",
    },
)

OwnPlace = TypedDict(
    "OwnPlace",
    {
        'org_id': "str | None",
        'role': "Literal['admin', 'developer', 'read_only']",
    },
)

AuditList = TypedDict(
    "AuditList",
    {
        'data': "list[AuditRecord]",
        'next_page_token': "str | None",
    },
)

AuditRecord = TypedDict(
    "AuditRecord",
    {
        'seq': "int",
        'time': "str",
        'actor': "AuditActor",
        'action': "str",
        'outcome': "Literal['done', 'failed', 'started', 'succeeded']",
        'org_id': "str | None",
        'object_kind': "str",
        'object_id': "str",
        'before': "Any | None",
        'after': "Any | None",
        'reason': "str",
        'previous_hash': "str",
        'hash': "str",
    },
)

AuditActor = TypedDict(
    "AuditActor",
    {
        'kind': "Literal['service', 'system', 'token', 'unspecified', 'user']",
        'user_id': "str | None",
        'name': "str",
        'org_id': "str | None",
        'address': "str",
        'request_id': "str",
    },
)

AuditVerdict = TypedDict(
    "AuditVerdict",
    {
        'intact': "bool",
        'broken_seq': "int | None",
        'problem': "str",
        'records': "int",
        'next_seq': "int | None",
        'head_seq': "int",
        'head_hash': "str",
    },
)

NewInstance = TypedDict(
    "NewInstance",
    {
        'model_name': "str",
        'provider': "str",
        'region': "str",
        'instance_type': "NotRequired[str]",
        'use_spot': "NotRequired[bool]",
        'org_id': "NotRequired[str]",
    },
)

InstanceJob = TypedDict(
    "InstanceJob",
    {
        'id': "str",
        'kind': "Literal['launch', 'terminate']",
        'instance_id': "str",
        'status': "Literal['failed', 'running', 'succeeded']",
        'steps': "list[JobStepProgress]",
        'error': "str",
        'logs': "list[JobLogLine]",
        'create_time': "str",
        'update_time': "str",
    },
)

JobStepProgress = TypedDict(
    "JobStepProgress",
    {
        'step': "Literal['active', 'agent_registered', 'benchmark', 'deleting', 'draining', 'provisioning', 'requested', 'task_written', 'terminated', 'validated', 'warm_up', 'weights_loading']",
        'start_time': "str",
        'end_time': "str | None",
        'detail': "str",
        'bytes_done': "int",
        'bytes_total': "int",
    },
)

JobLogLine = TypedDict(
    "JobLogLine",
    {
        'time': "str",
        'source': "str",
        'text': "str",
    },
)

InstanceList = TypedDict(
    "InstanceList",
    {
        'data': "list[Instance]",
        'next_page_token': "str | None",
    },
)

Instance = TypedDict(
    "Instance",
    {
        'id': "str",
        'model_name': "str",
        'provider': "str",
        'region': "str",
        'instance_type': "str",
        'use_spot': "bool",
        'org_id': "str | None",
        'state': "Literal['active', 'launching', 'lost', 'terminated', 'terminating']",
        'node_id': "str",
        'hourly_price_usd': "str",
        'job_id': "str",
        'create_time': "str",
        'end_time': "str | None",
    },
)

InstanceEnd = TypedDict(
    "InstanceEnd",
    {
        'drain_timeout_s': "NotRequired[float]",
        'abandon': "NotRequired[bool]",
    },
)

NewDeployment = TypedDict(
    "NewDeployment",
    {
        'min_nodes': "NotRequired[int]",
        'max_nodes': "NotRequired[int]",
        'spot_share': "NotRequired[float]",
        'on_demand_floor': "NotRequired[int]",
        'warm_spares': "NotRequired[int]",
        'strategy': "NotRequired[Literal['availability', 'cost', 'spread']]",
        'constraints': "NotRequired[Constraints]",
        'max_usd_per_hour': "NotRequired[str]",
        'slo_first_token_ms': "NotRequired[int]",
        'target_utilisation': "NotRequired[float]",
        'scale_up_cooldown_s': "NotRequired[float]",
        'scale_down_cooldown_s': "NotRequired[float]",
        'cold_start_wait_s': "NotRequired[float]",
        'cold_start_queue': "NotRequired[int]",
        'mode': "NotRequired[Literal['active', 'dry_run', 'paused']]",
        'model': "str",
        'region': "NotRequired[str]",
    },
)

Constraints = TypedDict(
    "Constraints",
    {
        'providers': "NotRequired[list[str]]",
        'regions': "NotRequired[list[str]]",
        'instance_types': "NotRequired[list[str]]",
        'gpu': "NotRequired[str]",
        'min_vram_bytes': "NotRequired[int]",
    },
)

ScaledDeployment = TypedDict(
    "ScaledDeployment",
    {
        'id': "str",
        'model': "str",
        'region': "str",
        'wishes': "Wishes",
        'revision': "int",
        'create_time': "str",
        'update_time': "str",
        'decision': "Decision | None",
    },
)

Wishes = TypedDict(
    "Wishes",
    {
        'min_nodes': "NotRequired[int]",
        'max_nodes': "NotRequired[int]",
        'spot_share': "NotRequired[float]",
        'on_demand_floor': "NotRequired[int]",
        'warm_spares': "NotRequired[int]",
        'strategy': "NotRequired[Literal['availability', 'cost', 'spread']]",
        'constraints': "NotRequired[Constraints]",
        'max_usd_per_hour': "NotRequired[str]",
        'slo_first_token_ms': "NotRequired[int]",
        'target_utilisation': "NotRequired[float]",
        'scale_up_cooldown_s': "NotRequired[float]",
        'scale_down_cooldown_s': "NotRequired[float]",
        'cold_start_wait_s': "NotRequired[float]",
        'cold_start_queue': "NotRequired[int]",
        'mode': "NotRequired[Literal['active', 'dry_run', 'paused']]",
    },
)

Decision = TypedDict(
    "Decision",
    {
        'sequence': "int",
        'time': "str",
        'desired': "int",
        'kept': "int",
        'needs': "list[Need]",
        'launches': "list[PlannedLaunch]",
        'ends': "list[PlannedEnd]",
        'held': "list[str]",
        'dry_run': "bool",
    },
)

Need = TypedDict(
    "Need",
    {
        'signal': "str",
        'nodes': "int",
        'why': "str",
    },
)

PlannedLaunch = TypedDict(
    "PlannedLaunch",
    {
        'provider': "str",
        'region': "str",
        'instance_type': "str",
        'use_spot': "bool",
        'hourly_price_usd': "str",
        'expected_hourly_price_usd': "str",
        'why': "str",
        'placement_why': "str",
        'replaces_instance_id': "str | None",
        'instance_id': "str | None",
    },
)

PlannedEnd = TypedDict(
    "PlannedEnd",
    {
        'instance_id': "str",
        'why': "str",
    },
)

ScaledDeploymentList = TypedDict(
    "ScaledDeploymentList",
    {
        'data': "list[ScaledDeployment]",
        'next_page_token': "NotRequired[str | None]",
    },
)

ChangedDeployment = TypedDict(
    "ChangedDeployment",
    {
        'min_nodes': "NotRequired[int]",
        'max_nodes': "NotRequired[int]",
        'spot_share': "NotRequired[float]",
        'on_demand_floor': "NotRequired[int]",
        'warm_spares': "NotRequired[int]",
        'strategy': "NotRequired[Literal['availability', 'cost', 'spread']]",
        'constraints': "NotRequired[Constraints]",
        'max_usd_per_hour': "NotRequired[str]",
        'slo_first_token_ms': "NotRequired[int]",
        'target_utilisation': "NotRequired[float]",
        'scale_up_cooldown_s': "NotRequired[float]",
        'scale_down_cooldown_s': "NotRequired[float]",
        'cold_start_wait_s': "NotRequired[float]",
        'cold_start_queue': "NotRequired[int]",
        'mode': "NotRequired[Literal['active', 'dry_run', 'paused']]",
        'revision': "NotRequired[int]",
    },
)

EndedDeployment = TypedDict(
    "EndedDeployment",
    {
        'id': "str",
    },
)

DeploymentPlan = TypedDict(
    "DeploymentPlan",
    {
        'decision': "Decision",
        'offers': "list[PlannedLaunch]",
    },
)

DecisionList = TypedDict(
    "DecisionList",
    {
        'data': "list[Decision]",
        'next_page_token': "str | None",
    },
)

NewModel = TypedDict(
    "NewModel",
    {
        'name': "str",
        'context_length': "int",
        'family': "NotRequired[str]",
        'vram_required_bytes': "NotRequired[int]",
        'prompt_price_picodollars': "NotRequired[int]",
        'completion_price_picodollars': "NotRequired[int]",
        'input_usd_per_million': "NotRequired[str]",
        'output_usd_per_million': "NotRequired[str]",
        'regions': "NotRequired[list[str]]",
        'deployments': "NotRequired[list[Deployment]]",
    },
)

Deployment = TypedDict(
    "Deployment",
    {
        'region': "NotRequired[str]",
        'strategy': "NotRequired[Literal['least_connections', 'least_latency', 'least_load', 'prefix_affinity', 'round_robin']]",
    },
)

Model = TypedDict(
    "Model",
    {
        'name': "str",
        'family': "str",
        'context_length': "int",
        'vram_required_bytes': "int",
        'prompt_price_picodollars': "int",
        'completion_price_picodollars': "int",
        'input_usd_per_million': "str",
        'output_usd_per_million': "str",
        'regions': "list[str]",
        'deployments': "list[Deployment]",
        'create_time': "str",
    },
)

ModelList = TypedDict(
    "ModelList",
    {
        'data': "list[Model]",
        'next_page_token': "str | None",
    },
)

NewDeployments = TypedDict(
    "NewDeployments",
    {
        'deployments': "list[Deployment]",
    },
)

ServedModel = TypedDict(
    "ServedModel",
    {
        'name': "str",
        'deployments': "list[Deployment]",
    },
)

RegionList = TypedDict(
    "RegionList",
    {
        'data': "NotRequired[list[RegionRow]]",
    },
)

RegionRow = TypedDict(
    "RegionRow",
    {
        'code': "str",
        'name': "str",
        'aliases': "list[str]",
        'countries': "list[str]",
        'clouds': "dict[str, str]",
        'cost_multiplier': "str",
        'node_pools': "list[str]",
        'fallback': "list[str]",
    },
)

NewModelVersion = TypedDict(
    "NewModelVersion",
    {
        'manifest': "str",
    },
)

ModelVersion = TypedDict(
    "ModelVersion",
    {
        'model': "str",
        'version': "str",
        'size_bytes': "int",
        'weights_bytes': "int",
        'parameters': "int",
        'dtype': "str",
        'context_length': "int",
        'vram_required_bytes': "int",
        'licence': "str",
        'chat_template': "bool",
        'source': "str",
        'create_time': "str",
    },
)

ModelVersionList = TypedDict(
    "ModelVersionList",
    {
        'data': "list[ModelVersion]",
        'next_page_token': "str | None",
    },
)

NewRegisteredModel = TypedDict(
    "NewRegisteredModel",
    {
        'model': "str",
        'environment': "NotRequired[Literal['development', 'production', 'staging']]",
        'version': "NotRequired[str]",
        'endpoint': "NotRequired[str]",
        'context_length': "NotRequired[int]",
        'family': "NotRequired[str]",
        'prompt_price_picodollars': "NotRequired[int]",
        'completion_price_picodollars': "NotRequired[int]",
        'input_usd_per_million': "NotRequired[str]",
        'output_usd_per_million': "NotRequired[str]",
        'regions': "NotRequired[list[str]]",
    },
)

RegisteredModel = TypedDict(
    "RegisteredModel",
    {
        'name': "str",
        'model': "str",
        'environment': "Literal['development', 'production', 'staging']",
        'version': "str",
        'enabled': "bool",
        'status': "Literal['disabled', 'no_nodes', 'other_version', 'serving']",
        'health_time': "str | None",
        'endpoint': "str",
        'serving_nodes': "int",
        'version_nodes': "int",
        'licence': "str",
        'change_time': "str",
    },
)

RegisteredModelList = TypedDict(
    "RegisteredModelList",
    {
        'data': "list[RegisteredModel]",
        'next_page_token': "str | None",
    },
)

ModelNamed = TypedDict(
    "ModelNamed",
    {
        'name': "str",
    },
)

NewPromotion = TypedDict(
    "NewPromotion",
    {
        'model': "str",
        'from_environment': "Literal['development', 'production', 'staging']",
        'to_environment': "Literal['development', 'production', 'staging']",
        'dry_run': "NotRequired[bool]",
    },
)

Promotion = TypedDict(
    "Promotion",
    {
        'model': "RegisteredModel | None",
        'gates': "list[Gate]",
    },
)

Gate = TypedDict(
    "Gate",
    {
        'name': "str",
        'passed': "bool",
        'detail': "str",
    },
)

Gone = TypedDict(
    "Gone",
    {
        'name': "str",
    },
)

NewUpgrade = TypedDict(
    "NewUpgrade",
    {
        'to_version': "str",
        'from_version': "NotRequired[str]",
        'rules': "NotRequired[NewUpgradeRules]",
    },
)

NewUpgradeRules = TypedDict(
    "NewUpgradeRules",
    {
        'steps_percent': "NotRequired[list[int]]",
        'step_s': "NotRequired[int]",
        'step_requests': "NotRequired[int]",
        'max_error_percent': "NotRequired[float]",
        'max_first_token_ratio': "NotRequired[float]",
        'first_token_slack_ms': "NotRequired[int]",
        'min_nodes': "NotRequired[int]",
        'wait_s': "NotRequired[int]",
        'lost_s': "NotRequired[int]",
        'finish_s': "NotRequired[int]",
    },
)

Upgrade = TypedDict(
    "Upgrade",
    {
        'id': "str",
        'model': "str",
        'from_version': "str",
        'to_version': "str",
        'phase': "Literal['done', 'draining', 'finishing', 'rolled_back', 'shifting', 'waiting']",
        'percent': "int",
        'reason': "str",
        'rules': "UpgradeRules",
        'new_outcomes': "VersionOutcomes",
        'old_outcomes': "VersionOutcomes",
        'create_time': "str",
        'change_time': "str",
    },
)

UpgradeRules = TypedDict(
    "UpgradeRules",
    {
        'steps_percent': "list[int]",
        'step_s': "int",
        'step_requests': "int",
        'max_error_percent': "float",
        'max_first_token_ratio': "float",
        'first_token_slack_ms': "int",
        'min_nodes': "int",
        'wait_s': "int",
        'lost_s': "int",
        'finish_s': "int",
    },
)

VersionOutcomes = TypedDict(
    "VersionOutcomes",
    {
        'succeeded': "int",
        'failed': "int",
        'first_token_ms': "float",
    },
)

UpgradeList = TypedDict(
    "UpgradeList",
    {
        'data': "list[Upgrade]",
        'next_page_token': "str | None",
    },
)

NewRollBack = TypedDict(
    "NewRollBack",
    {
        'reason': "NotRequired[str]",
    },
)

NodeList = TypedDict(
    "NodeList",
    {
        'data': "list[Node]",
        'next_page_token': "str | None",
    },
)

Node = TypedDict(
    "Node",
    {
        'id': "str",
        'org_id': "str | None",
        'status': "Literal['active', 'dead', 'draining', 'registering', 'warming']",
        'status_reason': "str",
        'address': "str",
        'region': "str",
        'models': "list[str]",
        'context_length': "int",
        'engine': "str",
        'engine_version': "str",
        'agent_version': "str",
        'gpu_type': "str",
        'gpu_count': "int",
        'vram_total_bytes': "int",
        'max_tokens_per_sec': "float",
        'prefill_tokens_per_sec': "float",
        'decode_tokens_per_sec': "float",
        'current_tokens_per_sec': "float",
        'running': "int",
        'waiting': "int",
        'kv_cache_usage': "float",
        'prompt_tokens_total': "int",
        'generation_tokens_total': "int",
        'engine_restarts': "int",
        'last_heartbeat_time': "str | None",
        'create_time': "str",
    },
)

NewJoinToken = TypedDict(
    "NewJoinToken",
    {
        'org_id': "NotRequired[str]",
        'ttl_s': "NotRequired[int]",
    },
)

JoinToken = TypedDict(
    "JoinToken",
    {
        'join_token': "str",
        'expire_time': "str",
    },
)

NodeLogs = TypedDict(
    "NodeLogs",
    {
        'data': "list[NodeLogLine]",
        'cursor': "str",
        'dropped': "int",
    },
)

NodeLogLine = TypedDict(
    "NodeLogLine",
    {
        'time': "str",
        'level': "Literal['debug', 'error', 'info', 'warning']",
        'source': "Literal['agent', 'engine']",
        'text': "str",
    },
)

UsageList = TypedDict(
    "UsageList",
    {
        'data': "list[UsageRow]",
        'next_page_token': "str | None",
    },
)

UsageRow = TypedDict(
    "UsageRow",
    {
        'org_id': "NotRequired[str]",
        'environment_id': "NotRequired[str]",
        'key_id': "NotRequired[str]",
        'model': "NotRequired[str]",
        'region': "NotRequired[str]",
        'time': "NotRequired[str]",
        'requests': "int",
        'prompt_tokens': "int",
        'cached_prompt_tokens': "int",
        'completion_tokens': "int",
        'total_tokens': "int",
        'cost_picodollars': "int",
        'cost_usd': "str",
    },
)

UsageRecordList = TypedDict(
    "UsageRecordList",
    {
        'data': "list[UsageRecord]",
        'next_page_token': "str | None",
    },
)

UsageRecord = TypedDict(
    "UsageRecord",
    {
        'request_id': "str",
        'org_id': "str",
        'environment_id': "str",
        'key_id': "str",
        'model': "str",
        'region': "str",
        'node_id': "str",
        'api': "str",
        'stream': "bool",
        'start_time': "str",
        'outcome': "Literal['client_disconnected', 'failed', 'succeeded', 'timed_out', 'unspecified']",
        'http_status': "int",
        'prompt_tokens': "int",
        'cached_prompt_tokens': "int",
        'completion_tokens': "int",
        'total_tokens': "int",
        'count_source': "Literal['engine_final', 'engine_running', 'none', 'unspecified']",
        'prompt_price_picodollars': "int",
        'completion_price_picodollars': "int",
        'cost_picodollars': "int",
        'cost_usd': "str",
        'latency_us': "int",
        'time_to_first_token_us': "int",
        'record_time': "str",
        'from_witness': "bool",
        'cached_prompt_price_picodollars': "int | None",
        'price_version': "str | None",
        'plan': "str | None",
        'attempts': "int",
        'failed_over': "bool",
        'region_failover': "bool",
        'resumed': "bool",
        'revision': "int",
        'billed': "bool",
    },
)

NewPrices = TypedDict(
    "NewPrices",
    {
        'model': "str",
        'prompt_usd_per_million': "str",
        'completion_usd_per_million': "str",
        'cached_prompt_usd_per_million': "NotRequired[str | None]",
        'embedding_usd_per_million': "NotRequired[str | None]",
        'plan': "NotRequired[str]",
        'category': "NotRequired[str]",
        'discount': "NotRequired[str]",
        'markets': "NotRequired[list[str]]",
        'effective_from': "NotRequired[str | None]",
    },
)

PriceVersionList = TypedDict(
    "PriceVersionList",
    {
        'data': "list[PriceVersion]",
        'next_page_token': "str | None",
    },
)

PriceVersion = TypedDict(
    "PriceVersion",
    {
        'id': "str",
        'model': "str",
        'market': "str",
        'plan': "str | None",
        'category': "str",
        'base': "TokenPrices",
        'multiplier': "str",
        'discount': "str",
        'prices': "TokenPrices",
        'effective_from': "str",
        'effective_to': "str | None",
        'create_time': "str",
    },
)

TokenPrices = TypedDict(
    "TokenPrices",
    {
        'prompt': "int",
        'cached_prompt': "int",
        'completion': "int",
        'embedding': "int",
    },
)

BillingAccount = TypedDict(
    "BillingAccount",
    {
        'org_id': "str",
        'customer_id': "str | None",
        'subscription_id': "str | None",
        'subscription_status': "str | None",
        'failing_since': "str | None",
        'suspend_time': "str | None",
        'plan': "str | None",
        'agreed_alone': "bool",
        'terms': "Terms",
    },
)

Terms = TypedDict(
    "Terms",
    {
        'collection': "NotRequired[Literal['invoice', 'prepaid']]",
        'free_tokens': "NotRequired[int]",
        'discount': "NotRequired[str]",
        'tiers': "NotRequired[list[Tier]]",
        'monthly_cap_usd': "NotRequired[str | None]",
        'unit_fee_usd': "NotRequired[str]",
        'mode': "NotRequired[Literal['reserved', 'serverless']]",
        'reserved_units': "NotRequired[dict[str, int]]",
        'overage': "NotRequired[Literal['bill', 'shed']]",
        'time_zone': "NotRequired[str]",
    },
)

Tier = TypedDict(
    "Tier",
    {
        'from_tokens': "int",
        'share': "str",
    },
)

NewTerms = TypedDict(
    "NewTerms",
    {
        'collection': "NotRequired[Literal['invoice', 'prepaid']]",
        'free_tokens': "NotRequired[int]",
        'discount': "NotRequired[str]",
        'tiers': "NotRequired[list[Tier]]",
        'monthly_cap_usd': "NotRequired[str | None]",
        'unit_fee_usd': "NotRequired[str]",
        'time_zone': "NotRequired[str]",
        'from_month': "NotRequired[str]",
    },
)

PlanTerms = TypedDict(
    "PlanTerms",
    {
        'plan': "str",
        'version': "int",
        'from_month': "str | None",
        'terms': "Terms",
    },
)

NewPlanTerms = TypedDict(
    "NewPlanTerms",
    {
        'collection': "NotRequired[Literal['invoice', 'prepaid']]",
        'free_tokens': "NotRequired[int]",
        'discount': "NotRequired[str]",
        'tiers': "NotRequired[list[Tier]]",
        'monthly_cap_usd': "NotRequired[str | None]",
        'unit_fee_usd': "NotRequired[str]",
        'from_month': "NotRequired[str]",
    },
)

NewCustomer = TypedDict(
    "NewCustomer",
    {
        'name': "str",
        'email': "NotRequired[str]",
        'country': "NotRequired[str]",
        'state': "NotRequired[str]",
        'city': "NotRequired[str]",
        'line1': "NotRequired[str]",
        'postal_code': "NotRequired[str]",
        'tax_id_type': "NotRequired[str]",
        'tax_id': "NotRequired[str]",
    },
)

Statement = TypedDict(
    "Statement",
    {
        'org_id': "str",
        'month': "str",
        'from_time': "str",
        'to_time': "str",
        'lines': "list[StatementLine]",
        'capped_usd': "str",
        'fee_usd': "str",
        'total_picodollars': "int",
        'total_usd': "str",
        'forecast_usd': "str",
        'free_tokens_left': "int",
        'reserved': "list[ReservedUse]",
        'settled_until': "str",
    },
)

StatementLine = TypedDict(
    "StatementLine",
    {
        'category': "str",
        'tokens': "int",
        'uncharged_tokens': "int",
        'list_usd': "str",
        'charge_picodollars': "int",
        'charge_usd': "str",
        'exported_picodollars': "int",
    },
)

ReservedUse = TypedDict(
    "ReservedUse",
    {
        'model': "str",
        'units': "int",
        'tokens': "int",
        'capacity_tokens': "int",
    },
)

InvoiceList = TypedDict(
    "InvoiceList",
    {
        'data': "list[Invoice]",
    },
)

Invoice = TypedDict(
    "Invoice",
    {
        'id': "str",
        'number': "str | None",
        'status': "str",
        'currency': "str",
        'total_cents': "int",
        'paid_cents': "int",
        'create_time': "str",
        'period_start': "str",
        'period_end': "str",
        'url': "str | None",
    },
)

MeterEventList = TypedDict(
    "MeterEventList",
    {
        'data': "list[MeterEvent]",
        'next_page_token': "str | None",
    },
)

MeterEvent = TypedDict(
    "MeterEvent",
    {
        'id': "int",
        'identifier': "str",
        'org_id': "str",
        'customer_id': "str",
        'event_name': "str",
        'value': "int",
        'window_start': "str",
        'revision': "int",
        'state': "Literal['dead', 'delivered', 'pending']",
        'delivered_how': "str | None",
        'attempts': "int",
        'last_error': "str | None",
        'create_time': "str",
        'deliver_time': "str | None",
    },
)

NewReconciliation = TypedDict(
    "NewReconciliation",
    {
        'from_day': "NotRequired[str]",
        'to_day': "NotRequired[str]",
    },
)

Reconciliation = TypedDict(
    "Reconciliation",
    {
        'id': "str",
        'from_day': "str",
        'to_day': "str",
        'create_time': "str",
        'unexplained': "int",
        'missing': "list[str]",
        'lines': "list[ReconciliationLine]",
        'signed_by': "str | None",
        'signed_note': "str | None",
        'sign_time': "str | None",
    },
)

ReconciliationLine = TypedDict(
    "ReconciliationLine",
    {
        'what': "str",
        'org_id': "str | None",
        'category': "str | None",
        'unit': "str",
        'left': "int",
        'right': "int",
        'explanation': "str | None",
        'unexplained': "bool",
    },
)

ReconciliationList = TypedDict(
    "ReconciliationList",
    {
        'data': "list[Reconciliation]",
        'next_page_token': "str | None",
    },
)

SignOff = TypedDict(
    "SignOff",
    {
        'signed_by': "str",
        'note': "NotRequired[str]",
    },
)

ChargeExplanation = TypedDict(
    "ChargeExplanation",
    {
        'request_id': "str",
        'org_id': "str",
        'model': "str",
        'region': "str",
        'start_time': "str",
        'outcome': "str",
        'prompt_tokens': "int",
        'cached_prompt_tokens': "int",
        'completion_tokens': "int",
        'cost_picodollars': "int",
        'cost_usd': "str",
        'price_version': "PriceVersion | None",
        'from_witness': "bool",
        'corrections': "int",
        'month': "str",
        'window_start': "str",
        'events': "list[MeterEvent]",
        'sentences': "list[str]",
    },
)

Finops = TypedDict(
    "Finops",
    {
        'models': "list[FinopsRow]",
        'regions': "list[FinopsRow]",
        'markets': "list[FinopsRow]",
        'idle_cost_usd': "str",
        'total': "FinopsRow",
    },
)

FinopsRow = TypedDict(
    "FinopsRow",
    {
        'name': "str",
        'cost_usd': "str",
        'revenue_usd': "str",
        'margin_usd': "str",
        'tokens': "int",
        'cost_usd_per_million_tokens': "str | None",
        'gpu_hours': "float",
        'cost_usd_per_gpu_hour': "str | None",
    },
)

Machine = TypedDict(
    "Machine",
    {
        'node_id': "str",
        'region': "str",
        'hourly_usd': "str",
        'from_time': "str",
        'to_time': "NotRequired[str | None]",
        'gpu_type': "NotRequired[str]",
        'gpu_count': "NotRequired[int]",
        'spot': "NotRequired[bool]",
        'models': "NotRequired[list[str]]",
    },
)

MachineKept = TypedDict(
    "MachineKept",
    {
        'node_id': "str",
        'from_time': "str",
        'hourly_usd': "str",
    },
)

NewBudget = TypedDict(
    "NewBudget",
    {
        'org_id': "str",
        'name': "str",
        'limit_picodollars': "int",
        'scope': "NotRequired[Literal['department', 'environment', 'key', 'org']]",
        'scope_id': "NotRequired[str]",
        'environment_ids': "NotRequired[list[str]]",
        'key_ids': "NotRequired[list[str]]",
        'period': "NotRequired[Literal['day', 'month']]",
        'hard': "NotRequired[bool]",
        'thresholds_percent': "NotRequired[list[int]]",
        'owners': "NotRequired[list[str]]",
    },
)

Budget = TypedDict(
    "Budget",
    {
        'id': "str",
        'org_id': "str",
        'name': "str",
        'scope': "Literal['department', 'environment', 'key', 'org']",
        'scope_id': "str | None",
        'environment_ids': "list[str]",
        'key_ids': "list[str]",
        'period': "Literal['day', 'month']",
        'limit_picodollars': "int",
        'limit_usd': "str",
        'hard': "bool",
        'thresholds_percent': "list[int]",
        'owners': "list[str]",
        'created_at': "str",
        'period_start': "str",
        'spent_picodollars': "int",
        'spent_usd': "str",
        'held_picodollars': "int",
    },
)

BudgetList = TypedDict(
    "BudgetList",
    {
        'data': "list[Budget]",
        'next_page_token': "str | None",
    },
)

BudgetPatch = TypedDict(
    "BudgetPatch",
    {
        'name': "NotRequired[str]",
        'limit_picodollars': "NotRequired[int]",
        'hard': "NotRequired[bool]",
        'thresholds_percent': "NotRequired[list[int]]",
        'owners': "NotRequired[list[str]]",
    },
)

BudgetEventList = TypedDict(
    "BudgetEventList",
    {
        'data': "list[BudgetEvent]",
    },
)

BudgetEvent = TypedDict(
    "BudgetEvent",
    {
        'sequence': "int",
        'budget_id': "str",
        'org_id': "str",
        'name': "str",
        'owners': "list[str]",
        'period_start': "str",
        'threshold_percent': "int",
        'spent_picodollars': "int",
        'spent_usd': "str",
        'limit_picodollars': "int",
        'limit_usd': "str",
        'stopped': "bool",
        'time': "str",
    },
)

NewCorrection = TypedDict(
    "NewCorrection",
    {
        'expected_revision': "int",
        'reason': "str",
        'prompt_tokens': "NotRequired[int]",
        'cached_prompt_tokens': "NotRequired[int]",
        'completion_tokens': "NotRequired[int]",
        'outcome': "NotRequired[Literal['client_disconnected', 'failed', 'succeeded', 'timed_out']]",
        'prompt_price_picodollars': "NotRequired[int]",
        'cached_prompt_price_picodollars': "NotRequired[int]",
        'completion_price_picodollars': "NotRequired[int]",
    },
)

Correction = TypedDict(
    "Correction",
    {
        'record': "UsageRecord",
        'revision': "int",
        'duplicate': "bool",
    },
)

Comparison = TypedDict(
    "Comparison",
    {
        'records': "Totals",
        'rollups': "Totals",
        'settled_from_witnesses': "Totals",
        'unpaid_witnesses': "Totals",
        'witness_differences': "list[WitnessDifference]",
        'witness_differences_total': "int",
        'rollup_differences': "list[RollupDifference]",
        'rollup_differences_total': "int",
        'corrections': "int",
        'open_witnesses': "int",
        'last_sequence': "int",
        'rolled_up_sequence': "int",
        'billed_sequence': "int",
    },
)

Totals = TypedDict(
    "Totals",
    {
        'requests': "int",
        'prompt_tokens': "int",
        'cached_prompt_tokens': "int",
        'completion_tokens': "int",
        'cost_picodollars': "int",
        'cost_usd': "str",
    },
)

WitnessDifference = TypedDict(
    "WitnessDifference",
    {
        'request_id': "str",
        'node_id': "str",
        'gateway_prompt_tokens': "int",
        'gateway_completion_tokens': "int",
        'witness_prompt_tokens': "int",
        'witness_completion_tokens': "int",
    },
)

RollupDifference = TypedDict(
    "RollupDifference",
    {
        'time': "str",
        'daily': "bool",
        'org_id': "str",
        'records': "Totals",
        'rollup': "Totals",
    },
)

NewNotificationRoute = TypedDict(
    "NewNotificationRoute",
    {
        'name': "str",
        'channel': "Literal['discord', 'email', 'slack', 'webhook']",
        'target': "str",
        'org_id': "NotRequired[str]",
        'secret': "NotRequired[str]",
        'kinds': "NotRequired[list[str]]",
        'min_severity': "NotRequired[Literal['critical', 'info', 'warning']]",
        'quiet_hours': "NotRequired[QuietHours | None]",
        'gather_s': "NotRequired[int]",
        'enabled': "NotRequired[bool]",
    },
)

QuietHours = TypedDict(
    "QuietHours",
    {
        'start': "str",
        'end': "str",
        'time_zone': "NotRequired[str]",
        'breaks_through': "NotRequired[Literal['critical', 'info', 'warning']]",
    },
)

SecretNotificationRoute = TypedDict(
    "SecretNotificationRoute",
    {
        'id': "str",
        'org_id': "str | None",
        'name': "str",
        'channel': "Literal['discord', 'email', 'slack', 'webhook']",
        'shown_target': "str",
        'kinds': "list[str]",
        'min_severity': "Literal['critical', 'info', 'warning']",
        'quiet_hours': "QuietHours | None",
        'gather_s': "int",
        'enabled': "bool",
        'revision': "int",
        'create_time': "str",
        'update_time': "str",
        'secret': "str | None",
    },
)

NotificationRouteList = TypedDict(
    "NotificationRouteList",
    {
        'data': "list[NotificationRoute]",
        'next_page_token': "str | None",
    },
)

NotificationRoute = TypedDict(
    "NotificationRoute",
    {
        'id': "str",
        'org_id': "str | None",
        'name': "str",
        'channel': "Literal['discord', 'email', 'slack', 'webhook']",
        'shown_target': "str",
        'kinds': "list[str]",
        'min_severity': "Literal['critical', 'info', 'warning']",
        'quiet_hours': "QuietHours | None",
        'gather_s': "int",
        'enabled': "bool",
        'revision': "int",
        'create_time': "str",
        'update_time': "str",
    },
)

NotificationRoutePatch = TypedDict(
    "NotificationRoutePatch",
    {
        'name': "NotRequired[str]",
        'target': "NotRequired[str]",
        'kinds': "NotRequired[list[str]]",
        'min_severity': "NotRequired[Literal['critical', 'info', 'warning']]",
        'quiet_hours': "NotRequired[QuietHours | None]",
        'gather_s': "NotRequired[int]",
        'enabled': "NotRequired[bool]",
        'rotate_secret': "NotRequired[bool]",
        'secret': "NotRequired[str]",
        'revision': "NotRequired[int]",
    },
)

TriedNotification = TypedDict(
    "TriedNotification",
    {
        'sent': "bool",
        'error': "str | None",
    },
)

NotificationDeliveryList = TypedDict(
    "NotificationDeliveryList",
    {
        'data': "list[NotificationDelivery]",
        'next_page_token': "str | None",
    },
)

NotificationDelivery = TypedDict(
    "NotificationDelivery",
    {
        'id': "str",
        'route_id': "str",
        'org_id': "str | None",
        'kind': "str",
        'severity': "Literal['critical', 'info', 'warning']",
        'count': "int",
        'state': "Literal['dead', 'dropped', 'pending', 'sent']",
        'attempts': "int",
        'last_error': "str | None",
        'create_time': "str",
        'due_time': "str",
        'end_time': "str | None",
    },
)

TokenUsage = TypedDict(
    "TokenUsage",
    {
        'prompt_tokens': "int",
        'completion_tokens': "NotRequired[int]",
        'total_tokens': "int",
    },
)

ChatMessage = TypedDict(
    "ChatMessage",
    {
        'role': "str",
        'content': "NotRequired[str | list[dict[str, Any]] | None]",
    },
)

ChatRequest = TypedDict(
    "ChatRequest",
    {
        'model': "str",
        'messages': "list[ChatMessage]",
        'max_tokens': "NotRequired[Any]",
        'max_completion_tokens': "NotRequired[Any]",
        'stream': "NotRequired[Any]",
        'stream_options': "NotRequired[Any]",
        'temperature': "NotRequired[Any]",
        'top_p': "NotRequired[Any]",
        'seed': "NotRequired[Any]",
        'n': "NotRequired[Any]",
        'stop': "NotRequired[str | list[str] | None]",
        'tools': "NotRequired[Any]",
        'response_format': "NotRequired[Any]",
    },
)

ChatCompletion = TypedDict(
    "ChatCompletion",
    {
        'id': "str",
        'object': "Any",
        'created': "int",
        'model': "str",
        'choices': "list[dict[str, Any]]",
        'usage': "NotRequired[TokenUsage | None]",
    },
)

CompletionRequest = TypedDict(
    "CompletionRequest",
    {
        'model': "str",
        'prompt': "str | list[str] | list[int] | list[list[int]]",
        'max_tokens': "NotRequired[Any]",
        'stream': "NotRequired[Any]",
        'stream_options': "NotRequired[Any]",
        'temperature': "NotRequired[Any]",
        'top_p': "NotRequired[Any]",
        'seed': "NotRequired[Any]",
        'n': "NotRequired[Any]",
        'stop': "NotRequired[str | list[str] | None]",
    },
)

Completion = TypedDict(
    "Completion",
    {
        'id': "str",
        'object': "Any",
        'created': "int",
        'model': "str",
        'choices': "list[dict[str, Any]]",
        'usage': "NotRequired[TokenUsage | None]",
    },
)

EmbeddingRequest = TypedDict(
    "EmbeddingRequest",
    {
        'model': "str",
        'input': "str | list[Any]",
        'encoding_format': "NotRequired[Literal['float', 'base64']]",
        'dimensions': "NotRequired[Any]",
    },
)

EmbeddingList = TypedDict(
    "EmbeddingList",
    {
        'object': "Any",
        'data': "list[dict[str, Any]]",
        'model': "str",
        'usage': "NotRequired[TokenUsage]",
    },
)

ResponseRequest = TypedDict(
    "ResponseRequest",
    {
        'model': "str",
        'input': "str | list[Any]",
        'stream': "NotRequired[Any]",
    },
)

MessageRequest = TypedDict(
    "MessageRequest",
    {
        'model': "str",
        'messages': "list[dict[str, Any]]",
        'max_tokens': "int",
        'stream': "NotRequired[Any]",
    },
)

OpenObject = dict[str, Any]

Error = TypedDict(
    "Error",
    {
        'error': "dict[str, Any]",
    },
)

PublicModel = TypedDict(
    "PublicModel",
    {
        'id': "str",
        'object': "Any",
        'created': "int",
        'owned_by': "str",
        'context_length': "NotRequired[int]",
    },
)

PublicModelList = TypedDict(
    "PublicModelList",
    {
        'object': "Any",
        'data': "list[PublicModel]",
    },
)


class AdminClient(Transport):
    """Speaks to one gateway. Methods raise AdminError when it refuses, UnreachableError when it does not answer."""

    def create_org(self, body: NewOrg, *, idempotency_key: str | None = None) -> Org:
        """Make an organisation."""
        answer: Org = self._call("POST", f"/admin/orgs", {}, body, idempotency_key)
        return answer

    def list_orgs(self, *, page_size: int | None = None, page_token: str | None = None) -> OrgList:
        """List organisations."""
        answer: OrgList = self._call("GET", f"/admin/orgs", {'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def get_org(self, id: str) -> Org:
        """Get an organisation."""
        answer: Org = self._call("GET", f"/admin/orgs/{part(id)}", {}, None, None)
        return answer

    def update_org(self, id: str, body: OrgPatch) -> Org:
        """Change, suspend or reactivate an organisation."""
        answer: Org = self._call("PATCH", f"/admin/orgs/{part(id)}", {}, body, None)
        return answer

    def create_environment(self, id: str, body: NewEnvironment, *, idempotency_key: str | None = None) -> Environment:
        """Make an environment."""
        answer: Environment = self._call("POST", f"/admin/orgs/{part(id)}/environments", {}, body, idempotency_key)
        return answer

    def list_environments(self, id: str, *, page_size: int | None = None, page_token: str | None = None) -> EnvironmentList:
        """List an organisation's environments."""
        answer: EnvironmentList = self._call("GET", f"/admin/orgs/{part(id)}/environments", {'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def get_environment(self, id: str) -> Environment:
        """Get an environment."""
        answer: Environment = self._call("GET", f"/admin/environments/{part(id)}", {}, None, None)
        return answer

    def update_environment(self, id: str, body: EnvironmentPatch) -> Environment:
        """Change an environment."""
        answer: Environment = self._call("PATCH", f"/admin/environments/{part(id)}", {}, body, None)
        return answer

    def create_key(self, id: str, body: NewKey, *, idempotency_key: str | None = None) -> CreatedKey:
        """Make an API key; its secret is shown this once."""
        answer: CreatedKey = self._call("POST", f"/admin/environments/{part(id)}/keys", {}, body, idempotency_key)
        return answer

    def list_keys(self, id: str, *, page_size: int | None = None, page_token: str | None = None) -> KeyList:
        """List an environment's API keys."""
        answer: KeyList = self._call("GET", f"/admin/environments/{part(id)}/keys", {'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def get_key(self, id: str) -> Key:
        """Get an API key, without its secret."""
        answer: Key = self._call("GET", f"/admin/keys/{part(id)}", {}, None, None)
        return answer

    def update_key(self, id: str, body: KeyPatch) -> Key:
        """Change an API key."""
        answer: Key = self._call("PATCH", f"/admin/keys/{part(id)}", {}, body, None)
        return answer

    def revoke_key(self, id: str, *, cut_streams: bool | None = None) -> Key:
        """Revoke an API key for good."""
        answer: Key = self._call("DELETE", f"/admin/keys/{part(id)}", {'cut_streams': cut_streams}, None, None)
        return answer

    def rotate_key(self, id: str, body: KeyRotation, *, idempotency_key: str | None = None) -> RotatedKey:
        """Replace an API key by one with the same settings."""
        answer: RotatedKey = self._call("POST", f"/admin/keys/{part(id)}/rotate", {}, body, idempotency_key)
        return answer

    def create_plan(self, body: NewPlan, *, idempotency_key: str | None = None) -> Plan:
        """Make a plan."""
        answer: Plan = self._call("POST", f"/admin/plans", {}, body, idempotency_key)
        return answer

    def list_plans(self, *, page_size: int | None = None, page_token: str | None = None) -> PlanList:
        """List plans."""
        answer: PlanList = self._call("GET", f"/admin/plans", {'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def get_plan(self, name: str) -> Plan:
        """Get a plan."""
        answer: Plan = self._call("GET", f"/admin/plans/{part(name)}", {}, None, None)
        return answer

    def update_plan(self, name: str, body: PlanPatch) -> Plan:
        """Change a plan, for every organisation on it."""
        answer: Plan = self._call("PATCH", f"/admin/plans/{part(name)}", {}, body, None)
        return answer

    def create_org_user(self, id: str, body: NewUser, *, idempotency_key: str | None = None) -> User:
        """Let a person into an organisation."""
        answer: User = self._call("POST", f"/admin/orgs/{part(id)}/users", {}, body, idempotency_key)
        return answer

    def list_org_users(self, id: str, *, page_size: int | None = None, page_token: str | None = None) -> UserList:
        """List an organisation's users."""
        answer: UserList = self._call("GET", f"/admin/orgs/{part(id)}/users", {'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def create_platform_user(self, body: NewUser, *, idempotency_key: str | None = None) -> User:
        """Let a person onto the platform, with all organisations."""
        answer: User = self._call("POST", f"/admin/users", {}, body, idempotency_key)
        return answer

    def list_platform_users(self, *, page_size: int | None = None, page_token: str | None = None) -> UserList:
        """List the platform's users."""
        answer: UserList = self._call("GET", f"/admin/users", {'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def get_user(self, id: str) -> User:
        """Get a user."""
        answer: User = self._call("GET", f"/admin/users/{part(id)}", {}, None, None)
        return answer

    def update_user(self, id: str, body: UserPatch) -> User:
        """Change, suspend or reactivate a user."""
        answer: User = self._call("PATCH", f"/admin/users/{part(id)}", {}, body, None)
        return answer

    def delete_user(self, id: str) -> User:
        """Remove a user for good."""
        answer: User = self._call("DELETE", f"/admin/users/{part(id)}", {}, None, None)
        return answer

    def me(self) -> Me:
        """Who you are here and what you may do."""
        answer: Me = self._call("GET", f"/admin/me", {}, None, None)
        return answer

    def list_audit(self, *, page_size: int | None = None, page_token: str | None = None, org_id: str | None = None, object_id: str | None = None, action: str | None = None) -> AuditList:
        """List what administrators did, newest first."""
        answer: AuditList = self._call("GET", f"/admin/audit", {'page_size': page_size, 'page_token': page_token, 'org_id': org_id, 'object_id': object_id, 'action': action}, None, None)
        return answer

    def verify_audit(self, *, from_seq: int | None = None, known_seq: int | None = None, known_hash: str | None = None) -> AuditVerdict:
        """Recompute the chain of audit records and say where it is broken."""
        answer: AuditVerdict = self._call("GET", f"/admin/audit/verify", {'from_seq': from_seq, 'known_seq': known_seq, 'known_hash': known_hash}, None, None)
        return answer

    def launch_instance(self, body: NewInstance, *, idempotency_key: str | None = None) -> InstanceJob:
        """Launch a machine that serves a model; answers at once with the job that sees to it."""
        answer: InstanceJob = self._call("POST", f"/admin/instances/launch", {}, body, idempotency_key)
        return answer

    def list_instances(self, *, page_size: int | None = None, page_token: str | None = None, include_ended: bool | None = None) -> InstanceList:
        """List machines, newest first."""
        answer: InstanceList = self._call("GET", f"/admin/instances", {'page_size': page_size, 'page_token': page_token, 'include_ended': include_ended}, None, None)
        return answer

    def get_instance_job(self, job: str) -> InstanceJob:
        """Get a job with its steps so far."""
        answer: InstanceJob = self._call("GET", f"/admin/instances/{part(job)}", {}, None, None)
        return answer

    def watch_instance_job(self, job: str) -> Iterator[Any]:
        """Follow a job: server-sent events, one each time that it changes, until it has ended."""
        answer: Iterator[Any] = self._events("GET", f"/admin/instances/{part(job)}/events", {}, None, None)
        return answer

    def terminate_instance(self, id: str, body: InstanceEnd, *, idempotency_key: str | None = None) -> InstanceJob:
        """End a machine: drained, out of the pool, deleted."""
        answer: InstanceJob = self._call("POST", f"/admin/instances/{part(id)}/terminate", {}, body, idempotency_key)
        return answer

    def create_deployment(self, body: NewDeployment, *, idempotency_key: str | None = None) -> ScaledDeployment:
        """Say how many machines a model has at a place."""
        answer: ScaledDeployment = self._call("POST", f"/admin/deployments", {}, body, idempotency_key)
        return answer

    def list_deployments(self) -> ScaledDeploymentList:
        """List deployments with what was last decided for each."""
        answer: ScaledDeploymentList = self._call("GET", f"/admin/deployments", {}, None, None)
        return answer

    def update_deployment(self, id: str, body: ChangedDeployment) -> ScaledDeployment:
        """Replace what a deployment asks for."""
        answer: ScaledDeployment = self._call("PUT", f"/admin/deployments/{part(id)}", {}, body, None)
        return answer

    def delete_deployment(self, id: str) -> EndedDeployment:
        """End a deployment; its machines are drained and ended."""
        answer: EndedDeployment = self._call("DELETE", f"/admin/deployments/{part(id)}", {}, None, None)
        return answer

    def plan_deployment(self, id: str) -> DeploymentPlan:
        """Say what the autoscaler would do now and why; changes nothing."""
        answer: DeploymentPlan = self._call("GET", f"/admin/deployments/{part(id)}/plan", {}, None, None)
        return answer

    def list_decisions(self, id: str, *, page_size: int | None = None, page_token: str | None = None) -> DecisionList:
        """List what was decided for a deployment and why, newest first."""
        answer: DecisionList = self._call("GET", f"/admin/deployments/{part(id)}/decisions", {'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def create_model(self, body: NewModel, *, idempotency_key: str | None = None) -> Model:
        """Add a model to the catalogue."""
        answer: Model = self._call("POST", f"/admin/models", {}, body, idempotency_key)
        return answer

    def list_catalogue(self, *, page_size: int | None = None, page_token: str | None = None) -> ModelList:
        """List the catalogue."""
        answer: ModelList = self._call("GET", f"/admin/models", {'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def replace_deployments(self, model: str, body: NewDeployments) -> ServedModel:
        """Say how a model is served, region by region."""
        answer: ServedModel = self._call("PUT", f"/admin/models/{part(model)}/deployments", {}, body, None)
        return answer

    def list_regions(self) -> RegionList:
        """Show the region table."""
        answer: RegionList = self._call("GET", f"/admin/regions", {}, None, None)
        return answer

    def add_model_version(self, body: NewModelVersion, *, idempotency_key: str | None = None) -> ModelVersion:
        """Tell of a version of a model that lies in object storage."""
        answer: ModelVersion = self._call("POST", f"/admin/model-versions", {}, body, idempotency_key)
        return answer

    def list_model_versions(self, *, page_size: int | None = None, page_token: str | None = None, model: str | None = None) -> ModelVersionList:
        """List versions of models, newest first."""
        answer: ModelVersionList = self._call("GET", f"/admin/model-versions", {'page_size': page_size, 'page_token': page_token, 'model': model}, None, None)
        return answer

    def register_model(self, body: NewRegisteredModel, *, idempotency_key: str | None = None) -> RegisteredModel:
        """Put a model into an environment."""
        answer: RegisteredModel = self._call("POST", f"/admin/registered-models", {}, body, idempotency_key)
        return answer

    def list_registered_models(self, *, page_size: int | None = None, page_token: str | None = None) -> RegisteredModelList:
        """List models by environment, with how they are."""
        answer: RegisteredModelList = self._call("GET", f"/admin/registered-models", {'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def enable_model(self, body: ModelNamed, *, idempotency_key: str | None = None) -> RegisteredModel:
        """Offer a model to clients."""
        answer: RegisteredModel = self._call("POST", f"/admin/registered-models/enable", {}, body, idempotency_key)
        return answer

    def disable_model(self, body: ModelNamed, *, idempotency_key: str | None = None) -> RegisteredModel:
        """Offer a model no longer."""
        answer: RegisteredModel = self._call("POST", f"/admin/registered-models/disable", {}, body, idempotency_key)
        return answer

    def promote_model(self, body: NewPromotion, *, idempotency_key: str | None = None) -> Promotion:
        """Bring a version to another environment, if every gate is passed."""
        answer: Promotion = self._call("POST", f"/admin/registered-models/promote", {}, body, idempotency_key)
        return answer

    def roll_back_model(self, body: ModelNamed, *, idempotency_key: str | None = None) -> RegisteredModel:
        """Bring back the version that an environment had before."""
        answer: RegisteredModel = self._call("POST", f"/admin/registered-models/roll-back", {}, body, idempotency_key)
        return answer

    def deregister_model(self, body: ModelNamed, *, idempotency_key: str | None = None) -> Gone:
        """Take a model out of its environment."""
        answer: Gone = self._call("POST", f"/admin/registered-models/deregister", {}, body, idempotency_key)
        return answer

    def create_model_upgrade(self, model: str, body: NewUpgrade, *, idempotency_key: str | None = None) -> Upgrade:
        """Take a model to another version while it serves."""
        answer: Upgrade = self._call("POST", f"/admin/models/{part(model)}/upgrades", {}, body, idempotency_key)
        return answer

    def list_model_upgrades(self, model: str, *, page_size: int | None = None, page_token: str | None = None) -> UpgradeList:
        """List a model's upgrades, newest first."""
        answer: UpgradeList = self._call("GET", f"/admin/models/{part(model)}/upgrades", {'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def get_model_upgrade(self, id: str) -> Upgrade:
        """Get an upgrade and what was seen of both versions."""
        answer: Upgrade = self._call("GET", f"/admin/upgrades/{part(id)}", {}, None, None)
        return answer

    def roll_back_model_upgrade(self, id: str, body: NewRollBack, *, idempotency_key: str | None = None) -> Upgrade:
        """Send all traffic back to the old version."""
        answer: Upgrade = self._call("POST", f"/admin/upgrades/{part(id)}/roll-back", {}, body, idempotency_key)
        return answer

    def list_nodes(self, *, page_size: int | None = None, page_token: str | None = None) -> NodeList:
        """List nodes."""
        answer: NodeList = self._call("GET", f"/admin/nodes", {'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def create_join_token(self, body: NewJoinToken, *, idempotency_key: str | None = None) -> JoinToken:
        """Make a single-use token with which a machine becomes a node."""
        answer: JoinToken = self._call("POST", f"/admin/nodes/join-tokens", {}, body, idempotency_key)
        return answer

    def list_node_logs(self, id: str, *, cursor: str | None = None, level: Literal['debug', 'error', 'info', 'warning'] | None = None, source: Literal['', 'agent', 'engine'] | None = None) -> NodeLogs:
        """List the last lines that a node's agent and engine logged; ask again with the cursor for what follows."""
        answer: NodeLogs = self._call("GET", f"/admin/nodes/{part(id)}/logs", {'cursor': cursor, 'level': level, 'source': source}, None, None)
        return answer

    def drain_node(self, id: str, *, idempotency_key: str | None = None) -> Node:
        """Take a node out of picking; what runs on it finishes."""
        answer: Node = self._call("POST", f"/admin/nodes/{part(id)}/drain", {}, None, idempotency_key)
        return answer

    def query_usage(self, *, org_id: str | None = None, environment_id: str | None = None, key_id: str | None = None, model: str | None = None, region: str | None = None, from_: str | None = None, to: str | None = None, group_by: str | None = None, page_size: int | None = None, page_token: str | None = None) -> UsageList:
        """Sum the ledger."""
        answer: UsageList = self._call("GET", f"/admin/usage", {'org_id': org_id, 'environment_id': environment_id, 'key_id': key_id, 'model': model, 'region': region, 'from': from_, 'to': to, 'group_by': group_by, 'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def list_usage_records(self, *, request_id: str | None = None, org_id: str | None = None, environment_id: str | None = None, key_id: str | None = None, model: str | None = None, region: str | None = None, from_: str | None = None, to: str | None = None, page_size: int | None = None, page_token: str | None = None) -> UsageRecordList:
        """List single records, newest first."""
        answer: UsageRecordList = self._call("GET", f"/admin/usage/records", {'request_id': request_id, 'org_id': org_id, 'environment_id': environment_id, 'key_id': key_id, 'model': model, 'region': region, 'from': from_, 'to': to, 'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def create_prices(self, body: NewPrices, *, idempotency_key: str | None = None) -> PriceVersionList:
        """Make price versions; those that were open end where the new ones begin."""
        answer: PriceVersionList = self._call("POST", f"/admin/prices", {}, body, idempotency_key)
        return answer

    def list_prices(self, *, page_size: int | None = None, page_token: str | None = None, model: str | None = None) -> PriceVersionList:
        """List price versions, oldest first."""
        answer: PriceVersionList = self._call("GET", f"/admin/prices", {'page_size': page_size, 'page_token': page_token, 'model': model}, None, None)
        return answer

    def get_billing_account(self, id: str, *, month: str | None = None) -> BillingAccount:
        """Get an organisation's account and terms."""
        answer: BillingAccount = self._call("GET", f"/admin/orgs/{part(id)}/billing", {'month': month}, None, None)
        return answer

    def set_terms(self, id: str, body: NewTerms) -> BillingAccount:
        """Agree on terms with one organisation from a month on, in the place of its plan's."""
        answer: BillingAccount = self._call("PUT", f"/admin/orgs/{part(id)}/billing/terms", {}, body, None)
        return answer

    def get_plan_terms(self, name: str, *, month: str | None = None) -> PlanTerms:
        """Get what organisations on a plan are charged by in a month."""
        answer: PlanTerms = self._call("GET", f"/admin/plans/{part(name)}/terms", {'month': month}, None, None)
        return answer

    def set_plan_terms(self, name: str, body: NewPlanTerms) -> PlanTerms:
        """Make a plan's next version of terms, from a month on."""
        answer: PlanTerms = self._call("PUT", f"/admin/plans/{part(name)}/terms", {}, body, None)
        return answer

    def link_customer(self, id: str, body: NewCustomer, *, idempotency_key: str | None = None) -> BillingAccount:
        """Make an organisation a customer of the payment provider."""
        answer: BillingAccount = self._call("POST", f"/admin/orgs/{part(id)}/billing/customer", {}, body, idempotency_key)
        return answer

    def get_statement(self, id: str, *, month: str | None = None) -> Statement:
        """Get a month so far: charges, forecast, free tokens left, use of reserved capacity."""
        answer: Statement = self._call("GET", f"/admin/orgs/{part(id)}/billing/statement", {'month': month}, None, None)
        return answer

    def list_invoices(self, id: str, *, page_size: int | None = None) -> InvoiceList:
        """List an organisation's invoices, newest first."""
        answer: InvoiceList = self._call("GET", f"/admin/orgs/{part(id)}/billing/invoices", {'page_size': page_size}, None, None)
        return answer

    def list_meter_events(self, *, page_size: int | None = None, page_token: str | None = None, state: Literal['dead', 'delivered', 'pending'] | Literal['any'] | None = None, org_id: str | None = None) -> MeterEventList:
        """List meter events, dead letters among them."""
        answer: MeterEventList = self._call("GET", f"/admin/billing/meter-events", {'page_size': page_size, 'page_token': page_token, 'state': state, 'org_id': org_id}, None, None)
        return answer

    def replay_meter_event(self, id: str, *, idempotency_key: str | None = None) -> MeterEvent:
        """Send a dead letter again."""
        answer: MeterEvent = self._call("POST", f"/admin/billing/meter-events/{part(id)}/replay", {}, None, idempotency_key)
        return answer

    def resolve_meter_event(self, id: str, *, idempotency_key: str | None = None) -> MeterEvent:
        """Say that a dead letter was dealt with by hand."""
        answer: MeterEvent = self._call("POST", f"/admin/billing/meter-events/{part(id)}/resolve", {}, None, idempotency_key)
        return answer

    def reconcile(self, body: NewReconciliation, *, idempotency_key: str | None = None) -> Reconciliation:
        """Compare every place that counts, and keep the report."""
        answer: Reconciliation = self._call("POST", f"/admin/billing/reconciliations", {}, body, idempotency_key)
        return answer

    def list_reconciliations(self, *, page_size: int | None = None, page_token: str | None = None) -> ReconciliationList:
        """List reports, newest first."""
        answer: ReconciliationList = self._call("GET", f"/admin/billing/reconciliations", {'page_size': page_size, 'page_token': page_token}, None, None)
        return answer

    def sign_off_reconciliation(self, id: str, body: SignOff, *, idempotency_key: str | None = None) -> Reconciliation:
        """Sign a report off."""
        answer: Reconciliation = self._call("POST", f"/admin/billing/reconciliations/{part(id)}/sign-off", {}, body, idempotency_key)
        return answer

    def explain_charge(self, id: str) -> ChargeExplanation:
        """Why one request cost what it cost, by its id."""
        answer: ChargeExplanation = self._call("GET", f"/admin/billing/charges/{part(id)}", {}, None, None)
        return answer

    def query_finops(self, *, from_time: str | None = None, to_time: str | None = None) -> Finops:
        """Cost, revenue, margin and idle cost of a period."""
        answer: Finops = self._call("GET", f"/admin/finops", {'from_time': from_time, 'to_time': to_time}, None, None)
        return answer

    def set_machine_cost(self, body: Machine, *, idempotency_key: str | None = None) -> MachineKept:
        """Set what a machine costs an hour from a time on."""
        answer: MachineKept = self._call("POST", f"/admin/finops/machines", {}, body, idempotency_key)
        return answer

    def create_budget(self, body: NewBudget, *, idempotency_key: str | None = None) -> Budget:
        """Make a spending budget."""
        answer: Budget = self._call("POST", f"/admin/budgets", {}, body, idempotency_key)
        return answer

    def list_budgets(self, *, page_size: int | None = None, page_token: str | None = None, org_id: str | None = None) -> BudgetList:
        """List budgets and what is spent of them."""
        answer: BudgetList = self._call("GET", f"/admin/budgets", {'page_size': page_size, 'page_token': page_token, 'org_id': org_id}, None, None)
        return answer

    def get_budget(self, id: str) -> Budget:
        """Get a budget and what is spent of it."""
        answer: Budget = self._call("GET", f"/admin/budgets/{part(id)}", {}, None, None)
        return answer

    def update_budget(self, id: str, body: BudgetPatch) -> Budget:
        """Change a budget."""
        answer: Budget = self._call("PATCH", f"/admin/budgets/{part(id)}", {}, body, None)
        return answer

    def delete_budget(self, id: str) -> Budget:
        """End a budget; what it told its owners stays."""
        answer: Budget = self._call("DELETE", f"/admin/budgets/{part(id)}", {}, None, None)
        return answer

    def list_budget_events(self, *, org_id: str | None = None, budget_id: str | None = None, after_sequence: int | None = None, page_size: int | None = None) -> BudgetEventList:
        """List the thresholds that budgets reached, in order."""
        answer: BudgetEventList = self._call("GET", f"/admin/budget-events", {'org_id': org_id, 'budget_id': budget_id, 'after_sequence': after_sequence, 'page_size': page_size}, None, None)
        return answer

    def correct_usage_record(self, id: str, body: NewCorrection, *, idempotency_key: str | None = None) -> Correction:
        """Correct one request's record by further rows, with a reason."""
        answer: Correction = self._call("POST", f"/admin/usage/records/{part(id)}/corrections", {}, body, idempotency_key)
        return answer

    def compare_usage(self, *, from_: str | None = None, to: str | None = None, org_id: str | None = None) -> Comparison:
        """Compare witnesses, records and rollups of a period."""
        answer: Comparison = self._call("GET", f"/admin/usage/comparison", {'from': from_, 'to': to, 'org_id': org_id}, None, None)
        return answer

    def create_notification_route(self, body: NewNotificationRoute, *, idempotency_key: str | None = None) -> SecretNotificationRoute:
        """Say who is told what happened, and how; what signs is shown this once."""
        answer: SecretNotificationRoute = self._call("POST", f"/admin/notifications/routes", {}, body, idempotency_key)
        return answer

    def list_notification_routes(self, *, page_size: int | None = None, page_token: str | None = None, org_id: str | None = None) -> NotificationRouteList:
        """List routes of notifications."""
        answer: NotificationRouteList = self._call("GET", f"/admin/notifications/routes", {'page_size': page_size, 'page_token': page_token, 'org_id': org_id}, None, None)
        return answer

    def get_notification_route(self, id: str) -> NotificationRoute:
        """Get a route, without what is secret of it."""
        answer: NotificationRoute = self._call("GET", f"/admin/notifications/routes/{part(id)}", {}, None, None)
        return answer

    def update_notification_route(self, id: str, body: NotificationRoutePatch) -> SecretNotificationRoute:
        """Change a route, or what signs for it."""
        answer: SecretNotificationRoute = self._call("PATCH", f"/admin/notifications/routes/{part(id)}", {}, body, None)
        return answer

    def delete_notification_route(self, id: str) -> NotificationRoute:
        """End a route; what waits for it is dropped."""
        answer: NotificationRoute = self._call("DELETE", f"/admin/notifications/routes/{part(id)}", {}, None, None)
        return answer

    def test_notification_route(self, id: str, *, idempotency_key: str | None = None) -> TriedNotification:
        """Send a test now, and say what came of it."""
        answer: TriedNotification = self._call("POST", f"/admin/notifications/routes/{part(id)}/test", {}, None, idempotency_key)
        return answer

    def list_notification_deliveries(self, *, page_size: int | None = None, page_token: str | None = None, org_id: str | None = None, route_id: str | None = None, state: Literal['dead', 'dropped', 'pending', 'sent'] | None = None) -> NotificationDeliveryList:
        """List messages and what became of them, newest first; `state=dead` lists dead letters."""
        answer: NotificationDeliveryList = self._call("GET", f"/admin/notifications/deliveries", {'page_size': page_size, 'page_token': page_token, 'org_id': org_id, 'route_id': route_id, 'state': state}, None, None)
        return answer

    def replay_notification_delivery(self, id: str, *, idempotency_key: str | None = None) -> NotificationDelivery:
        """Send a dead letter again, under the id it has."""
        answer: NotificationDelivery = self._call("POST", f"/admin/notifications/deliveries/{part(id)}/replay", {}, None, idempotency_key)
        return answer
