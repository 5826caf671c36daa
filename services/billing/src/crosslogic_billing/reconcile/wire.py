"""Reports, protobuf to domain and back."""

from datetime import date, timedelta

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic_billing.reconcile.domain import Report
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode


def reconciliation(report: Report) -> pb.Reconciliation:
    """A report in the contract's words."""
    return pb.Reconciliation(
        id=report.id,
        from_day=report.from_day.isoformat(),
        to_day=report.to_day.isoformat(),
        create_time=timestamp(report.created_at),
        lines=[
            pb.ReconciliationLine(
                what=line.what,
                org_id=line.org_id,
                category=line.category,
                unit=line.unit,
                left=str(line.left),
                right=str(line.right),
                explanation=line.explanation,
                unexplained=line.unexplained,
            )
            for line in report.lines
        ],
        unexplained=report.unexplained,
        missing=report.missing,
        signed_by=report.signed_by,
        signed_note=report.signed_note,
        sign_time=None if report.signed_at is None else timestamp(report.signed_at),
    )


def asked_days(request: pb.ReconcileRequest, today: date) -> tuple[date, date]:
    """From which day to which. Raises INVALID_ARGUMENT."""
    first = _day(request.from_day, "from_day") if request.from_day else today - timedelta(days=1)
    return first, _day(request.to_day, "to_day") if request.to_day else first + timedelta(days=1)


def _day(text: str, name: str) -> date:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = date.min
    # Years that the database and every calendar agree on.
    if not 2000 <= found.year <= 2200:  # noqa: PLR2004
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` must be YYYY-MM-DD.", param=name)
    return found
