-- A token may say which node joins by it: the orchestrator names the machine before there is one.
ALTER TABLE join_tokens ADD COLUMN node_id uuid;
