-- Tokens of requests that cost nothing because they failed: the difference between the ledger's tokens and ours.
CREATE TABLE uncharged_usage (
    org_id        uuid NOT NULL,
    window_start  timestamptz NOT NULL,
    tokens        bigint NOT NULL,
    PRIMARY KEY (org_id, window_start)
);
CREATE INDEX uncharged_usage_by_time ON uncharged_usage (window_start);

CREATE TABLE reconciliations (
    id           uuid PRIMARY KEY,
    from_day     date NOT NULL,
    to_day       date NOT NULL,
    created_at   timestamptz NOT NULL,
    lines        jsonb NOT NULL,
    unexplained  integer NOT NULL,
    missing      jsonb NOT NULL,
    signed_by    text NOT NULL DEFAULT '',
    signed_note  text NOT NULL DEFAULT '',
    signed_at    timestamptz
);
CREATE INDEX reconciliations_by_day ON reconciliations (from_day, to_day);

-- A report is what was found then: only its signature is added, once.
CREATE FUNCTION keep_reconciliations() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.signed_at IS NULL AND NEW.signed_at IS NOT NULL
        AND to_jsonb(NEW) - '{signed_by,signed_note,signed_at}'::text[]
            = to_jsonb(OLD) - '{signed_by,signed_note,signed_at}'::text[] THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'a reconciliation stays as it was: % is refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON reconciliations FOR EACH ROW EXECUTE FUNCTION keep_reconciliations();

-- What machines cost, for FinOps.
CREATE TABLE machine_costs (
    node_id             text NOT NULL,
    from_time           timestamptz NOT NULL,
    to_time             timestamptz,            -- NULL: it runs
    region              text NOT NULL,
    gpu_type            text NOT NULL,
    gpu_count           integer NOT NULL CHECK (gpu_count >= 0),
    spot                boolean NOT NULL,
    hourly_picodollars  bigint NOT NULL CHECK (hourly_picodollars >= 0),
    models              text[] NOT NULL,
    PRIMARY KEY (node_id, from_time),
    CHECK (to_time > from_time)
);
