"""The command line of a trial."""

import argparse
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar

Trial = TypeVar("Trial")


def trial_and_seed(usual: Trial, *, prog: str, about: str | None) -> tuple[Trial, int]:
    """The trial that was asked for: each field of the `usual` one is an option. And the seed of its dice."""
    assert is_dataclass(usual)
    assert not isinstance(usual, type)
    parser = argparse.ArgumentParser(prog=prog, description=about)
    for name, default in asdict(usual).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--seed", type=int, default=0)
    options: dict[str, Any] = vars(parser.parse_args())
    seed = options.pop("seed")
    return type(usual)(**options), seed
