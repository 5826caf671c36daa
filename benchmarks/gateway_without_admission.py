"""The gateway with admission left out: what the row `gateway_admission` subtracts."""

from crosslogic_gateway.admission.admission import Admission
from crosslogic_gateway.admission.ticket import FreeTicket
from crosslogic_gateway.main import main


class _NoTicket(FreeTicket):
    headers = ""
    undecided = None


async def _admit(_self: Admission, **_asked: object) -> _NoTicket:
    return _NoTicket()


if __name__ == "__main__":
    Admission.admit = _admit  # type: ignore[method-assign,assignment]  # the point of this module
    main()
