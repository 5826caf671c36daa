-- A promotion or a going back whose answer was lost is asked for again with the same id, and is not carried out twice.
ALTER TABLE model_version_history ADD COLUMN request_id uuid;
CREATE UNIQUE INDEX model_version_history_by_request ON model_version_history (request_id) WHERE request_id IS NOT NULL;
