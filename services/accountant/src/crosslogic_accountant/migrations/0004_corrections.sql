-- Why and by whom a record was corrected; the rows themselves are in usage_records.
CREATE TABLE corrections (
    correction_id  uuid PRIMARY KEY,
    request_id     uuid NOT NULL,
    revision       smallint NOT NULL,    -- of the replacement
    reason         text NOT NULL,
    author         text NOT NULL,
    record_time    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX corrections_by_request ON corrections (request_id, revision);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON corrections
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- How far each reader of the ledger has settled it.
CREATE TABLE readers (
    name         text PRIMARY KEY,
    sequence     bigint NOT NULL,
    update_time  timestamptz NOT NULL DEFAULT now()
);

-- Rows up to this sequence may be gone: their month was dropped.
ALTER TABLE usage_head ADD COLUMN dropped_sequence bigint NOT NULL DEFAULT 0;
