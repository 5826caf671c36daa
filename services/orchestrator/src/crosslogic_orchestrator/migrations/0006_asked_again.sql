-- A launch that its provider forgot, as when it was restarted, is asked for again: how often, and when last.
ALTER TABLE jobs
    ADD COLUMN asked_again    integer NOT NULL DEFAULT 0,
    ADD COLUMN asked_again_at timestamptz;
