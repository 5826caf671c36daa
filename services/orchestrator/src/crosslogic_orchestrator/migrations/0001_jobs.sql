-- A machine. Its id is its name at the provider and its node's id in the registry: a launch that is repeated finds it.
CREATE TABLE instances (
    id                       uuid PRIMARY KEY,
    model                    text NOT NULL,
    provider                 text NOT NULL,
    region                   text NOT NULL,
    instance_type            text NOT NULL,
    use_spot                 boolean NOT NULL,
    org_id                   uuid,
    state                    text NOT NULL CHECK (state IN ('launching', 'active', 'terminating', 'terminated', 'lost')),
    hourly_price_picodollars bigint NOT NULL DEFAULT 0,
    job_id                   uuid NOT NULL,
    created_at               timestamptz NOT NULL,
    ended_at                 timestamptz,
    CHECK ((state IN ('terminated', 'lost')) = (ended_at IS NOT NULL))
);
CREATE INDEX instances_alive ON instances (provider) WHERE ended_at IS NULL;

CREATE TABLE jobs (
    id              uuid PRIMARY KEY,
    kind            text NOT NULL CHECK (kind IN ('launch', 'terminate')),
    instance_id     uuid NOT NULL REFERENCES instances (id),
    status          text NOT NULL CHECK (status IN ('running', 'succeeded', 'failed')),
    step            integer NOT NULL,
    step_at         timestamptz NOT NULL,
    task            text NOT NULL DEFAULT '',
    error           text NOT NULL DEFAULT '',
    drain_timeout_s double precision NOT NULL DEFAULT 0,
    request_id      text UNIQUE,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    -- Who works on it. Whoever takes it over raises the epoch, and what the one before still writes is refused.
    lease_epoch     bigint NOT NULL DEFAULT 0,
    lease_until     timestamptz NOT NULL DEFAULT '-infinity',
    wake_at         timestamptz NOT NULL
);
CREATE INDEX jobs_to_do ON jobs (wake_at) WHERE status = 'running';
-- One end for one machine.
CREATE UNIQUE INDEX jobs_terminate ON jobs (instance_id) WHERE kind = 'terminate';

CREATE TABLE job_steps (
    job_id      uuid NOT NULL REFERENCES jobs (id),
    step        integer NOT NULL,
    started_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    detail      text NOT NULL DEFAULT '',
    bytes_done  bigint NOT NULL DEFAULT 0,
    bytes_total bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, step)
);
