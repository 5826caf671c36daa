"""Addresses that are signed here are those that the vendor's own client signs."""

from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.place import Place, place_from, place_of
from crosslogic_model_store.presign import presigned_get

PLACE = Place(
    endpoint="https://account.example",
    bucket="weights",
    access_key_id="AKIA",
    secret_access_key="s3/cr+t",
    region="auto",
)


@pytest.mark.parametrize("key", ["models/tiny/blobs/0a", "models/team%2Fm%40dev/blobs/0a", "models/ü b/c=d&e"])
def test_signatures_are_those_of_the_vendors_client(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    ours = presigned_get(PLACE, key, now=now, valid_s=3600)
    parts = urlsplit(ours)
    request = AWSRequest(method="GET", url=f"{parts.scheme}://{parts.netloc}{parts.path}")
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: now.replace(tzinfo=None))
    S3SigV4QueryAuth(Credentials("AKIA", "s3/cr+t"), "s3", "auto", expires=3600).add_auth(request)
    theirs = parse_qs(urlsplit(request.url).query)
    assert parse_qs(parts.query) == theirs


def test_the_keys_are_in_no_address_and_no_repr() -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    assert "s3/cr+t" not in presigned_get(PLACE, "models/tiny", now=now, valid_s=60)
    assert "s3/cr+t" not in repr(PLACE)


def test_half_a_setting_is_told_and_names_no_secret() -> None:
    with pytest.raises(ModelStoreError, match="missing: R2_BUCKET_NAME") as error:
        place_from({"R2_ACCOUNT_ID": "a", "R2_ACCESS_KEY_ID": "b", "R2_SECRET_ACCESS_KEY": "secret-word"})
    assert "secret-word" not in str(error.value)
    with pytest.raises(ModelStoreError, match="No object storage is set up"):
        place_from({})


def test_an_account_of_r2_is_an_endpoint() -> None:
    place = place_of(endpoint="", account_id="acc", bucket="b", region="", access_key_id="k", secret_access_key="s")
    assert place is not None
    assert (place.endpoint, place.region) == ("https://acc.r2.cloudflarestorage.com", "auto")
