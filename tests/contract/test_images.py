"""Dockerfiles: what each must be, held against the code, since an engine that builds them may be missing here."""

import re
import subprocess
from fnmatch import fnmatch

import pytest

from crosslogic_common import health_probe
from crosslogic_common.process import PROCESS_ENVIRONMENT
from tests.fakes.service_venvs import ROOT, members, own_needed

DOCKERFILES = {
    file.parent.name: file for file in sorted([*ROOT.glob("services/*/Dockerfile"), ROOT / "libs/backup/Dockerfile"])
}


def instructions(name: str) -> list[tuple[str, str]]:
    """Each instruction with its arguments, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", DOCKERFILES[name].read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def final_stage(name: str) -> list[tuple[str, str]]:
    found = instructions(name)
    last = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    return found[last:]


def package(name: str) -> str:
    return f"crosslogic-{name.replace('_', '-')}"


def test_every_service_has_an_image() -> None:
    assert set(DOCKERFILES) == {folder.name for folder in ROOT.glob("services/*") if folder.is_dir()} | {"backup"}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_is_of_the_lock_and_of_its_own_packages_only(name: str) -> None:
    (install,) = [rest for word, rest in instructions(name) if word == "RUN" and "uv export" in rest]
    assert f"--package {package(name)} " in install
    assert {"--frozen", "--no-dev", "--no-emit-workspace", "--require-hashes"} <= set(install.split())
    wanted = {f"./{members()[own].relative_to(ROOT)}" for own in own_needed(package(name))}
    assert set(re.findall(r" (\./\S+)", install)) == wanted


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_runs_as_nobody_in_particular_and_without_a_shell(name: str) -> None:
    stage = final_stage(name)
    assert stage[0][0] == "FROM"
    assert ("USER", "10001") in stage
    (entry,) = [rest for word, rest in stage if word == "ENTRYPOINT"]
    assert entry == f'["python", "-m", "crosslogic_{name}"]'
    after_user = stage[stage.index(("USER", "10001")) :]
    assert {word for word, _ in after_user} <= {"USER", "ENV", "HEALTHCHECK", "ENTRYPOINT"}, "root's files are changed"
    run = [rest for word, rest in stage if word == "RUN"]
    assert not any("pip install" in rest or "gcc" in rest for rest in run), "tools of the build are in the image"
    assert all("rm -rf /var/lib/apt/lists/*" in rest for rest in run if "apt-get" in rest)
    assert ("COPY", "--from=build /opt/crosslogic /opt/crosslogic") in stage


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_names_its_bases_itself_and_says_when_it_is_well(name: str) -> None:
    found = instructions(name)
    stages: set[str] = set()
    for word, rest in found:
        if word == "FROM":
            base, _, stage = rest.partition(" AS ")
            assert base in stages or (":" in base and not base.endswith(":latest")), base
            stages.add(stage)
    labels = " ".join(rest for word, rest in final_stage(name) if word == "LABEL")
    assert f'org.opencontainers.image.title="crosslogic/{name}"' in labels
    for label in ("description", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    (check,) = [rest for word, rest in final_stage(name) if word == "HEALTHCHECK"]
    assert check == "NONE" if name == "backup" else check.endswith(f'CMD ["python", "-m", "{health_probe.__name__}"]')
    environment = " ".join(rest for word, rest in final_stage(name) if word == "ENV")
    assert {"PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"} <= set(environment.split())
    needed = {f"{variable}={value}" for variable, value in PROCESS_ENVIRONMENT.items()}
    assert name == "backup" or needed <= set(environment.split())


def _is_sent(path: str) -> bool:
    """Whether a builder gets a file: the last line of .dockerignore that fits it or a folder above it."""
    parts = path.split("/")
    above = ["/".join(parts[: number + 1]) for number in range(len(parts))]
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and not line.startswith("#") and any(_fits(each, pattern, anywhere="**/" in line) for each in above):
            sent = line.startswith("!")
    return sent


def _fits(path: str, pattern: str, *, anywhere: bool) -> bool:
    if anywhere:
        return path.rpartition("/")[2] == pattern
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def test_builder_is_sent_what_is_copied_and_no_more() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sent = {name for name in listed.split("\0") if name and _is_sent(name)}
    of_packages = re.compile(
        r"(libs|services)/[a-z_]+/(src/.+|pyproject\.toml|README\.md|install\.sh|skypilot_worker/.+)"
    )
    assert {name for name in sent if not of_packages.fullmatch(name)} == {"pyproject.toml", "uv.lock"}
    for name in (".run/tls/ca.key", ".env", "x/secret", "libs/common/secret", "services/gateway/tls/key.pem"):
        assert not _is_sent(name), name
    assert not _is_sent("libs/common/src/crosslogic_common/__pycache__/x.pyc")
    for name in DOCKERFILES:
        copied = [rest.split()[:-1] for word, rest in instructions(name) if word == "COPY" and "--from" not in rest]
        for source in (each for sources in copied for each in sources):
            # A folder on the way to what is sent must be let in itself: Buildah looks into no other.
            assert _is_sent(source), f"{name}: {source}"
            assert any(each == source or each.startswith(f"{source}/") for each in sent), f"{name}: {source}"


@pytest.mark.parametrize(
    ("environ", "asked"),
    [
        ({}, None),
        ({"CROSSLOGIC_METRICS_LISTEN": ""}, None),
        ({"CROSSLOGIC_METRICS_LISTEN": "0.0.0.0:9100"}, ("127.0.0.1", 9100, "/live")),
        ({"CROSSLOGIC_METRICS_LISTEN": "[::]:9100"}, ("127.0.0.1", 9100, "/live")),
        ({"CROSSLOGIC_METRICS_LISTEN": "10.0.0.7:9100"}, ("10.0.0.7", 9100, "/live")),
        (
            {"CROSSLOGIC_HTTP_LISTEN": "0.0.0.0:8080", "CROSSLOGIC_METRICS_LISTEN": "0.0.0.0:9100"},
            ("127.0.0.1", 8080, "/health"),
        ),
    ],
)
def test_health_is_asked_where_the_process_serves_it(
    environ: dict[str, str], asked: tuple[str, int, str] | None
) -> None:
    assert health_probe.target(environ) == asked


def test_a_process_that_does_not_answer_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSLOGIC_HTTP_LISTEN", "127.0.0.1:1")
    with pytest.raises(SystemExit, match=r"127\.0\.0\.1:1/health"):
        health_probe.main()
