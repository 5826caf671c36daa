-- What Stripe told us. A row is written when an event comes and marked when its consequences are stored: an event that was
-- seen and not handled is handled when it comes again, or by the next look.
CREATE TABLE webhooks (
    event_id     text PRIMARY KEY CHECK (char_length(event_id) <= 255),
    type         text NOT NULL,
    payload      bytea NOT NULL,
    received_at  timestamptz NOT NULL,
    attempts     integer NOT NULL DEFAULT 0,
    result       text NOT NULL DEFAULT '',       -- handled, ignored; '' while it is not
    last_error   text NOT NULL DEFAULT '',
    handled_at   timestamptz
);
CREATE INDEX webhooks_open ON webhooks (received_at) WHERE handled_at IS NULL;
CREATE INDEX webhooks_by_age ON webhooks (received_at);

-- Invoices as Stripe had them when we last looked.
CREATE TABLE invoices (
    invoice_id    text PRIMARY KEY,
    org_id        uuid NOT NULL,
    customer_id   text NOT NULL,
    number        text NOT NULL,
    status        text NOT NULL,
    currency      text NOT NULL,
    total_cents   bigint NOT NULL,
    paid_cents    bigint NOT NULL,
    created_at    timestamptz NOT NULL,
    period_start  timestamptz NOT NULL,
    period_end    timestamptz NOT NULL,
    url           text NOT NULL,
    failed_at     timestamptz,     -- a payment of it failed first then, and it is still unpaid
    fetched_at    timestamptz NOT NULL
);
CREATE INDEX invoices_by_org ON invoices (org_id, created_at DESC);
