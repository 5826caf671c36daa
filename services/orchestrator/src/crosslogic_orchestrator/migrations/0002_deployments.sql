-- How many machines a model has at a place. What is asked for is read as a whole and is kept as a whole.
CREATE TABLE deployments (
    id               uuid PRIMARY KEY,
    model            text NOT NULL,
    region           text NOT NULL,
    asked            jsonb NOT NULL,
    revision         bigint NOT NULL DEFAULT 1,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    ended_at         timestamptz,
    scaled_up_at     timestamptz,
    scaled_down_at   timestamptz
);
CREATE UNIQUE INDEX deployments_alive ON deployments (model, region) WHERE ended_at IS NULL;

ALTER TABLE instances ADD COLUMN deployment_id uuid REFERENCES deployments (id);
-- The machine in whose place it came.
ALTER TABLE instances ADD COLUMN replaces uuid;
CREATE INDEX instances_deployment ON instances (deployment_id, created_at) WHERE deployment_id IS NOT NULL;
CREATE INDEX instances_spot_ended ON instances (ended_at) WHERE use_spot AND ended_at IS NOT NULL;

-- Who decides. Whoever takes over raises the epoch; what is decided is written together with a look at it.
CREATE TABLE loop_leases (
    name   text PRIMARY KEY,
    epoch  bigint NOT NULL,
    until  timestamptz NOT NULL
);

-- What was decided and why: never changed.
CREATE TABLE decisions (
    seq            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    deployment_id  uuid NOT NULL REFERENCES deployments (id),
    at             timestamptz NOT NULL,
    body           jsonb NOT NULL
);
CREATE INDEX decisions_deployment ON decisions (deployment_id, seq DESC);

-- What happened, for whoever tells people of it: never changed.
CREATE TABLE events (
    seq            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind           text NOT NULL,
    org_id         uuid,
    deployment_id  uuid,
    instance_id    uuid,
    at             timestamptz NOT NULL,
    text           text NOT NULL,
    details        jsonb NOT NULL DEFAULT '{}'
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is only ever added to', TG_TABLE_NAME;
END $$;
CREATE TRIGGER decisions_stay BEFORE UPDATE OR DELETE ON decisions FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER events_stay BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Requests that gateways hold because no node serves their model. Whoever holds some says so every second.
CREATE TABLE waiting_requests (
    deployment_id  uuid NOT NULL REFERENCES deployments (id),
    reporter       text NOT NULL,
    waiting        integer NOT NULL,
    until          timestamptz NOT NULL,
    PRIMARY KEY (deployment_id, reporter)
);
