-- Append-only. seq has no gap, since it is counted under the lock of audit_head; each record holds the hash before it.
CREATE TABLE audit (
    seq             bigint PRIMARY KEY CHECK (seq >= 1),
    at              timestamptz NOT NULL,
    actor_kind      text NOT NULL,
    actor_id        text NOT NULL,
    actor_name      text NOT NULL,
    actor_org_id    text NOT NULL,
    address         text NOT NULL,
    request_id      text NOT NULL,
    action          text NOT NULL,
    outcome         text NOT NULL,
    org_id          text NOT NULL,
    object_kind     text NOT NULL,
    object_id       text NOT NULL,
    -- Text, not jsonb: the hash is over the bytes.
    before          text NOT NULL,
    after           text NOT NULL,
    reason          text NOT NULL,
    previous_hash   bytea NOT NULL CHECK (octet_length(previous_hash) = 32),
    hash            bytea NOT NULL CHECK (octet_length(hash) = 32)
);
CREATE INDEX audit_by_org ON audit (org_id, seq);
CREATE INDEX audit_by_object ON audit (object_id, seq);

CREATE TABLE audit_head (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    seq         bigint NOT NULL,
    hash        bytea NOT NULL CHECK (octet_length(hash) = 32)
);
INSERT INTO audit_head (seq, hash) VALUES (0, decode(repeat('00', 32), 'hex'));

CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_head_stays BEFORE DELETE OR TRUNCATE ON audit_head
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
-- ALWAYS: not to be passed by calling oneself a replica.
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_no_change;
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_no_truncate;
ALTER TABLE audit_head ENABLE ALWAYS TRIGGER audit_head_stays;
