-- What a record says besides: the price version that rated it, the plan, and how its request fared among nodes.
ALTER TABLE usage_records
    ADD COLUMN cached_prompt_price_picodollars  bigint,    -- per token; null: as any prompt token
    ADD COLUMN attempts         smallint NOT NULL DEFAULT 1,       -- nodes that worked on it
    ADD COLUMN failed_over      boolean NOT NULL DEFAULT false,
    ADD COLUMN region_failover  boolean NOT NULL DEFAULT false,
    ADD COLUMN resumed          boolean NOT NULL DEFAULT false,
    ADD COLUMN price_version    text NOT NULL DEFAULT '',          -- empty: the catalogue's price
    ADD COLUMN plan             text NOT NULL DEFAULT '';

-- The order in which rows became durable, for readers with a cursor. Numbers drawn at insertion would not do: a row that
-- commits late would appear below a cursor that has passed it. So rows only carry their batch (one a statement), and a batch
-- is numbered at the very end of its transaction, under a lock that is held until the commit is visible. Whoever sees
-- sequence n sees every sequence below it, for ever: none is left out, and none is filled in later.
CREATE SEQUENCE usage_batches;
CREATE TABLE usage_head (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    last_sequence  bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO usage_head (last_sequence) VALUES (0);
CREATE TABLE usage_commits (
    batch          bigint PRIMARY KEY,
    last_sequence  bigint UNIQUE,     -- of the batch's rows, which are numbered by (request_id, revision)
    row_count      bigint,
    commit_time    timestamptz
);

ALTER TABLE usage_records ADD COLUMN batch bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_records ALTER COLUMN batch SET DEFAULT current_setting('ledger.batch')::bigint;
CREATE INDEX usage_records_by_batch ON usage_records (batch);

CREATE FUNCTION open_batch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    opened bigint := nextval('usage_batches');
BEGIN
    PERFORM set_config('ledger.batch', opened::text, true);
    INSERT INTO usage_commits (batch) VALUES (opened);
    RETURN NULL;
END $$;

CREATE FUNCTION number_batch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    counted bigint;
    reached bigint;
BEGIN
    SELECT count(*) INTO counted FROM usage_records WHERE batch = NEW.batch;
    IF counted = 0 THEN
        DELETE FROM usage_commits WHERE batch = NEW.batch;
        RETURN NULL;
    END IF;
    UPDATE usage_head SET last_sequence = last_sequence + counted RETURNING last_sequence INTO reached;
    UPDATE usage_commits SET last_sequence = reached, row_count = counted, commit_time = clock_timestamp()
        WHERE batch = NEW.batch;
    RETURN NULL;
END $$;

-- What was stored before there were batches is one, if there is any.
INSERT INTO usage_commits (batch, last_sequence, row_count, commit_time)
    SELECT 0, count(*), count(*), now() FROM usage_records HAVING count(*) > 0;
UPDATE usage_head SET last_sequence = (SELECT count(*) FROM usage_records);

CREATE TRIGGER open_batch BEFORE INSERT ON usage_records FOR EACH STATEMENT EXECUTE FUNCTION open_batch();
CREATE CONSTRAINT TRIGGER number_batch AFTER INSERT ON usage_commits
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION number_batch();
CREATE TRIGGER append_only BEFORE UPDATE ON usage_commits
    FOR EACH ROW WHEN (OLD.last_sequence IS NOT NULL) EXECUTE FUNCTION refuse_change();
