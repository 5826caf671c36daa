-- What nodes counted for requests that nobody pays: they failed there, and no gateway reported them. Kept so that every token
-- a node counted can be accounted for.
CREATE TABLE unpaid_witnesses (
    request_id            uuid NOT NULL,
    node_id               text NOT NULL,
    outcome               smallint NOT NULL,
    prompt_tokens         integer NOT NULL,
    cached_prompt_tokens  integer NOT NULL,
    completion_tokens     integer NOT NULL,
    record_time           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (request_id, node_id)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON unpaid_witnesses
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
