-- A slot of witnesses is truncated before a vacuum could be of use.
DO $$
BEGIN
    FOR slot IN 0..15 LOOP
        EXECUTE format('ALTER TABLE witnesses_%s SET (autovacuum_enabled = false)', slot);
    END LOOP;
END $$;
