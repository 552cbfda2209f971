"""Layers as functions find them at /opt, in sandboxes of both factories: order, conflicts, imports, what stays hidden, what is left."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]
