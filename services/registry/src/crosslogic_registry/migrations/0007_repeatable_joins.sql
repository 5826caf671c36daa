-- A node whose first answer was lost asks again with the same key: the token remembers whose it was.
ALTER TABLE join_tokens ADD COLUMN used_by_key_sha256 bytea;
