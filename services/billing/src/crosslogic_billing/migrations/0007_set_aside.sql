-- An event that failed while others of its lane went through waits by itself, and they go past it.
ALTER TABLE meter_events ADD COLUMN due_at timestamptz;   -- NULL: whenever its lane is due
