"""Any interleaving of reserve, settle, expire and crash: no counter is ever negative, and none stays up at the end."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from crosslogic_gateway.admission.admission import BY_SHARE
from crosslogic_gateway.admission.limits import LEASE_MS
from crosslogic_gateway.admission.pipe import ADMIT, REAPED, SETTLE
from crosslogic_gateway.domain import HardBudget, Limits
from tests.fakes.admission_script import AdmissionScript, make_spec, principal

WORKERS = ("w0", "w1", "w2")
BUDGET = "org:org-1:month"
LIMITS = Limits(
    requests_per_second=50,
    requests_per_minute=200,
    tokens_per_second=900,
    tokens_per_minute=2_000,
    tokens_per_hour=9_000,
    tokens_per_day=30_000,
    concurrency=6,
)
SPECS = [
    make_spec(
        principal(
            key=LIMITS,
            environment=Limits(tokens_per_minute=3_000, concurrency=9),
            org=Limits(requests_per_minute=300, tokens_per_second=1_500, tokens_per_day=50_000),
            budgets=(HardBudget(BUDGET, "org", "month", 4_000_000),),
            key_id=f"key-{number}",
        )
    )
    for number in range(2)
]
TOKENS = st.integers(0, 1200)


class Interleavings(RuleBasedStateMachine):
    """Three workers with two keys of one organisation; any of them may die, or only sleep, at any moment."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.script = AdmissionScript(self.url)
        self.months: set[str] = set()
        self._seed()
        self.number = 0
        self.live: dict[str, dict[str, int]] = {worker: {} for worker in WORKERS}
        self.forgotten: dict[str, str] = {}
        """Tickets of workers that died, and whose they were."""

    def _seed(self) -> None:
        month = "2026-09" if self.script.now_us < 1_790_812_800_000_000 else "2026-10"
        self.script.seed({f"{BUDGET}:{month}": 0})

    @rule(
        worker=st.sampled_from(WORKERS),
        key=st.integers(0, 1),
        prompt=TOKENS,
        completion=TOKENS,
        forced=st.sampled_from((False, True, BY_SHARE)),
    )
    def reserve(self, worker: str, key: int, prompt: int, completion: int, forced: bool | int) -> None:
        self.number += 1
        ticket = f"t{self.number}"
        operation = (ADMIT, ticket, 0, prompt, completion, (prompt + completion) * 3, forced)
        result = self.script.run(worker, [SPECS[key]], [operation])[0]
        if result[0] == 1:
            self.live[worker][ticket] = prompt + completion

    @rule(worker=st.sampled_from(WORKERS), key=st.integers(0, 1), count=st.integers(2, 8), tokens=TOKENS)
    def reserve_together(self, worker: str, key: int, count: int, tokens: int) -> None:
        tickets = [f"t{self.number + at}" for at in range(1, count + 1)]
        self.number += count
        operations = [(ADMIT, ticket, 0, tokens, 5, tokens * 3, False) for ticket in tickets]
        for ticket, result in zip(tickets, self.script.run(worker, [SPECS[key]], operations), strict=True):
            if result[0] == 1:
                self.live[worker][ticket] = tokens + 5

    @precondition(lambda self: any(self.live.values()))
    @rule(data=st.data(), prompt=TOKENS, completion=TOKENS, again=st.booleans())
    def settle(self, data: st.DataObject, prompt: int, completion: int, again: bool) -> None:
        worker = data.draw(st.sampled_from([worker for worker in WORKERS if self.live[worker]]))
        ticket = data.draw(st.sampled_from(sorted(self.live[worker])))
        del self.live[worker][ticket]
        settled = (SETTLE, ticket, prompt, completion, (prompt + completion) * 3)
        self.script.run(worker, (), [settled, settled] if again else [settled])

    @rule(worker=st.sampled_from(WORKERS))
    def crash(self, worker: str) -> None:
        self.forgotten.update(dict.fromkeys(self.live[worker], worker))
        self.live[worker] = {}

    @rule(seconds=st.sampled_from((0.01, 0.4, 1.0, 3.0, 9.0, 40.0, 61.0, 3_700.0)))
    def time_passes(self, seconds: float) -> None:
        self.script.advance(seconds)

    @rule(worker=st.sampled_from(WORKERS))
    def renew(self, worker: str) -> None:
        self.script.renew(worker)

    @invariant()
    def no_counter_is_negative_and_every_window_adds_up(self) -> None:
        assert self.script.window_problem() == ""
        assert all(value >= 0 for value in self.script.totals().values())

    def teardown(self) -> None:
        """Everything under way is settled, the dead are found, the ledger settles them, and a day passes."""
        for worker, tickets in self.live.items():
            for ticket in tickets:
                self.script.settle(ticket, worker=worker)
        self.script.advance(LEASE_MS / 1000 + 1)
        for _ in WORKERS:
            self.script.renew("last")
        for ticket, _ in self.script.run("last", (), [(REAPED, 0, 10_000)])[0]:
            self.script.settle(ticket, worker="last")
        left = self.script.totals()
        assert not any(name.startswith(("concurrency:", "tickets:", "held:")) for name in left), left
        self.script.advance(86_400 + 3_600)
        for spec in SPECS:
            # A look at each counter slides its window.
            self.script.run("last", [spec], [(ADMIT, "look", 0, 10**9, 0, 0, False)])
        left = {name: value for name, value in self.script.totals().items() if not name.startswith("budget:")}
        assert left == {}
        self.script.redis.close()


def test_no_interleaving_leaves_a_counter_negative_or_up(redis_url: str) -> None:
    machine = type("OnThisRedis", (Interleavings,), {"url": redis_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
