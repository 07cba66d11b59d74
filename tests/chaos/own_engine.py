"""A Docker engine of one's own, to be killed: the machine's is left alone."""

import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
from contextlib import closing, suppress
from pathlib import Path

import docker

from tests.waiting import until

IMAGE = "tiny:latest"
PROGRAMS = ("sh", "sleep", "tail")
UP_S = 60.0


class OwnEngine:
    """dockerd in a network namespace of its own, with its own socket, data and containers.

    Its files lie in ``folder``, whose path must be short: a socket's may not exceed 107 bytes.
    """

    def __init__(self, folder: Path, *, live_restore: bool) -> None:
        self.address = f"unix://{folder}/docker.sock"
        self._folder = folder
        self._command = [
            *("unshare", "--net", "dockerd"),
            *("--host", self.address, "--pidfile", f"{folder}/pid"),
            *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
            f"--live-restore={'true' if live_restore else 'false'}",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; return once it answers."""
        # A number of a process that was killed may be another's by now, or a zombie's, and the engine would believe it.
        for name in ("pid", "exec/containerd/containerd.pid"):
            (self._folder / name).unlink(missing_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until(self._answers, "the engine answers", self._tail, timeout_s=UP_S)

    def kill(self) -> None:
        """kill -9. Its containerd dies with it; containers go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(UP_S)

    def end(self) -> None:
        """Remove its containers and end it, leaving nothing."""
        if self._process is None:
            return
        if self._process.poll() is not None:
            self.start()
        with closing(self.client()) as client:
            for container in client.containers.list(all=True):
                container.remove(force=True)
        self._process.terminate()
        self._process.wait(UP_S)
        # It mounts its data onto itself, once more after each death.
        data = str(self._folder / "data")
        while any(line.split()[4] == data for line in Path("/proc/self/mountinfo").read_text().splitlines()):
            subprocess.run(["umount", data], check=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.address, timeout=30)

    def load_image(self) -> str:
        """Give it an image with a shell, made of this machine's own programs: there is no registry to pull from."""
        with closing(self.client()) as client:
            client.api.import_image_from_data(_root_file_system(), repository="tiny", tag="latest")
        return IMAGE

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._tail()
        # The SDK would leave the socket of a failed connection open.
        with suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
            knock.settimeout(2)
            knock.connect(self.address.removeprefix("unix://"))
            knock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b"200 OK" in knock.recv(100)
        return False

    def _tail(self) -> str:
        return (self._folder / "log").read_text()[-3000:]


def _root_file_system() -> bytes:
    """A tar of a few programs with the libraries they are linked to."""
    files = {}
    for name in PROGRAMS:
        program = shutil.which(name)
        assert program is not None
        files[f"bin/{name}"] = program
        for word in subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout.split():
            if word.startswith("/"):
                files[word.lstrip("/")] = word
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, source in files.items():
            tar.add(os.path.realpath(source), name)
        for folder in ("tmp", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
    return made.getvalue()
