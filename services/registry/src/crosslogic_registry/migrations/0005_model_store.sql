-- Not offered: it stays for what refers to it, and watchers do not see it.
ALTER TABLE models ADD COLUMN offered boolean NOT NULL DEFAULT true;

-- Versions in object storage. The manifest is as it lies there.
CREATE TABLE model_versions (
    number      bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    model       text NOT NULL,
    version     text NOT NULL CHECK (version ~ '^[0-9a-f]{32}$'),
    manifest    bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model, version)
);

-- Models by environment. `name` is what clients say: `llama`, `llama@staging`.
CREATE TABLE model_registrations (
    name         text PRIMARY KEY REFERENCES models (name),
    model        text NOT NULL,
    environment  text NOT NULL CHECK (environment IN ('development', 'staging', 'production')),
    version      text NOT NULL DEFAULT '',
    endpoint     text NOT NULL DEFAULT '',
    changed_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (model, environment)
);

-- Every version that an environment had, in order. Append-only.
CREATE TABLE model_version_history (
    number   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name     text NOT NULL,
    version  text NOT NULL,
    at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX model_version_history_by_name ON model_version_history (name, number);

-- What each node may read. Written before it joins: no reference to nodes.
CREATE TABLE weight_grants (
    node_id     uuid PRIMARY KEY,
    model       text NOT NULL,
    version     text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX weight_grants_by_time ON weight_grants (created_at);
