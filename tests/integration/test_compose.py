"""compose/ for real: orchestrator and dashboard as services, a job as their sibling."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
import requests

from orchestrator.client import Client
from orchestrator.domain import JobStatus
from tests.engine import ROOT
from tests.machine import free_port
from tests.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

BUILD_TIMEOUT_S = 600
UP_TIMEOUT_S = 180


LAUNCH_FROM_INSIDE = """
import asyncio, sys
from pathlib import Path
from uuid import uuid4
from orchestrator.executors.base import LaunchSpec, RunState
from orchestrator.executors.docker import DockerExecutor
from worker_image.contract.jobs import ContainerParams
from worker_image.contract.rundir import RunDir, RunSpec

async def main(home, image):
    job_id, argv = uuid4(), ["echo", "from a sibling"]
    run_dir = RunDir.of(home, job_id, 1)
    run_dir.create(RunSpec(job_id=job_id, attempt=1, name="x", params=ContainerParams(image=image, command=argv)))
    executor = DockerExecutor(home)
    handle = await executor.launch(LaunchSpec(job_id, 1, f"saeforge-{job_id}-1", image, tuple(argv), run_dir.path))
    while (await executor.inspect(handle)).state is not RunState.EXITED:
        await asyncio.sleep(0.02)
    await executor.remove(handle)
    print(run_dir.log.read_text(), end="")

asyncio.run(asyncio.wait_for(main(Path("/data/home"), sys.argv[1]), 30))
"""


@dataclass
class Services:
    """The services of compose/, up and healthy."""

    project: str
    home: Path
    memory: Path
    image: str
    client: Client
    dashboard_url: str
    engine: docker.DockerClient

    def container(self, service: str) -> docker.models.containers.Container:
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        (found,) = self.engine.containers.list(filters={"label": labels})
        return found


def compose_command() -> list[str]:
    """Compose as the client's plugin, or as the older program; in CI there has to be one."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    missing = "neither 'docker compose' nor docker-compose is installed"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="module")
def services(engine_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    compose = compose_command()
    image = "saeforge-service:compose-test"
    home = tmp_path_factory.mktemp("compose") / "home"
    port, dashboard_port = free_port(), free_port()
    project = f"saeforge-test-{port}"
    memory = Path(f"/dev/shm/{project}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SAEFORGE_")} | {
        "COMPOSE_PROJECT_NAME": project,
        "SAEFORGE_SERVICE_IMAGE": image,
        "SAEFORGE_HOME": str(home),
        "SAEFORGE_SECRETS_TMPFS": str(memory),
        "SAEFORGE_PORT": str(port),
        "SAEFORGE_DASHBOARD_PORT": str(dashboard_port),
        "SAEFORGE_POLL_S": "0.05",
    }

    def run(*argv: str, timeout_s: int) -> None:
        done = subprocess.run(
            argv, cwd=ROOT / "compose", env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, f"{' '.join(argv)}:\n{done.stdout}\n{done.stderr}"

    run(str(ROOT / "scripts" / "service-image"), timeout_s=BUILD_TIMEOUT_S)
    engine = docker.from_env()
    try:
        run(*compose, "up", "-d", "--no-build", timeout_s=UP_TIMEOUT_S)
        key = (home / "api-key").read_text().strip()
        with Client(f"http://127.0.0.1:{port}", key, timeout_s=30) as client:
            yield Services(project, home, memory, image, client, f"http://127.0.0.1:{dashboard_port}", engine)
    finally:
        run(*compose, "down", "--volumes", "--timeout", "5", timeout_s=UP_TIMEOUT_S)
        for left in engine.containers.list(all=True, filters={"label": "saeforge.job"}):
            if any(mount["Source"].startswith(str(home)) for mount in left.attrs["Mounts"]):
                left.remove(force=True)
        engine.close()
        shutil.rmtree(memory, ignore_errors=True)


def test_a_job_runs_as_a_sibling_container_and_its_log_is_complete(services: Services, engine_image: str) -> None:
    script = 'for i in 1 2 3; do echo "line $i"; done; echo kept > "$SAEFORGE_RUN_DIR/artifacts/kept.txt"'
    job = services.client.submit("container", {"image": engine_image, "command": ["sh", "-c", script]})
    until(
        lambda: services.client.job(job.id).status in {JobStatus.COMPLETED, JobStatus.FAILED},
        "the job has ended",
        lambda: services.client.job(job.id),
        timeout_s=60,
    )
    ended = services.client.job(job.id)
    assert ended.status is JobStatus.COMPLETED, ended.failure
    assert services.client.logs(job.id).data == "line 1\nline 2\nline 3\n"
    assert ended.result_path is not None
    assert (Path(ended.result_path) / "kept.txt").read_text() == "kept\n", "the path is true on the host as well"


def test_a_job_beside_the_services_finds_its_secret(services: Services, engine_image: str) -> None:
    services.client.set_secret("TOKEN", "the value")
    command = ["sh", "-c", 'test "$(cat "$SAEFORGE_SECRETS_DIR/TOKEN")" = "the value" && echo found']
    job = services.client.submit("container", {"image": engine_image, "command": command}, secrets=["TOKEN"])
    ended = services.client.wait(job.id, timeout_s=60)
    assert ended.status is JobStatus.COMPLETED, ended.failure
    assert services.client.logs(job.id).data == "found\n"
    until(lambda: not list(services.memory.glob("*/saeforge-*")), "it is taken back")


def test_without_the_key_nobody_gets_in(services: Services) -> None:
    assert requests.get(f"{services.client.url}/api/jobs", timeout=10).status_code == 401


def test_the_dashboard_answers_and_can_read_the_key(services: Services) -> None:
    until(
        lambda: services.container("dashboard").attrs["State"]["Health"]["Status"] == "healthy",
        "the dashboard is healthy",
        timeout_s=90,
    )
    assert requests.get(f"{services.dashboard_url}/_stcore/health", timeout=10).text == "ok"
    asked = services.container("dashboard").exec_run(
        ["python", "-c", "from orchestrator.client import Client; print(Client().system_status().executor)"]
    )
    assert asked.output.decode().strip() == "docker"


@pytest.mark.parametrize("service", ["orchestrator", "dashboard"])
def test_the_services_themselves_are_sealed(services: Services, service: str) -> None:
    container = services.container(service)
    assert container.attrs["HostConfig"]["ReadonlyRootfs"]
    bindings = container.attrs["HostConfig"]["PortBindings"]
    assert {binding["HostIp"] for each in bindings.values() for binding in each} == {"127.0.0.1"}
    assert ("docker.sock" in str(container.attrs["Mounts"])) == (service == "orchestrator")


def test_an_orchestrator_in_a_container_finds_its_home_on_the_host_by_itself(
    services: Services, engine_image: str, tmp_path: Path
) -> None:
    mounts = {
        str(tmp_path): {"bind": "/data", "mode": "rw"},
        "/var/run/docker.sock": {"bind": "/var/run/docker.sock", "mode": "rw"},
    }
    said = services.engine.containers.run(
        services.image, ["python", "-c", LAUNCH_FROM_INSIDE, engine_image], volumes=mounts, remove=True
    )
    assert said == b"from a sibling\n"
