-- Sums by hour and by day of the request's start, UTC. They are what the records say up to the sequence of the reader
-- `rollups`, which moves in the transaction that adds to them: each row of the ledger counts once, whenever the process dies.
-- They can be made anew from the records at any time.
CREATE TABLE usage_hourly (
    org_id                uuid NOT NULL,
    time                  timestamptz NOT NULL,
    environment_id        uuid NOT NULL,
    api_key_id            uuid NOT NULL,
    model                 text NOT NULL,
    region                text NOT NULL,
    requests              bigint NOT NULL,
    prompt_tokens         bigint NOT NULL,
    cached_prompt_tokens  bigint NOT NULL,
    completion_tokens     bigint NOT NULL,
    cost_picodollars      numeric NOT NULL,
    PRIMARY KEY (org_id, time, environment_id, api_key_id, model, region)
) WITH (fillfactor = 70);
CREATE INDEX usage_hourly_by_time ON usage_hourly (time);
CREATE INDEX usage_hourly_by_environment ON usage_hourly (environment_id, time);
CREATE INDEX usage_hourly_by_key ON usage_hourly (api_key_id, time);

CREATE TABLE usage_daily (LIKE usage_hourly INCLUDING ALL) WITH (fillfactor = 70);

INSERT INTO readers (name, sequence) VALUES ('rollups', 0) ON CONFLICT DO NOTHING;

-- Requests that started before this time may no longer have their records: their month was dropped.
ALTER TABLE usage_head ADD COLUMN kept_from timestamptz;
