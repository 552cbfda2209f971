"""Functions and their code: the model, the checks and the content-addressed store."""

from __future__ import annotations

from server.functions.codestore import CodeStore
from server.functions.model import LATEST, Function
from server.functions.service import Functions

__all__ = ["LATEST", "CodeStore", "Function", "Functions"]
