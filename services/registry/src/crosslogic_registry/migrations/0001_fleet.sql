-- The fleet. Load is not here: it changes with every heartbeat and lives in memory.
CREATE TABLE nodes (
    id             uuid PRIMARY KEY,
    org_id         uuid,
    status         text NOT NULL CHECK (status IN ('registering', 'warming', 'active', 'draining', 'dead')),
    status_reason  text NOT NULL DEFAULT '',
    drain_asked    boolean NOT NULL DEFAULT false,
    facts          bytea NOT NULL DEFAULT '',
    created_at     timestamptz NOT NULL DEFAULT now(),
    changed_at     timestamptz NOT NULL DEFAULT now()
);

-- Every change of a node's status, with its reason. Append-only.
CREATE TABLE node_events (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node_id    uuid NOT NULL REFERENCES nodes (id),
    status     text NOT NULL,
    reason     text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX node_events_by_node ON node_events (node_id, id);

-- One-time tokens; only their SHA-256 is kept.
CREATE TABLE join_tokens (
    token_sha256  bytea PRIMARY KEY CHECK (octet_length(token_sha256) = 32),
    org_id        uuid,
    expires_at    timestamptz NOT NULL,
    used_at       timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE models (
    name                          text PRIMARY KEY CHECK (char_length(name) BETWEEN 1 AND 200),
    family                        text NOT NULL,
    context_length                integer NOT NULL CHECK (context_length BETWEEN 1 AND 10000000),
    vram_required_bytes           bigint NOT NULL CHECK (vram_required_bytes >= 0),
    prompt_price_picodollars      bigint NOT NULL CHECK (prompt_price_picodollars BETWEEN 0 AND 1000000000000),
    completion_price_picodollars  bigint NOT NULL CHECK (completion_price_picodollars BETWEEN 0 AND 1000000000000),
    regions                       text[] NOT NULL DEFAULT '{}',
    created_at                    timestamptz NOT NULL DEFAULT now()
);
