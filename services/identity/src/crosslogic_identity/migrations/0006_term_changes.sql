-- What billing must know of plans and organisations, as it changed. Rows are written by triggers, in the transaction of
-- each change: no way of changing them leaves it out.
CREATE TABLE term_changes (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- After the changed row was locked: of one plan or organisation, never earlier than the change before.
    from_time          timestamptz NOT NULL DEFAULT clock_timestamp(),
    org_id             uuid,    -- NULL: of the plan itself
    plan               text NOT NULL,
    reserved_capacity  jsonb,   -- of the organisation
    billing_mode       text,    -- of the plan
    overage_policy     text,    -- of the plan
    CHECK ((org_id IS NULL) = (reserved_capacity IS NULL)),
    CHECK ((org_id IS NULL) = (billing_mode IS NOT NULL)),
    CHECK ((org_id IS NULL) = (overage_policy IS NOT NULL))
);
CREATE INDEX term_changes_by_time ON term_changes (from_time);

-- What was before is not known: it counts from now on.
INSERT INTO term_changes (plan, billing_mode, overage_policy) SELECT name, billing_mode, overage_policy FROM plans;
INSERT INTO term_changes (org_id, plan, reserved_capacity) SELECT id, plan, reserved_capacity FROM orgs;

CREATE FUNCTION plan_terms_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO term_changes (plan, billing_mode, overage_policy)
        VALUES (NEW.name, NEW.billing_mode, NEW.overage_policy);
    RETURN NULL;
END
$$;
CREATE TRIGGER plan_made AFTER INSERT ON plans FOR EACH ROW EXECUTE FUNCTION plan_terms_changed();
CREATE TRIGGER plan_changed AFTER UPDATE ON plans FOR EACH ROW
    WHEN ((OLD.billing_mode, OLD.overage_policy) IS DISTINCT FROM (NEW.billing_mode, NEW.overage_policy))
    EXECUTE FUNCTION plan_terms_changed();

CREATE FUNCTION org_terms_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO term_changes (org_id, plan, reserved_capacity) VALUES (NEW.id, NEW.plan, NEW.reserved_capacity);
    RETURN NULL;
END
$$;
CREATE TRIGGER org_made AFTER INSERT ON orgs FOR EACH ROW EXECUTE FUNCTION org_terms_changed();
CREATE TRIGGER org_changed AFTER UPDATE ON orgs FOR EACH ROW
    WHEN ((OLD.plan, OLD.reserved_capacity) IS DISTINCT FROM (NEW.plan, NEW.reserved_capacity))
    EXECUTE FUNCTION org_terms_changed();
