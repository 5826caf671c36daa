-- Which versions of a model serve, as the contract's VersionShare, the proven one first: [{"version": "v1", "per_mille": 950},
-- {"version": "v2", "per_mille": 50}]. Empty: versions do not matter.
ALTER TABLE models ADD COLUMN version_shares jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(version_shares) = 'array');

-- A model on its way from one version to another.
CREATE TABLE model_upgrades (
    number        bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    id            uuid PRIMARY KEY,
    model         text NOT NULL REFERENCES models (name),
    from_version  text NOT NULL,
    to_version    text NOT NULL,
    phase         text NOT NULL
                  CHECK (phase IN ('waiting', 'shifting', 'finishing', 'draining', 'done', 'rolled_back')),
    step          integer NOT NULL DEFAULT 0,
    reason        text NOT NULL,
    rules         jsonb NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    changed_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX model_upgrades_by_model ON model_upgrades (model, number);
-- At most one of a model is under way.
CREATE UNIQUE INDEX model_upgrades_under_way ON model_upgrades (model)
    WHERE phase IN ('waiting', 'shifting', 'finishing', 'draining');

-- What gateways saw of each version during each step; `step` is one more than the last while it is finishing.
CREATE TABLE model_upgrade_outcomes (
    upgrade_id     uuid NOT NULL REFERENCES model_upgrades (id),
    step           integer NOT NULL,
    is_new         boolean NOT NULL,
    succeeded      bigint NOT NULL,
    failed         bigint NOT NULL,
    first_bytes    bigint NOT NULL,
    first_byte_us  bigint NOT NULL,
    PRIMARY KEY (upgrade_id, step, is_new)
);
