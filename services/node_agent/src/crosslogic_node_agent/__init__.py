"""The agent on every GPU machine: supervises the engine, reports it, and relays inference to it."""
