"""Attempts as Docker containers.

Nothing here waits inside the engine; ends are seen by looking again.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final
from uuid import UUID

import docker
import docker.errors
import docker.utils

from orchestrator import faults
from orchestrator.errors import EngineUnavailable, ExecutorError, ImageMissing, LaunchFailed
from orchestrator.executors.base import LaunchSpec, Observation, Owned, RunState, Told, Usage, untold
from orchestrator.executors.container_request import ATTEMPT_LABEL, HOME_LABEL, JOB_LABEL, container_request
from orchestrator.executors.container_usage import container_usage
from orchestrator.executors.engine import CALL_TIMEOUT_S, CHECK_TIMEOUT_S, Engine, unavailable, words_of
from orchestrator.executors.home_id import home_id
from orchestrator.executors.host_paths import HostPaths, NotOnHost, own_container_id
from orchestrator.executors.pulling import Pull
from worker_image.contract.launch import UNWRITABLE_EXIT_CODE

logger = logging.getLogger(__name__)

REMOVAL_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.05
SIGKILLED: Final = 137
UNPRIVILEGED: Final = "10001:10001"
"""uid:gid of job containers when the orchestrator itself is root."""

STATES: Final[dict[str, RunState]] = {
    "created": RunState.CREATED,
    "running": RunState.RUNNING,
    "paused": RunState.RUNNING,
    "restarting": RunState.RUNNING,
    "removing": RunState.EXITED,
    "exited": RunState.EXITED,
    "dead": RunState.EXITED,
    "configured": RunState.CREATED,
    "initialized": RunState.CREATED,
    "stopping": RunState.RUNNING,
    "stopped": RunState.EXITED,
}
"""The engine's states -> ours: the one table. The last four are podman's."""

_ADVICE: Final[tuple[tuple[str, str], ...]] = (
    (
        "could not select device driver",
        "install the NVIDIA container toolkit and restart the engine, or ask for no GPU (resources.gpus = 0)",
    ),
    ("nvidia-container-cli", "check that nvidia-smi works on this machine and that the GPU still exists"),
    ("bind source path does not exist", "check that the model, dataset or checkpoint still exists at this path"),
    ("no such file or directory", "the image must hold /bin/sh and the program to run"),
    ("Minimum memory limit", "raise resources.memory_mb"),
    ("Range of CPUs", "lower resources.cpus to what the machine has"),
)
"""A piece of the engine's refusal -> what to do about it."""

_GOING_DOWN: Final = ("containerd.sock", "context canceled", "transport is closing")
"""Pieces of what an engine says while it shuts down: no verdict on the request."""

_EVENTS: Final = ["start", "die", "destroy"]
"""What the engine tells of, among all it has to tell: the ends and beginnings."""

_BEFORE_THE_LOG: Final = frozenset({UNWRITABLE_EXIT_CODE, 127})
"""Exit codes that may mean that the run's log was never opened; then only the engine's own log tells why."""
_FIRST_WORDS: Final = (("tini", "no shell in the image: "), ("saeforge:", ""))
"""Who speaks there (the engine's init, our launcher), and what it means."""

_CONTAINER_ID: Final = re.compile(r"[0-9a-f]{64}")
_FACTS: Final = {
    "name": "Name",
    "storage driver": "Driver",
    "control groups": "CgroupVersion",
    "root directory": "DockerRootDir",
    "default runtime": "DefaultRuntime",
    "containers running": "ContainersRunning",
    "operating system": "OperatingSystem",
}
"""What a person calls it -> the engine's name for it."""

_MOUNTINFO: Final = Path("/proc/self/mountinfo")


def container_user(setting: str, uid: int, gid: int) -> str:
    """The uid:gid of job containers: the setting, else the orchestrator's own, else an unprivileged one for root."""
    if setting:
        return setting
    return f"{uid}:{gid}" if uid != 0 else UNPRIVILEGED


def run_state(status: str) -> RunState:
    """What an engine's state of a container means.

    One that we do not know counts as running: that is looked at again, while any other would be a verdict on the job.
    """
    return STATES.get(status, RunState.RUNNING)


def observation(state: dict[str, Any]) -> Observation:
    """What the engine's ``State`` of a container means."""
    seen = run_state(state["Status"])
    exited = seen is RunState.EXITED
    return Observation(
        state=seen,
        exit_code=state["ExitCode"] if exited else None,
        oom_killed=exited and bool(state.get("OOMKilled")),
        error=state.get("Error") or None,
    )


class DockerExecutor:
    """Runs every attempt in a hardened container of its own."""

    name = "docker"

    def __init__(
        self,
        home: Path,
        *,
        worker_image: str = "",
        host_home: str = "",
        user: str = "",
        shared: tuple[Path, ...] = (),
        pull_timeout_s: float = 3600.0,
    ) -> None:
        """``shared`` is what the engine sees at the same paths as we do, when ``host_home`` says where home is."""
        self._home = home
        self._pull_timeout_s = pull_timeout_s
        self._home_id: str | None = None
        self._worker_image = worker_image
        self._user = container_user(user, os.getuid(), os.getgid())
        same = tuple((path, PurePosixPath(path)) for path in shared)
        self._paths = HostPaths(((home, PurePosixPath(host_home)), *same)) if host_home else None
        self._engine = Engine()
        self._present: set[str] = set()
        """Images that were there when last looked for. A launch that finds one gone takes it out."""

    async def check(self) -> str:
        """Say which engine answers."""
        return await self._engine.version()

    async def prepare(self, image: str, told: Told = untold) -> None:
        """Make ``image`` available, pulling it if need be.

        Raises:
            ImageMissing: it is neither here nor to be had.
        """

        if image in self._present:
            return
        if await self._engine.call(partial(_has_image, image=image)):
            self._present.add(image)
            return
        if image == self._worker_image and "/" not in image:
            raise _image_missing(image, "it is built on this machine and has not been", "build it with: make image")
        refused = partial(_pull_refused, image)
        try:
            async with asyncio.timeout(self._pull_timeout_s):
                await self._engine.call(partial(_pull, image=image, told=told), refused)
        except TimeoutError:
            raise _image_missing(
                image,
                f"pulling it took more than {self._pull_timeout_s:g} s",
                f"pull it by hand (docker pull {image}), or raise SAEFORGE_PULL_TIMEOUT_S",
            ) from None

    async def launch(self, spec: LaunchSpec) -> str:
        """Create and start the attempt's container, or adopt the one of its name; return the container's id."""
        # Created first, and looked for only when that fails: mostly there is none, and every call is milliseconds.
        # A name is taken some milliseconds before its container can be seen, so whoever lost the race tries again.
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while (handle := await self._create_unless_there(spec)) is None:
            if (found := await self._engine.call(partial(_find, container=spec.name))) is not None:
                return await self._adopt(found, spec)
            if time.monotonic() >= deadline:
                raise LaunchFailed(f"the name {spec.name} is taken by a container that never appears")
            await asyncio.sleep(POLL_S)
        await self._start(handle)
        return handle

    async def _adopt(self, container: dict[str, Any], spec: LaunchSpec) -> str:
        """Take the container that has the attempt's name for the attempt's, and start it if nobody has."""
        if (container["Config"]["Labels"] or {}).get(HOME_LABEL) != await self._own_home_id():
            raise LaunchFailed(
                f"a container named {spec.name} exists and belongs to another saeforge home",
                suggestion=f"remove it if nobody needs it: docker rm {spec.name}",
            )
        handle: str = container["Id"]
        if run_state(container["State"]["Status"]) is RunState.CREATED:
            await self._start(handle)
        return handle

    async def _start(self, handle: str) -> None:
        """Start what was created; what cannot be started is removed."""
        faults.reach("container_created")
        try:
            await self._engine.call(lambda client: client.start(handle), _launch_refused)
        except LaunchFailed:
            await self._engine.call(partial(_remove, handle=handle, force=False))
            raise

    async def inspect(self, handle: str) -> Observation:
        """Look at the container now."""

        def look(client: docker.APIClient) -> Observation:
            container = _find(client, handle)
            if container is None:
                return Observation(RunState.MISSING)
            seen = observation(container["State"])
            if seen.exit_code in _BEFORE_THE_LOG and seen.error is None:
                words = client.logs(handle, stdout=False, stderr=True, tail=1).decode(errors="replace").strip()
                for sign, meaning in _FIRST_WORDS:
                    if sign in words:
                        return replace(seen, error=meaning + words)
            return seen

        seen = await self._engine.call(look)
        if seen.exit_code == SIGKILLED and not seen.oom_killed:
            return replace(seen, oom_killed=await self._told_of_memory(handle))
        return seen

    async def _told_of_memory(self, handle: str) -> bool:
        """Whether the engine told of want of memory in the container.

        Its own flag is not set when it notices the kernel's deed only after it has recorded the end.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return await self._engine.call(partial(_ran_out_of_memory, handle=handle))
        return False

    async def states(self, handles: Collection[str]) -> dict[str, RunState]:
        """The state of each of these containers, by one list of all that are labelled with this home's id."""
        found = {item["Id"]: run_state(item["State"]) for item in await self._list()}
        return {handle: found.get(handle, RunState.MISSING) for handle in handles}

    async def changes(self) -> AsyncGenerator[None]:
        """Listens to the engine's own events."""
        label = f"{HOME_LABEL}={await self._own_home_id()}"
        async for _ in self._engine.events({"type": ["container"], "label": [label], "event": _EVENTS}):
            yield

    async def stop(self, handle: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after ``grace_s`` seconds; returns when it no longer runs.

        Not the engine's own stop: that would keep a thread for the whole grace, and on a container that was only
        created it reports success while a later start still runs it. Such a one is removed.
        """
        deadline = time.monotonic() + grace_s
        signal = "SIGTERM"
        sent = False
        while True:
            state = (await self.inspect(handle)).state
            if state is RunState.CREATED:
                await self._engine.call(partial(_remove, handle=handle, force=False))
                continue
            if state is not RunState.RUNNING:
                return
            if signal == "SIGTERM" and time.monotonic() >= deadline:
                signal, sent = "SIGKILL", False
            if not sent:
                await self._engine.call(partial(_kill, handle=handle, signal=signal))
                sent = True
            await asyncio.sleep(POLL_S)

    async def remove(self, handle: str) -> None:
        """Remove the container with its anonymous volumes, killing it if need be; returns when it is gone."""
        deadline = time.monotonic() + REMOVAL_TIMEOUT_S
        await self._engine.call(partial(_remove, handle=handle, force=True))
        while (await self.inspect(handle)).state is not RunState.MISSING:
            if time.monotonic() >= deadline:
                raise EngineUnavailable(f"the engine has not finished removing container {handle[:12]}")
            await asyncio.sleep(POLL_S)

    async def list_owned(self) -> list[Owned]:
        """Every container labelled with this home's id, but those whose other labels somebody else made up."""
        return [owned for item in await self._list() if (owned := _owned(item)) is not None]

    async def _list(self) -> list[dict[str, Any]]:
        label = f"{HOME_LABEL}={await self._own_home_id()}"
        found: list[dict[str, Any]] = await self._engine.call(
            lambda client: client.containers(all=True, filters={"label": [label]})
        )
        return found

    async def whose(self, pids: Collection[int], handles: Collection[str]) -> dict[int, str]:
        """By the control group of each process; where that is out of sight, by asking the engine for each container."""
        found = await asyncio.to_thread(_by_control_group, pids, frozenset(handles))
        # Inside a container of its own the orchestrator sees neither the machine's processes nor their numbers.
        if len(found) == len(set(pids)) or await self._own_container() is None:
            return found
        for handle in handles:
            inside = await self._engine.call(partial(_processes, handle=handle))
            found |= dict.fromkeys(inside & set(pids), handle)
        return found

    async def usage(self, handle: str) -> Usage | None:
        """By the engine's own statistics, which it reads off the container's control group."""
        stats = await self._engine.call(partial(_stats, handle=handle))
        return None if stats is None else container_usage(stats)

    async def facts(self) -> dict[str, str]:
        info = await self._engine.call(lambda client: client.info())
        return {name: str(info[key]) for name, key in _FACTS.items() if info.get(key) not in (None, "")}

    async def close(self) -> None:
        """Let go of the connection. Containers go on."""
        self._engine.close()

    async def _create_unless_there(self, spec: LaunchSpec) -> str | None:
        """Create the attempt's container and return its id; None when its name is taken."""
        try:
            return await self._create(spec)
        except (ImageMissing, LaunchFailed):
            # The image or a mount may be gone since an earlier launch: the container that it made is good all the same.
            if await self._engine.call(partial(_find, container=spec.name)) is None:
                raise
            return None

    async def _create(self, spec: LaunchSpec) -> str | None:
        try:
            request = container_request(
                spec, home_id=await self._own_home_id(), user=self._user, paths=await self._host_paths()
            )
        except NotOnHost as hidden:
            raise LaunchFailed(
                f"{hidden} is on no volume that the container engine can see",
                suggestion="mount its directory into the orchestrator's container, or set SAEFORGE_HOST_HOME",
            ) from hidden

        try:
            await asyncio.to_thread(_give, spec.run_dir, self._user)
            for shared in spec.read_write:
                # Not what is in it: users before this one own that, and it is much.
                await asyncio.to_thread(_give_alone, shared, self._user)
            if spec.secrets is not None:
                await asyncio.to_thread(_give, spec.secrets, self._user)
        except OSError as why:
            raise LaunchFailed(f"the run directory cannot be handed to user {self._user}: {why}") from why

        def create(client: docker.APIClient) -> str | None:
            try:
                made: dict[str, str] = client.create_container_from_config(request, spec.name)  # type: ignore[no-untyped-call]
            except docker.errors.APIError as refusal:
                if refusal.status_code == 409:
                    return None
                raise
            return made["Id"]

        def refused(refusal: docker.errors.APIError) -> ExecutorError:
            if isinstance(refusal, docker.errors.ImageNotFound):
                self._present.discard(spec.image)
                return _image_missing(spec.image, "it is not on this machine")
            return _launch_refused(refusal)

        return await self._engine.call(create, refused)

    async def _own_home_id(self) -> str:
        """This home's id, read once: it never changes, and the file may be on a slow disk."""
        if self._home_id is None:
            self._home_id = await asyncio.to_thread(home_id, self._home)
        return self._home_id

    async def _own_container(self) -> str | None:
        """The id of the container that the orchestrator itself runs in, if it does."""
        return await asyncio.to_thread(lambda: own_container_id(_MOUNTINFO.read_text()))

    async def _host_paths(self) -> HostPaths:
        if self._paths is None:
            own_id = await self._own_container()
            own = await self._engine.call(lambda client: _find(client, own_id)) if own_id else None
            self._paths = HostPaths.from_mounts(own["Mounts"]) if own else HostPaths()
        return self._paths


def _owned(item: dict[str, Any]) -> Owned | None:
    try:
        return Owned(UUID(item["Labels"][JOB_LABEL]), int(item["Labels"][ATTEMPT_LABEL]), item["Id"])
    except (KeyError, ValueError):
        logger.warning("container %s has this home's label and belongs to no attempt; leaving it alone", item["Id"])
        return None


def _find(client: docker.APIClient, container: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = client.inspect_container(container)
    except docker.errors.NotFound:
        return None
    return found


def _has_image(client: docker.APIClient, *, image: str) -> bool:
    try:
        client.inspect_image(image)  # type: ignore[no-untyped-call]
    except docker.errors.NotFound:  # ImageNotFound only where the engine says it in Docker's own words
        return False
    return True


def _by_control_group(pids: Collection[int], handles: frozenset[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for pid in pids:
        try:
            groups = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            continue
        if (handle := next((each for each in _CONTAINER_ID.findall(groups) if each in handles), None)) is not None:
            found[pid] = handle
    return found


def _processes(client: docker.APIClient, *, handle: str) -> set[int]:
    """The machine's numbers of a container's processes; none when it does not run."""
    try:
        told = client.top(handle, "-eo pid")
    except docker.errors.APIError as refusal:
        if refusal.status_code in {404, 409, 500}:
            return set()
        raise
    return {int(row[0]) for row in told["Processes"] or ()}


def _stats(client: docker.APIClient, *, handle: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any]
        try:
            found = client.stats(handle, stream=False, one_shot=True)
        except docker.errors.InvalidVersion:  # an older engine takes a second to compare two looks
            found = client.stats(handle, stream=False)
    except docker.errors.NotFound:
        return None
    return found


def _ran_out_of_memory(client: docker.APIClient, *, handle: str) -> bool:
    # The engine ends the stream at once when its end lies in the past.
    filters = {"container": [handle], "event": ["oom"]}
    # As text, which may hold fractions of seconds.
    events = client.events(since="0", until=f"{time.time():.9f}", filters=filters, decode=True)  # type: ignore[call-overload]
    try:
        return next(iter(events), None) is not None
    finally:
        events.close()


def _kill(client: docker.APIClient, *, handle: str, signal: str) -> None:
    try:
        client.kill(handle, signal)
    except docker.errors.APIError as refusal:
        if refusal.status_code not in {404, 409}:  # gone, or no longer running
            raise


def _remove(client: docker.APIClient, *, handle: str, force: bool) -> None:
    try:
        client.remove_container(handle, v=True, force=force)
    except docker.errors.APIError as refusal:
        if refusal.status_code not in {404, 409}:  # gone, being removed, or (unforced) started meanwhile
            raise


def _pull(client: docker.APIClient, *, image: str, told: Told) -> None:
    repository, tag = docker.utils.parse_repository_tag(image)
    pull = Pull(image)
    told(str(pull))
    line: dict[str, Any] = {}
    # Read to its end, or the connection would stay open; a failure is the last thing it tells.
    for line in client.pull(repository, tag=tag or "latest", stream=True, decode=True):
        pull.take(line)
        told(str(pull))
    if "error" in line:
        raise docker.errors.ImageNotFound(line["error"])


def _give(run_dir: Path, user: str) -> None:
    """Make the run directory the container user's, when we are root and it is not."""
    if os.getuid() != 0:
        return
    uid, _, gid = user.partition(":")
    for folder, _, files in os.walk(run_dir):
        for path in (folder, *(os.path.join(folder, file) for file in files)):
            os.chown(path, int(uid), int(gid or uid), follow_symlinks=False)


def _give_alone(folder: Path, user: str) -> None:
    """Make the directory itself the container user's, when we are root and it is not."""
    if os.getuid() == 0:
        uid, _, gid = user.partition(":")
        os.chown(folder, int(uid), int(gid or uid), follow_symlinks=False)


def _image_missing(image: str, why: str, suggestion: str | None = None) -> ImageMissing:
    return ImageMissing(
        f"image {image} is not available: {why}",
        field="image",
        suggestion=suggestion or f"check the name, or load it by hand: docker pull {image}",
    )


def _pull_refused(image: str, refusal: docker.errors.APIError) -> ImageMissing:
    return _image_missing(image, words_of(refusal))


def _launch_refused(refusal: docker.errors.APIError) -> ExecutorError:
    words = words_of(refusal)
    if any(sign in words for sign in _GOING_DOWN):
        return unavailable(refusal)
    advice = next((advice for piece, advice in _ADVICE if piece.lower() in words.lower()), None)
    return LaunchFailed(f"the engine refused to start the container: {words}", suggestion=advice)
