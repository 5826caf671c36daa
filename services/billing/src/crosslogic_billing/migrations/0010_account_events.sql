-- What happened to accounts, for whoever tells people of it: written with what causes it, and never changed.
CREATE TABLE account_events (
    sequence    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL,
    org_id      uuid NOT NULL,
    subject     text NOT NULL,          -- an invoice; '' the organisation itself
    event_time  timestamptz NOT NULL,
    text        text NOT NULL
);
-- An invoice's payment fails again and again; it is told once.
CREATE UNIQUE INDEX account_events_once ON account_events (kind, subject) WHERE subject <> '';
