-- Of a machine whose end does not come about people are told once, whichever replica notices.
CREATE UNIQUE INDEX events_not_ended ON events (instance_id) WHERE kind = 'machine_not_ended';
