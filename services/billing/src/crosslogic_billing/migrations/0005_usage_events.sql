-- How far the usage ledger has been published to Kafka.
INSERT INTO ledger_cursor VALUES ('kafka', 0);
