-- Where events are told. Its target and what signs are sealed with a key that is not in the database.
CREATE TABLE notify_routes (
    id            uuid PRIMARY KEY,
    request_id    uuid UNIQUE,
    org_id        uuid,                    -- NULL: the operators'
    name          text NOT NULL,
    channel       text NOT NULL CHECK (channel IN ('slack', 'discord', 'email', 'webhook')),
    shown_target  text NOT NULL,
    sealed        bytea NOT NULL,
    kinds         text[] NOT NULL,         -- empty: all
    min_severity  smallint NOT NULL,
    quiet         jsonb,
    gather_s      integer NOT NULL,
    enabled       boolean NOT NULL,
    revision      bigint NOT NULL DEFAULT 1,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    ended_at      timestamptz
);
CREATE INDEX notify_routes_alive ON notify_routes (org_id, id) WHERE ended_at IS NULL;

-- How far each source was read. Whoever moves a cursor has taken up the events, in the same transaction.
CREATE TABLE notify_cursors (
    source  text PRIMARY KEY,
    after   bigint NOT NULL
);

CREATE TABLE notify_events (
    id        uuid PRIMARY KEY,
    key       text NOT NULL UNIQUE,
    kind      text NOT NULL,
    severity  smallint NOT NULL,
    org_id    uuid,
    at        timestamptz NOT NULL,
    title     text NOT NULL,
    text      text NOT NULL,
    details   jsonb NOT NULL,
    taken_at  timestamptz NOT NULL
);
CREATE INDEX notify_events_age ON notify_events (taken_at);

-- The outbox: a message for a route. Until it is first tried, events of its kind are added to it; then it stays as it is.
CREATE TABLE notify_deliveries (
    id            uuid PRIMARY KEY,
    route_id      uuid NOT NULL REFERENCES notify_routes (id),
    org_id        uuid,                    -- the route's
    kind          text NOT NULL,
    severity      smallint NOT NULL,
    count         bigint NOT NULL,
    state         text NOT NULL CHECK (state IN ('pending', 'sent', 'dead', 'dropped')),
    planned_at    timestamptz NOT NULL,    -- when it was first to be tried
    due_at        timestamptz NOT NULL,
    leased_until  timestamptz,
    epoch         bigint NOT NULL DEFAULT 0,
    attempts      integer NOT NULL DEFAULT 0,
    last_error    text NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL,
    ended_at      timestamptz
);
CREATE INDEX notify_deliveries_due ON notify_deliveries (due_at) WHERE state = 'pending';
CREATE INDEX notify_deliveries_leased ON notify_deliveries (leased_until) WHERE state = 'pending';
CREATE INDEX notify_deliveries_route ON notify_deliveries (route_id, kind, planned_at DESC);
CREATE INDEX notify_deliveries_org ON notify_deliveries (org_id, id DESC);
CREATE INDEX notify_deliveries_dead ON notify_deliveries (id DESC) WHERE state = 'dead';
CREATE INDEX notify_deliveries_age ON notify_deliveries (ended_at) WHERE state <> 'pending';
-- At most one message of a kind gathers events for a route.
CREATE UNIQUE INDEX notify_deliveries_open ON notify_deliveries (route_id, kind)
    WHERE state = 'pending' AND epoch = 0;

-- The first events of a message, which are shown in it; of the others only the number is kept.
CREATE TABLE notify_delivery_events (
    delivery_id  uuid NOT NULL REFERENCES notify_deliveries (id),
    event_id     uuid NOT NULL REFERENCES notify_events (id),
    PRIMARY KEY (delivery_id, event_id)
);
CREATE INDEX notify_delivery_events_in ON notify_delivery_events (event_id);
