-- The money ledger: double entry, append-only, whole pico-dollars. Debits are positive, credits negative.
--
-- The database itself keeps the books right: a transfer's postings must balance when its transaction ends, none is added
-- later, balances move with postings and in no other way, and credit accounts never fall below zero, so that no two
-- requests can spend the same dollar.
CREATE TABLE accounts (
    id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id               uuid NOT NULL,
    kind                 smallint NOT NULL,      -- crosslogic.accountant.v1.Account
    balance_picodollars  numeric NOT NULL DEFAULT 0,
    UNIQUE (org_id, kind),
    -- Prepaid, free tier, reserved: what is given or paid in advance, less what was spent of it.
    CONSTRAINT credit_is_not_overdrawn CHECK (kind NOT IN (2, 3, 4) OR balance_picodollars <= 0)
) WITH (fillfactor = 50);

CREATE TABLE transfers (
    id             uuid PRIMARY KEY,
    number         bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    org_id         uuid NOT NULL,
    kind           smallint NOT NULL,            -- crosslogic.accountant.v1.TransferKind
    posting_count  smallint NOT NULL CHECK (posting_count BETWEEN 2 AND 10),
    reason         text NOT NULL,
    reference      text NOT NULL,
    post_time      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX transfers_by_org ON transfers (org_id, number);

CREATE TABLE postings (
    transfer_id          uuid NOT NULL REFERENCES transfers,
    account_id           bigint NOT NULL REFERENCES accounts,
    amount_picodollars   numeric NOT NULL CHECK (amount_picodollars <> 0 AND amount_picodollars = trunc(amount_picodollars)),
    PRIMARY KEY (transfer_id, account_id)
);
CREATE INDEX postings_by_account ON postings (account_id);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON postings
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- Depth 0: the change did not come from a posting.
CREATE TRIGGER moves_with_postings BEFORE UPDATE ON accounts
    FOR EACH ROW WHEN (pg_trigger_depth() < 1) EXECUTE FUNCTION refuse_change();
CREATE FUNCTION refuse_opening_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an account opens with nothing' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER opens_empty BEFORE INSERT ON accounts
    FOR EACH ROW WHEN (NEW.balance_picodollars <> 0) EXECUTE FUNCTION refuse_opening_balance();

CREATE FUNCTION move_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE accounts SET balance_picodollars = balance_picodollars + NEW.amount_picodollars WHERE id = NEW.account_id;
    RETURN NULL;
END $$;
CREATE TRIGGER move_balance AFTER INSERT ON postings FOR EACH ROW EXECUTE FUNCTION move_balance();

CREATE FUNCTION check_transfer(checked uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    header transfers;
    counted bigint;
    total numeric;
    strangers bigint;
BEGIN
    SELECT * INTO header FROM transfers WHERE id = checked;
    SELECT count(*), coalesce(sum(p.amount_picodollars), 0), count(*) FILTER (WHERE a.org_id <> header.org_id)
        INTO counted, total, strangers
        FROM postings p JOIN accounts a ON a.id = p.account_id WHERE p.transfer_id = checked;
    IF counted <> header.posting_count OR total <> 0 OR strangers > 0 THEN
        RAISE EXCEPTION 'transfer % does not balance: % postings of %, sum %, % of other organisations',
            checked, counted, header.posting_count, total, strangers USING ERRCODE = 'check_violation';
    END IF;
END $$;
CREATE FUNCTION check_own_transfer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM check_transfer(NEW.id);
    RETURN NULL;
END $$;
CREATE FUNCTION check_postings_transfer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM check_transfer(NEW.transfer_id);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER balances AFTER INSERT ON transfers
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_own_transfer();
CREATE CONSTRAINT TRIGGER balances AFTER INSERT ON postings
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_postings_transfer();

-- Money and budgets held for a request under way: reserve, then post no more than that, void or expire, once. `holds` and
-- `hold_ends` are the history. A row of `open_holds` is what is still held; whoever deletes or shrinks it has ended it.
CREATE TABLE holds (
    id                    uuid PRIMARY KEY,
    org_id                uuid NOT NULL,
    environment_id        uuid,
    api_key_id            uuid,
    amount_picodollars    numeric NOT NULL CHECK (amount_picodollars > 0),
    free_picodollars      numeric NOT NULL CHECK (free_picodollars >= 0),      -- of it, from free-tier credit
    prepaid_picodollars   numeric NOT NULL CHECK (prepaid_picodollars >= 0),   -- of it, from prepaid credit
    prepaid               boolean NOT NULL,       -- credit had to cover it
    expire_time           timestamptz NOT NULL,
    hold_time             timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE hold_ends (
    hold_id             uuid PRIMARY KEY REFERENCES holds,
    state               smallint NOT NULL,        -- crosslogic.accountant.v1.HoldState
    amount_picodollars  numeric NOT NULL CHECK (amount_picodollars >= 0),
    end_time            timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON holds
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON hold_ends
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TABLE open_holds (
    hold_id               uuid PRIMARY KEY REFERENCES holds,
    -- Null: held. Otherwise it was ended by hand with so much; the request's record, which is still to come, is charged for
    -- the rest only, and budgets keep it until then.
    posted_picodollars    numeric,
    expire_time           timestamptz NOT NULL
);
CREATE INDEX open_holds_by_time ON open_holds (expire_time);
