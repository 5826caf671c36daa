"""The process: `python -m crosslogic_skypilot_worker`, in an environment that has SkyPilot."""

from importlib.metadata import version

from crosslogic_skypilot_worker.accounts import kept_from_machines
from crosslogic_skypilot_worker.clusters import Clusters
from crosslogic_skypilot_worker.tasks import prepare
from crosslogic_skypilot_worker.wire import Line


def main() -> None:
    """Serves until its input ends."""
    line = Line.take_stdout()
    clusters = Clusters()
    with kept_from_machines():
        line.serve(
            {
                "prepare": prepare,
                "launch": clusters.launch,
                "find": clusters.find,
                "delete": clusters.delete,
                "list": clusters.listed,
            },
            skypilot=version("skypilot"),
        )


if __name__ == "__main__":
    main()
