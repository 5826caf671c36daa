-- What was said while a job was worked on: its last lines.
CREATE TABLE job_log_lines (
    job_id  uuid NOT NULL REFERENCES jobs (id),
    seq     bigint GENERATED ALWAYS AS IDENTITY,
    at      timestamptz NOT NULL,
    source  text NOT NULL CHECK (source IN ('orchestrator', 'agent', 'engine')),
    text    text NOT NULL,
    PRIMARY KEY (job_id, seq)
);

-- How far the log of the job's node was read. Whoever moves it keeps the lines, in the same transaction.
ALTER TABLE jobs ADD COLUMN log_cursor text NOT NULL DEFAULT '';
