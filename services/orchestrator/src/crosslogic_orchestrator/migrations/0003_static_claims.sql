-- Which machine of the pool an instance has. Kept after its end, so that a launch that comes late brings nothing back.
CREATE TABLE static_claims (
    instance_id uuid PRIMARY KEY,
    machine     text NOT NULL,
    claimed_at  timestamptz NOT NULL,
    started_at  timestamptz,
    released_at timestamptz
);
-- Two jobs never share a machine.
CREATE UNIQUE INDEX static_claims_held ON static_claims (machine) WHERE released_at IS NULL;
