"""The schema `fleet`."""
