-- The usage ledger. Append-only: what is wrong is put right by further rows, never by changing one.
--
-- One request has one row of revision 0. A correction adds two rows that point at the revision they correct: its
-- reversal (the same row with every amount negated, requests = -1) and its replacement (requests = 1). So a plain sum over
-- any selection is right at any time, and the effective record is the row of the highest revision.
--
-- request_id is a UUIDv7 and sorts by time: partitions are ranges of it, and the primary key alone keeps a request unique
-- for as long as its partition is kept. Ids that are too old or from the future are refused before they come here.
CREATE TABLE usage_records (
    request_id                    uuid NOT NULL,
    revision                      smallint NOT NULL,
    corrects                      smallint,             -- the revision that this row reverses or replaces
    requests                      smallint NOT NULL,    -- 1, or -1 on a reversal
    from_witness                  boolean NOT NULL,     -- settled from the node's count; no gateway had reported
    stream                        boolean NOT NULL,
    count_source                  smallint NOT NULL,    -- crosslogic.common.v1.CountSource
    outcome                       smallint NOT NULL,    -- crosslogic.common.v1.Outcome
    http_status                   smallint NOT NULL,    -- 0: none was sent
    prompt_tokens                 integer NOT NULL,
    cached_prompt_tokens          integer NOT NULL,
    completion_tokens             integer NOT NULL,
    start_time                    timestamptz NOT NULL,
    record_time                   timestamptz NOT NULL DEFAULT now(),
    latency_us                    bigint NOT NULL,
    time_to_first_token_us        bigint NOT NULL,      -- 0: nothing was sent
    prompt_price_picodollars      bigint NOT NULL,      -- per token, at admission
    completion_price_picodollars  bigint NOT NULL,
    max_total_tokens              bigint NOT NULL,      -- 0: unknown
    cost_picodollars              numeric NOT NULL,     -- a whole number; a bigint of pico-dollars ends at $9.2 million
    org_id                        uuid NOT NULL,
    environment_id                uuid NOT NULL,
    api_key_id                    uuid NOT NULL,
    model                         text NOT NULL,
    api                           text NOT NULL,
    region                        text NOT NULL,
    node_id                       text NOT NULL,
    PRIMARY KEY (request_id, revision),
    CHECK (requests IN (-1, 1))
) PARTITION BY RANGE (request_id);

-- By tenant and time: request_id sorts by time. They serve listing and summing alike.
CREATE INDEX usage_records_by_org ON usage_records (org_id, request_id);
CREATE INDEX usage_records_by_environment ON usage_records (environment_id, request_id);
CREATE INDEX usage_records_by_key ON usage_records (api_key_id, request_id);

-- Catches what no month's partition covers, so that a late partition never loses a record.
CREATE TABLE usage_records_default PARTITION OF usage_records DEFAULT;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % on % is refused; write a correction', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

-- One firing a statement, none for an INSERT: the hot path pays nothing. Each partition gets its own, since a statement that
-- names a partition does not fire its parent's.
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON usage_records
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON usage_records_default
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Where a node's count and the gateway's differ. The gateway's stands.
CREATE TABLE witness_differences (
    request_id                    uuid NOT NULL,
    node_id                       text NOT NULL,
    record_time                   timestamptz NOT NULL DEFAULT now(),
    gateway_prompt_tokens         integer NOT NULL,
    gateway_cached_prompt_tokens  integer NOT NULL,
    gateway_completion_tokens     integer NOT NULL,
    gateway_outcome               smallint NOT NULL,
    witness_prompt_tokens         integer NOT NULL,
    witness_cached_prompt_tokens  integer NOT NULL,
    witness_completion_tokens     integer NOT NULL,
    witness_outcome               smallint NOT NULL,
    PRIMARY KEY (request_id, node_id)
);
CREATE INDEX witness_differences_by_node ON witness_differences (node_id, record_time);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON witness_differences
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Witnesses that wait to be compared. One comes for every request and nearly all agree with a record, so they are kept as
-- cheaply as durable rows can be: no index, no deletes. They lie in a ring of slots by arrival; a slot whose time is over is
-- compared as a whole and truncated in the same transaction.
CREATE TABLE witnesses (
    slot                  smallint NOT NULL,
    outcome               smallint NOT NULL,
    count_source          smallint NOT NULL,
    prompt_tokens         integer NOT NULL,
    cached_prompt_tokens  integer NOT NULL,
    completion_tokens     integer NOT NULL,
    received_at           timestamptz NOT NULL DEFAULT now(),
    duration_us           bigint NOT NULL,
    request_id            uuid NOT NULL,
    node_id               text NOT NULL,
    context               bytea NOT NULL   -- a serialised crosslogic.accountant.v1.RequestContext, its seal opened
) PARTITION BY LIST (slot);

DO $$
BEGIN
    FOR slot IN 0..15 LOOP
        EXECUTE format('CREATE TABLE witnesses_%s PARTITION OF witnesses FOR VALUES IN (%s)', slot, slot);
    END LOOP;
END $$;

-- Makes one partition unless it is there. Attaching, unlike CREATE ... PARTITION OF, lets records be written meanwhile.
-- Returns false when rows in the default partition cover the range: they stay there, and are found there.
CREATE FUNCTION add_usage_partition(partition_name text, low uuid, high uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass(partition_name) IS NOT NULL THEN
        RETURN true;
    END IF;
    IF EXISTS (SELECT FROM usage_records_default WHERE request_id >= low AND request_id < high) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE usage_records INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition_name);
    EXECUTE format(
        'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()',
        partition_name);
    EXECUTE format(
        'ALTER TABLE usage_records ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition_name, low, high);
    RETURN true;
END $$;
