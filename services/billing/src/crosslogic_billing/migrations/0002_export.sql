-- Organisations as billing knows them.
CREATE TABLE accounts (
    org_id               uuid PRIMARY KEY,
    customer_id          text UNIQUE,               -- Stripe's; NULL: nothing is exported for it
    customer_asked_at    timestamptz,               -- when making the customer was begun: its outcome may be unknown
    subscription_id      text,
    subscription_status  text NOT NULL DEFAULT '',  -- Stripe's word
    failing_since        timestamptz,               -- its oldest unpaid invoice failed then
    suspended_at         timestamptz,               -- we suspended it for that
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX accounts_failing ON accounts (failing_since) WHERE failing_since IS NOT NULL;

-- What was agreed, from a month on. The terms of a month are those with the latest `from_month` that is not after it.
CREATE TABLE account_terms (
    org_id      uuid NOT NULL,
    from_month  date NOT NULL CHECK (extract(day FROM from_month) = 1),
    terms       jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, from_month)
);

-- How far the usage ledger has been settled here. Moved in the transaction that adds what was read.
CREATE TABLE ledger_cursor (
    name      text PRIMARY KEY,
    sequence  bigint NOT NULL CHECK (sequence >= 0)
);
INSERT INTO ledger_cursor VALUES ('usage', 0);

-- Tokens by window and price: sums over the ledger's rows, reversals taken off. `accounted` is what closing has carried over
-- into the month; where it differs, there is something to close.
CREATE TABLE window_usage (
    org_id        uuid NOT NULL,
    window_start  timestamptz NOT NULL,
    length_s      integer NOT NULL,
    model         text NOT NULL,
    category      text NOT NULL,
    price         bigint NOT NULL,              -- pico-dollars a token
    tokens        bigint NOT NULL,
    accounted     bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (org_id, window_start, length_s, model, category, price)
);
CREATE INDEX window_usage_open ON window_usage (window_start, org_id) WHERE tokens <> accounted;
CREATE INDEX window_usage_by_time ON window_usage (window_start);

-- A month of an organisation, in its own time zone. Locked while one of its windows is closed.
CREATE TABLE org_months (
    org_id       uuid NOT NULL,
    month        date NOT NULL,
    behind       boolean NOT NULL DEFAULT false,  -- something is owed that could not be handed over: there was no customer
    last_window  timestamptz,
    PRIMARY KEY (org_id, month)
);
CREATE INDEX org_months_behind ON org_months (org_id) WHERE behind;

CREATE TABLE month_usage (
    org_id      uuid NOT NULL,
    month       date NOT NULL,
    category    text NOT NULL,
    price       bigint NOT NULL,
    tokens      bigint NOT NULL,    -- beyond reserved capacity
    all_tokens  bigint NOT NULL,
    PRIMARY KEY (org_id, month, category, price)
);

-- What has been put into the outbox for a month.
CREATE TABLE month_exports (
    org_id    uuid NOT NULL,
    month     date NOT NULL,
    category  text NOT NULL,
    unit      text NOT NULL CHECK (unit IN ('tokens', 'picodollars')),
    value     numeric(38, 0) NOT NULL CHECK (value >= 0),
    PRIMARY KEY (org_id, month, category, unit)
);

-- The outbox: one meter event a row. `identifier` is derived from what it counts.
CREATE TABLE meter_events (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    identifier        text NOT NULL UNIQUE,
    org_id            uuid NOT NULL,
    customer_id       text NOT NULL,
    event_name        text NOT NULL,
    category          text NOT NULL,
    unit              text NOT NULL CHECK (unit IN ('tokens', 'picodollars')),
    month             date NOT NULL,
    window_start      timestamptz NOT NULL,     -- the event's time
    revision          integer NOT NULL,         -- 0: the window's first; later ones count what came late
    part              integer NOT NULL,         -- a value of more than 15 digits is told in parts
    value             bigint NOT NULL CHECK (value BETWEEN 1 AND 999999999999999),
    state             text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    delivered_how     text CHECK (delivered_how IN ('accepted', 'duplicate', 'in_summary', 'by_hand')),
    attempts          integer NOT NULL DEFAULT 0,
    unknown_since     timestamptz,              -- the first attempt since which Stripe may have it without our knowing
    last_error        text NOT NULL DEFAULT '',
    created_at        timestamptz NOT NULL,
    last_attempt_at   timestamptz,
    delivered_at      timestamptz,
    CHECK ((state = 'delivered') = (delivered_at IS NOT NULL))
);
CREATE UNIQUE INDEX meter_events_by_window ON meter_events (org_id, category, unit, window_start, revision, part);
CREATE INDEX meter_events_pending ON meter_events (customer_id, event_name, id) WHERE state = 'pending';
CREATE INDEX meter_events_dead ON meter_events (id) WHERE state = 'dead';
CREATE INDEX meter_events_by_month ON meter_events (org_id, month);
CREATE INDEX meter_events_by_time ON meter_events (customer_id, event_name, window_start);

-- A customer and a meter. Stripe takes one call at a time for each: whoever holds the lease sends, in order.
CREATE TABLE meter_lanes (
    customer_id   text NOT NULL,
    event_name    text NOT NULL,
    due_at        timestamptz NOT NULL,
    failures      integer NOT NULL DEFAULT 0,   -- in a row
    lease_id      uuid,
    leased_until  timestamptz,
    PRIMARY KEY (customer_id, event_name)
);
CREATE INDEX meter_lanes_due ON meter_lanes (due_at);

-- Stripe's meters and prices by name, so that they are looked for once.
CREATE TABLE meters (
    event_name  text PRIMARY KEY,
    meter_id    text NOT NULL,
    price_id    text NOT NULL DEFAULT ''
);
