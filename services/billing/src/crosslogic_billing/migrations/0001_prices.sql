-- The price book.

-- Parts of the world with prices of their own. A region is in the market that has the longest of its prefixes; the empty
-- prefix takes every region that no other fits. The multiplier counts for versions that are made from now on.
CREATE TABLE markets (
    name             text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,39}$'),
    numerator        integer NOT NULL CHECK (numerator BETWEEN 0 AND 1000000),
    denominator      integer NOT NULL CHECK (denominator BETWEEN 1 AND 1000000),
    region_prefixes  text[] NOT NULL
);
INSERT INTO markets (name, numerator, denominator, region_prefixes) VALUES
    ('usa', 1, 1, '{"",us,usa,ca,northamerica}'),
    ('eu', 11, 10, '{eu,europe,uk}'),
    ('india', 7, 10, '{in,india,ap-south,asia-south}'),
    ('apac', 9, 10, '{ap,apac,asia,australia,jp,sg}');

-- What has a price: numbered, so that one exclusion constraint holds "this line" and "this time" apart without extensions.
CREATE TABLE price_lines (
    id      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model   text NOT NULL CHECK (char_length(model) BETWEEN 1 AND 200),
    market  text NOT NULL REFERENCES markets (name),
    plan    text NOT NULL DEFAULT '' CHECK (char_length(plan) <= 100),  -- '': every plan without a line of its own
    UNIQUE (model, market, plan)
);

-- Prices are pico-dollars a token. rated = base x multiplier x (1 - discount), rounded once, half to even.
CREATE TABLE price_versions (
    id                      uuid PRIMARY KEY,
    line                    integer NOT NULL REFERENCES price_lines (id),
    category                text NOT NULL CHECK (category ~ '^[a-z0-9_]{1,40}$'),
    base_prompt             bigint NOT NULL CHECK (base_prompt BETWEEN 0 AND 1000000000000),
    base_cached_prompt      bigint NOT NULL CHECK (base_cached_prompt BETWEEN 0 AND 1000000000000),
    base_completion         bigint NOT NULL CHECK (base_completion BETWEEN 0 AND 1000000000000),
    base_embedding          bigint NOT NULL CHECK (base_embedding BETWEEN 0 AND 1000000000000),
    multiplier_numerator    integer NOT NULL,
    multiplier_denominator  integer NOT NULL CHECK (multiplier_denominator > 0),
    discount_numerator      integer NOT NULL CHECK (discount_numerator BETWEEN 0 AND discount_denominator),
    discount_denominator    integer NOT NULL CHECK (discount_denominator > 0),
    rated_prompt            bigint NOT NULL CHECK (rated_prompt BETWEEN 0 AND 1000000000000),
    rated_cached_prompt     bigint NOT NULL CHECK (rated_cached_prompt BETWEEN 0 AND 1000000000000),
    rated_completion        bigint NOT NULL CHECK (rated_completion BETWEEN 0 AND 1000000000000),
    rated_embedding         bigint NOT NULL CHECK (rated_embedding BETWEEN 0 AND 1000000000000),
    effective               tstzrange NOT NULL CHECK (NOT isempty(effective) AND lower_inc(effective) AND NOT upper_inc(effective)),
    request_id              uuid,     -- of the call that made it; a retry finds it again
    created_at              timestamptz NOT NULL DEFAULT now(),
    EXCLUDE USING gist (int4range(line, line, '[]') WITH &&, effective WITH &&)
);
CREATE INDEX price_versions_by_line ON price_versions (line, id);
CREATE UNIQUE INDEX price_versions_by_request ON price_versions (request_id, line) WHERE request_id IS NOT NULL;

-- A version never changes, but that an open one is given its end, once, in time to come. A minute of grace covers the way
-- from the service's clock to this one.
CREATE FUNCTION keep_price_versions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND upper_inf(OLD.effective) AND NOT upper_inf(NEW.effective)
        AND lower(NEW.effective) = lower(OLD.effective) AND upper(NEW.effective) >= now() - interval '1 minute'
        AND to_jsonb(NEW) - 'effective' = to_jsonb(OLD) - 'effective' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'price versions are immutable: % is refused; make a new version', TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON price_versions FOR EACH ROW EXECUTE FUNCTION keep_price_versions();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON price_versions FOR EACH STATEMENT EXECUTE FUNCTION keep_price_versions();

-- The first price table: dollars a million tokens x 10^6 = pico-dollars a token.
INSERT INTO price_lines (model, market)
    SELECT model, name FROM unnest(ARRAY['gemma-7b', 'llama-3-70b', 'llama-3-8b', 'qwen-2.5']) AS model, markets
    ORDER BY model, name;
INSERT INTO price_versions (
    id, line, category, base_prompt, base_cached_prompt, base_completion, base_embedding,
    multiplier_numerator, multiplier_denominator, discount_numerator, discount_denominator,
    rated_prompt, rated_cached_prompt, rated_completion, rated_embedding, effective)
SELECT
    ('01900000-0000-7000-8000-' || lpad(to_hex(line.id), 12, '0'))::uuid, line.id, seed.category,
    seed.price, seed.price, seed.price, seed.price, market.numerator, market.denominator, 0, 1,
    -- Every product of this table is whole: nothing is rounded.
    seed.price * market.numerator / market.denominator, seed.price * market.numerator / market.denominator,
    seed.price * market.numerator / market.denominator, seed.price * market.numerator / market.denominator,
    tstzrange('2025-01-01 00:00:00+00', NULL)
FROM (VALUES
    ('llama-3-8b', 'llama', 50000::bigint), ('llama-3-70b', 'llama', 600000),
    ('qwen-2.5', 'qwen', 40000), ('gemma-7b', 'gemma', 30000)) AS seed (model, category, price)
JOIN price_lines line USING (model)
JOIN markets market ON market.name = line.market;
