from __future__ import annotations

import sys

import pytest

from ddspo import cpu_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is told, and only there")
def test_glibc_takes_every_setting():
    pytest.importorskip("ctypes")
    if not hasattr(cpu_memory.ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    assert cpu_memory.keep_freed_memory()


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(cpu_memory.sys, "platform", "darwin")
    monkeypatch.setattr(cpu_memory.ctypes, "CDLL", lambda name: pytest.fail("no library may be touched"))
    assert not cpu_memory.keep_freed_memory()
