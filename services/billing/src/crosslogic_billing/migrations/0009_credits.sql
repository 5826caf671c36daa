-- What was exported of a month and, after a correction, not owed: given back as credit on the customer's balance.
ALTER TABLE month_exports ADD COLUMN credited numeric(38, 0) NOT NULL DEFAULT 0;   -- of `value`; unit picodollars only
ALTER TABLE month_exports ADD CHECK (credited BETWEEN 0 AND value);

-- The month is to be looked at once it is over: it may have changed since.
ALTER TABLE org_months ADD COLUMN credit_due boolean NOT NULL DEFAULT true;
CREATE INDEX org_months_credit ON org_months (month) WHERE credit_due;

-- The outbox of credits. A row is written with what causes it, and given until Stripe has it.
CREATE TABLE credits (
    id             uuid PRIMARY KEY,            -- Stripe keeps it with the credit: it is looked for before it is given again
    org_id         uuid NOT NULL,
    customer_id    text NOT NULL,
    month          date NOT NULL,
    category       text NOT NULL,
    number         integer NOT NULL,            -- of the month and category
    cents          bigint NOT NULL CHECK (cents > 0),
    created_at     timestamptz NOT NULL,
    due_at         timestamptz NOT NULL,
    leased_until   timestamptz,
    attempts       integer NOT NULL DEFAULT 0,
    answered       integer NOT NULL DEFAULT 0,  -- attempts that Stripe has answered with a failure
    last_error     text NOT NULL DEFAULT '',
    given_at       timestamptz,
    UNIQUE (org_id, month, category, number)
);
CREATE INDEX credits_open ON credits (due_at) WHERE given_at IS NULL;
