"""The inference engine of a development machine: its virtual environment, its tiny model, its command line."""
