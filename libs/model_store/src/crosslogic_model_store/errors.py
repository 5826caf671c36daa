"""How the model store fails: in words for the operator."""


class ModelStoreError(Exception):
    """What was asked for cannot be done; the message is for people and holds no secret."""
