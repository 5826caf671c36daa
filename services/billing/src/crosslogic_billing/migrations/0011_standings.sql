-- What identity says of organisations and plans, from when on. Read from it again and again and kept here, so that months are
-- rated by what is known last while it is away. Rows are never changed: `from_time` of what is known is identity's own.
CREATE TABLE org_standings (
    org_id          uuid NOT NULL,
    from_time       timestamptz NOT NULL,
    plan            text NOT NULL,
    reserved_units  jsonb NOT NULL,
    mode            text CHECK (mode IN ('serverless', 'reserved')),  -- NULL: the plan's
    overage         text CHECK (overage IN ('bill', 'shed')),         -- NULL: the plan's
    PRIMARY KEY (org_id, from_time)
);
CREATE INDEX org_standings_by_plan ON org_standings (plan);

CREATE TABLE plan_standings (
    plan       text NOT NULL,
    from_time  timestamptz NOT NULL,
    mode       text NOT NULL CHECK (mode IN ('serverless', 'reserved')),
    overage    text NOT NULL CHECK (overage IN ('bill', 'shed')),
    PRIMARY KEY (plan, from_time)
);

-- Until when identity has been read. Moved in the transaction that keeps what was read.
CREATE TABLE standing_cursor (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    read_at  timestamptz
);
INSERT INTO standing_cursor VALUES (true, NULL);

-- What organisations on a plan have where nothing was agreed with them alone. A change is a new version; the terms of a month
-- are the newest version of the latest `from_month` that is not after it.
CREATE TABLE plan_terms (
    plan        text NOT NULL,
    from_month  date NOT NULL CHECK (extract(day FROM from_month) = 1),
    version     integer NOT NULL CHECK (version > 0),
    terms       jsonb NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (plan, version)
);
CREATE FUNCTION plan_terms_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'terms of plans are not changed: make a new version' USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER plan_terms_stay BEFORE UPDATE OR DELETE ON plan_terms
    FOR EACH ROW EXECUTE FUNCTION plan_terms_stay();

-- Mode, overage and reserved units were agreed on here until now. Months that have begun keep them, until identity's word
-- takes their place; what was agreed for later is identity's to say.
INSERT INTO org_standings (org_id, from_time, plan, reserved_units, mode, overage)
    SELECT org_id, from_month::timestamp AT TIME ZONE (terms->>'time_zone'), 'default', terms->'reserved_units',
           terms->>'mode', terms->>'overage'
    FROM account_terms WHERE from_month <= now() AND terms ? 'mode';
-- What is shed costs nothing from the window on, no longer only in the month's sum.
UPDATE month_usage m SET tokens = 0 WHERE (
    SELECT t.terms->>'mode' = 'reserved' AND t.terms->>'overage' = 'shed' FROM account_terms t
    WHERE t.org_id = m.org_id AND t.from_month <= m.month ORDER BY t.from_month DESC LIMIT 1
);
UPDATE account_terms SET terms = terms - 'mode' - 'overage' - 'reserved_units';
