-- Drops a month of records whose time is over. Returns why it does not; empty when it did. Rollups, corrections, differences
-- and the money ledger stay. Readers with a cursor below what is dropped are told so.
CREATE FUNCTION drop_usage_partition(partition_name text, ends timestamptz) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    reached bigint;
    behind text;
BEGIN
    EXECUTE format(
        'SELECT max(c.last_sequence) FROM usage_commits c WHERE c.batch IN (SELECT DISTINCT batch FROM %I)', partition_name
    ) INTO reached;
    SELECT r.name INTO behind FROM readers r WHERE r.sequence < reached LIMIT 1;
    IF behind IS NOT NULL THEN
        RETURN format('reader %s has not settled it', behind);
    END IF;
    UPDATE usage_head SET dropped_sequence = greatest(dropped_sequence, coalesce(reached, 0)),
        kept_from = greatest(coalesce(kept_from, ends), ends);
    EXECUTE format('DROP TABLE %I', partition_name);
    RETURN '';
END $$;
