"""Translating paths for an engine that sees the host's file system."""

from pathlib import Path, PurePosixPath

import pytest

from orchestrator.executors.host_paths import HostPaths, NotOnHost, own_container_id

ID = "f" * 64
IN_A_CONTAINER = f"""\
512 490 0:52 / / rw,relatime - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/ABC
523 512 254:0 /srv/saeforge /data rw,relatime - ext4 /dev/vda rw
524 512 254:0 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/vda rw
525 512 254:0 /var/lib/docker/containers/{ID}/hosts /etc/hosts rw,relatime - ext4 /dev/vda rw
"""
ON_A_HOST = f"""\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
98 22 0:48 / /var/lib/docker/containers/{ID}/mounts/shm rw,nosuid - tmpfs shm rw
99 22 0:49 / /var/lib/docker/overlay2/{ID}/merged rw,relatime - overlay overlay rw
"""


def test_without_a_mapping_paths_are_the_same_on_both_sides() -> None:
    assert HostPaths().translate(Path("/data/x")) == "/data/x"


def test_the_deepest_shared_directory_counts() -> None:
    paths = HostPaths(
        ((Path("/data"), PurePosixPath("/srv/data")), (Path("/data/models"), PurePosixPath("/mnt/models")))
    )
    assert paths.translate(Path("/data/runs/1")) == "/srv/data/runs/1"
    assert paths.translate(Path("/data/models/tiny")) == "/mnt/models/tiny"
    assert paths.translate(Path("/data/models")) == "/mnt/models"


def test_a_path_beside_a_shared_directory_is_not_in_it() -> None:
    with pytest.raises(NotOnHost):
        HostPaths(((Path("/data"), PurePosixPath("/srv")),)).translate(Path("/database/x"))


def test_the_engines_account_of_mounts_becomes_the_mapping() -> None:
    mounts = [
        {"Type": "bind", "Source": "/srv/saeforge", "Destination": "/data"},
        {"Type": "volume", "Source": "/var/lib/docker/volumes/v/_data", "Destination": "/cache"},
        {"Type": "tmpfs", "Source": "", "Destination": "/tmp"},
    ]
    paths = HostPaths.from_mounts(mounts)
    assert paths.translate(Path("/data/runs")) == "/srv/saeforge/runs"
    assert paths.translate(Path("/cache/x")) == "/var/lib/docker/volumes/v/_data/x"
    with pytest.raises(NotOnHost):
        paths.translate(Path("/tmp/x"))


def test_a_process_in_a_container_finds_the_containers_id() -> None:
    assert own_container_id(IN_A_CONTAINER) == ID


def test_a_process_on_a_host_with_containers_is_in_none() -> None:
    assert own_container_id(ON_A_HOST) is None
