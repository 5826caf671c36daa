-- The same request_id with other content is a mistake of the caller and must not be answered as if it were a retry.
ALTER TABLE create_requests ADD COLUMN content_sha256 bytea NOT NULL DEFAULT '';
