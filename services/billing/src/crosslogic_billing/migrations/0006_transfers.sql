-- What the money ledger is told: the difference between usage at its prices, which it has, and what is charged; and payments.
-- A row is written with what causes it, and posted until the accountant has it; the id makes it the same transfer.
CREATE TABLE transfers (
    id           uuid PRIMARY KEY,
    org_id       uuid NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('adjustment', 'payment')),
    debit        text NOT NULL,                 -- accounts of the money ledger
    credit       text NOT NULL,
    amount       numeric(38, 0) NOT NULL CHECK (amount > 0),   -- pico-dollars
    reference    text NOT NULL,                 -- a month, or an invoice
    created_at   timestamptz NOT NULL,
    posted_at    timestamptz,
    refused      text NOT NULL DEFAULT '',      -- why it was refused for good; '' while it was not
    CHECK (debit <> credit)
);
CREATE INDEX transfers_open ON transfers (created_at) WHERE posted_at IS NULL AND refused = '';
CREATE INDEX transfers_by_reference ON transfers (org_id, reference);

-- What has been told of a month: charged less list, debit of the receivable.
ALTER TABLE org_months
    ADD COLUMN adjust_due boolean NOT NULL DEFAULT true,
    ADD COLUMN adjusted_at timestamptz,
    ADD COLUMN adjusted numeric(38, 0) NOT NULL DEFAULT 0,
    ADD COLUMN adjustments integer NOT NULL DEFAULT 0;
CREATE INDEX org_months_adjust ON org_months (adjusted_at) WHERE adjust_due;
