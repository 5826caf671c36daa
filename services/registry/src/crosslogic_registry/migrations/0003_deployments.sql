-- How a model is served, by region (empty: everywhere else): [{"region": "in-mumbai", "strategy": 5}, ...], the strategy as
-- the number of registry.v1.PickStrategy.
ALTER TABLE models ADD COLUMN deployments jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(deployments) = 'array');
