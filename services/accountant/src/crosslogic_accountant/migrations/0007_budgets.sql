-- Spending budgets, and what was spent of each in each period. Spending moves with the rollups, in their transaction.
CREATE TABLE budgets (
    id                  uuid PRIMARY KEY,
    number              bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    org_id              uuid NOT NULL,
    scope               smallint NOT NULL,         -- crosslogic.accountant.v1.SpendScope
    scope_id            uuid,                      -- of an environment or a key
    environment_ids     uuid[] NOT NULL,           -- of a department
    api_key_ids         uuid[] NOT NULL,
    name                text NOT NULL,
    period              smallint NOT NULL,         -- crosslogic.accountant.v1.SpendPeriod
    limit_picodollars   bigint NOT NULL CHECK (limit_picodollars > 0),
    hard                boolean NOT NULL,
    thresholds_percent  integer[] NOT NULL,
    owners              text[] NOT NULL,
    create_time         timestamptz NOT NULL DEFAULT now(),
    delete_time         timestamptz,
    version             bigint NOT NULL            -- rises with each change, in the order of commits: see budget_versions
);
CREATE INDEX budgets_by_org ON budgets (org_id, number);
CREATE INDEX budgets_by_version ON budgets (version);

-- Whose spending counts: a row for the organisation, the environment or the key; several for a department.
CREATE TABLE budget_subjects (
    budget_id  uuid NOT NULL REFERENCES budgets,
    scope      smallint NOT NULL,
    subject    uuid NOT NULL,
    PRIMARY KEY (subject, scope, budget_id)
);

CREATE TABLE budget_spend (
    budget_id          uuid NOT NULL REFERENCES budgets,
    period_start       timestamptz NOT NULL,
    spent_picodollars  numeric NOT NULL DEFAULT 0,
    held_picodollars   numeric NOT NULL DEFAULT 0 CHECK (held_picodollars >= 0),
    version            bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (budget_id, period_start)
) WITH (fillfactor = 50);
CREATE INDEX budget_spend_by_version ON budget_spend (version);

-- Drawn only by whoever holds the reader `rollups`: versions become visible in order.
CREATE SEQUENCE budget_versions;

-- What owners were told: one event a threshold, budget and period.
CREATE TABLE budget_events (
    sequence           bigint PRIMARY KEY,         -- a budget_version: visible in order
    budget_id          uuid NOT NULL REFERENCES budgets,
    period_start       timestamptz NOT NULL,
    threshold_percent  integer NOT NULL,
    org_id             uuid NOT NULL,
    name               text NOT NULL,
    owners             text[] NOT NULL,
    spent_picodollars  numeric NOT NULL,
    limit_picodollars  bigint NOT NULL,
    stopped            boolean NOT NULL,
    event_time         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (budget_id, period_start, threshold_percent)
);
CREATE INDEX budget_events_by_org ON budget_events (org_id, sequence);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON budget_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Which budgets a hold counts against, and with how much.
CREATE TABLE hold_budgets (
    hold_id             uuid NOT NULL REFERENCES holds,
    budget_id           uuid NOT NULL REFERENCES budgets,
    period_start        timestamptz NOT NULL,
    held_picodollars    numeric NOT NULL,
    PRIMARY KEY (hold_id, budget_id)
);

CREATE FUNCTION budget_period_start(period smallint, at timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE period WHEN 1 THEN date_trunc('day', at, 'UTC') ELSE date_trunc('month', at, 'UTC') END
$$;
