-- Organisations, environments and keys. Ids are UUIDv7: they sort by age.
CREATE TABLE orgs (
    id          uuid PRIMARY KEY,
    name        text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    cache_salt  text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE environments (
    id              uuid PRIMARY KEY,
    org_id          uuid NOT NULL REFERENCES orgs (id),
    name            text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    status          text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    region          text NOT NULL DEFAULT '',
    allowed_models  text[] NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (org_id, name)
);
CREATE INDEX environments_by_org ON environments (org_id, id);

CREATE TABLE api_keys (
    id              uuid PRIMARY KEY,
    org_id          uuid NOT NULL REFERENCES orgs (id),
    environment_id  uuid NOT NULL REFERENCES environments (id),
    name            text NOT NULL DEFAULT '' CHECK (char_length(name) <= 200),
    kind            text NOT NULL CHECK (kind IN ('live', 'test')),
    status          text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'revoked')),
    secret_sha256   bytea NOT NULL UNIQUE CHECK (octet_length(secret_sha256) = 32),
    hint            text NOT NULL,
    allowed_models  text[] NOT NULL DEFAULT '{}',
    expires_at      timestamptz,
    revoked_at      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX api_keys_by_environment ON api_keys (environment_id, id);

-- What a create with this request_id made, so that a retry within 24 hours makes nothing more.
CREATE TABLE create_requests (
    request_id  uuid PRIMARY KEY,
    object_id   uuid NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX create_requests_by_age ON create_requests (created_at);
