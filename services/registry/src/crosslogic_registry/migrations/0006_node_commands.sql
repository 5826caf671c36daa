-- Commands for nodes whose streams end at another replica, until whoever asked has its answer.
CREATE TABLE node_commands (
    id            uuid PRIMARY KEY,
    node_id       uuid NOT NULL,
    command       bytea NOT NULL,
    timeout_s     integer NOT NULL,
    taken_by      uuid,
    outcome       bytea,
    error_code    text,
    error_text    text NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX node_commands_by_age ON node_commands (created_at);
