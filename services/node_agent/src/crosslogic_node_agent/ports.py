"""What the relay needs from the rest of the agent."""

from typing import Protocol

from crosslogic_node_agent.domain import Ending, MachineState, TokenCount


class Witnesses(Protocol):
    """Keeps what a call used until the accountant has it."""

    def record(self, sealed_context: bytes, count: TokenCount, ending: Ending, duration_us: int) -> None:
        """A call ended. Never blocks and never raises."""


class ModelNames(Protocol):
    """Which models the engine serves."""

    def engine_model(self, model: str) -> str | None:
        """The engine's own name of a model of the catalogue; None: it is not served here."""


class Machine(Protocol):
    """The machine under the engine."""

    def look(self) -> MachineState:
        """How it is now. May take a while; is called in a thread."""
