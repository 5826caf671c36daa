"""Capacity is not given away: a reserved plan is sold only where billing knows what it costs."""

from typing import Any

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin.decoding import field_error
from crosslogic_gateway.admin.operation import Call

_DEFAULT = "default"
"""It has become reserved with terms, if it has: tenants are made on it whether billing can be asked or not."""


async def refuse_plan_without_terms(
    call: Call[Any, Any], plan: str, *, field: str, org_id: str = "", becomes_reserved: bool = False
) -> None:
    """Refuses a reserved plan that has no terms in billing, by the `field` that asked for it.

    With `org_id`, terms that were agreed with that organisation alone do as well. Without billing there is nothing to
    ask. A plan that is not there is for identity to refuse. Raises INVALID_ARGUMENT, UNAVAILABLE.
    """
    if call.deps.billing is None or (plan in ("", _DEFAULT) and not becomes_reserved):
        return
    billing = call.deps.billing()
    try:
        found = (await call.rpc(billing.GetPlanTerms, pb.GetPlanTermsRequest(plan=plan))).terms
    except CodedError as error:
        if error.code is ErrorCode.NOT_FOUND:
            return
        raise
    if found.version or not (becomes_reserved or found.terms.mode == pb.BILLING_MODE_RESERVED):
        return
    if org_id and (await call.rpc(billing.GetAccount, pb.GetAccountRequest(org_id=org_id))).agreed_alone:
        return
    raise field_error(
        field, f"the reserved plan {plan!r} has no terms in billing, so its capacity would cost nothing: set them first"
    )
