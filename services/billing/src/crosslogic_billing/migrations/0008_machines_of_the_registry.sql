-- What nodes say of their machines is read from the registry. What an operator sets for a node takes the place of that.
ALTER TABLE machine_costs ADD COLUMN by_hand boolean NOT NULL DEFAULT true;
ALTER TABLE machine_costs ALTER COLUMN by_hand DROP DEFAULT;

-- Until when the registry has been read. Moved in the transaction that keeps what was read.
CREATE TABLE machine_cursor (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    read_at  timestamptz
);
INSERT INTO machine_cursor VALUES (true, NULL);
