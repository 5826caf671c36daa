"""Addresses that let one object be read for a while: Signature Version 4 in the query, as S3, R2 and MinIO check it.

Signing is arithmetic: nobody is asked, and whoever holds such an address can read that one object and do nothing else.
"""

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlsplit

from crosslogic_model_store.place import Place

MAX_VALIDITY_S: Final = 7 * 86_400
"""As the signature's rules have it."""
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


def presigned_get(place: Place, key: str, *, now: datetime, valid_s: int) -> str:
    """The address at which the object can be read for `valid_s` seconds (1 to 604,800). Raises ValueError."""
    if not 1 <= valid_s <= MAX_VALIDITY_S:
        raise ValueError(f"valid_s must be 1 to {MAX_VALIDITY_S}")
    moment = now.astimezone(UTC)
    day, stamp = moment.strftime("%Y%m%d"), moment.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{day}/{place.region}/s3/aws4_request"
    path = quote(f"/{place.bucket}/{key}", safe="/-._~")
    query = "&".join(
        f"{name}={quote(value, safe='-._~')}"
        for name, value in (
            ("X-Amz-Algorithm", _ALGORITHM),
            ("X-Amz-Credential", f"{place.access_key_id}/{scope}"),
            ("X-Amz-Date", stamp),
            ("X-Amz-Expires", str(valid_s)),
            ("X-Amz-SignedHeaders", "host"),
        )
    )
    host = urlsplit(place.endpoint).netloc
    canonical = f"GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    signed = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    secret = f"AWS4{place.secret_access_key}".encode()
    for part in (day, place.region, "s3", "aws4_request"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    signature = hmac.new(secret, signed.encode(), "sha256").hexdigest()
    return f"{place.endpoint}{path}?{query}&X-Amz-Signature={signature}"
