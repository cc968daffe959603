from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from trees import tree

from edgekd.drivers.limits import Limits, read_limits

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Limits(cpus=None, memory_bytes=None)),
        (
            {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000", "sys/fs/cgroup/memory.max": "max"},
            Limits(cpus=1.5, memory_bytes=None),
        ),
        (
            {
                "proc/self/cgroup": "0::/pod/box",
                "sys/fs/cgroup/pod/box/cpu.max": "max 100000",
                "sys/fs/cgroup/pod/box/memory.max": "2000000000",
                "sys/fs/cgroup/pod/cpu.max": "200000 100000",
                "sys/fs/cgroup/pod/memory.max": "1000000000",
            },
            Limits(cpus=2.0, memory_bytes=1_000_000_000),
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/a1\n3:cpu,cpuacct:/docker/a1\n1:name=systemd:/x",
                "sys/fs/cgroup/memory/docker/a1/memory.limit_in_bytes": "536870912",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            Limits(cpus=0.5, memory_bytes=536_870_912),
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            Limits(cpus=None, memory_bytes=None),
        ),
    ],
    ids=["none", "version 2", "nested", "version 1", "version 1 without a limit"],
)
def test_the_least_limit_of_all_groups_counts(tmp_path: Path, files: dict[str, str], expected: Limits) -> None:
    assert read_limits(tree(tmp_path, files)) == expected
