"""What a simulated engine is told at its start."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Phase = Literal["step", "random"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimConfig:
    """Where it listens, what it serves and how fast."""

    model: str
    port: int | None = None
    uds: str | None = None
    host: str = "127.0.0.1"
    context_tokens: int = 8192
    prefill_tokens_per_s: float = 20_000.0
    """Prompt tokens per second, one prompt after the other; 0 is at once."""
    step_s: float = 0.01
    """Time between two tokens of a stream; 0 is as fast as it goes."""
    max_sequences: int = 256
    """Sequences that run at once; more wait."""
    phase: Phase = "step"
    """`step`: one loop gives each running stream its token at the same moment, as vLLM does. `random`: a timer each."""
    tokens_per_chunk: int = 1
    chunks_per_step: int = 1
    """Over 1, a stream gets that many chunks in one write: a burst."""
    end_one_in: int = 0
    """One token in this many ends the text; 0: answers always run to max_tokens."""
    embedding_size: int = 16
    seed: int = 0
    start_delay_s: float = 0.0
    """How long after its start it accepts connections."""
    faults: str = "{}"
    """Faults from the start, as JSON (see faults.py)."""


def parse_config(argv: Sequence[str] | None = None) -> SimConfig:
    """The settings of a command line; exits with a message when it makes no sense."""
    parser = argparse.ArgumentParser(prog="crosslogic_sim_engine", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="0 takes a free one and prints it")
    where.add_argument("--uds", help="path of a Unix socket")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--model", required=True, help="the served model's name")
    parser.add_argument("--context-limit", type=int, default=8192, metavar="TOKENS")
    parser.add_argument("--prefill-tps", type=float, default=20_000.0, help="prompt tokens/s; 0: at once")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--decode-tps", type=float, default=100.0, help="tokens/s of each stream; 0: as fast as it goes")
    pace.add_argument("--step-ms", type=float, help="the same, as the time between two tokens")
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--phase", choices=("step", "random"), default="step")
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    parser.add_argument("--chunks-per-step", type=int, default=1)
    parser.add_argument("--end-one-in", type=int, default=0, help="one token in this many ends the text; 0: never")
    parser.add_argument("--embedding-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="0 to 2^31: other seeds say other things")
    parser.add_argument("--start-delay-s", type=float, default=0.0)
    parser.add_argument("--faults", default="{}", help="JSON object, as POST /sim/faults takes it")
    args = parser.parse_args(argv)
    step_s = 1 / args.decode_tps if args.decode_tps > 0 else 0.0
    if args.step_ms is not None:
        step_s = args.step_ms / 1000
    return SimConfig(
        model=args.model,
        port=args.port,
        uds=args.uds,
        host=args.host,
        context_tokens=args.context_limit,
        prefill_tokens_per_s=args.prefill_tps,
        step_s=step_s,
        max_sequences=args.max_num_seqs,
        phase=args.phase,
        tokens_per_chunk=args.tokens_per_chunk,
        chunks_per_step=args.chunks_per_step,
        end_one_in=args.end_one_in,
        embedding_size=args.embedding_size,
        seed=args.seed,
        start_delay_s=args.start_delay_s,
        faults=args.faults,
    )
