"""The recipes in `rootfs/`: lists of names, kept as TOML beside the guide that explains them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

from sandbox.errors import ImageError

#: In the source tree, or where setup.py puts them in an installed package.
RECIPES: Final = next(
    (path for path in (Path(__file__).resolve().parents[2] / "rootfs", Path(__file__).with_name("recipes")) if path.is_dir()),
    Path(__file__).with_name("recipes"),
)


def load_recipe(name: str, *, folder: Path = RECIPES) -> dict[str, list[str]]:
    """Read `<name>.toml`. Raises ImageError if it is missing or holds anything but lists of strings."""
    path = folder / f"{name}.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ImageError(f"{path}: no such recipe", hint="recipes are in rootfs/ of the source tree that sandbox/ is in") from None
    except tomllib.TOMLDecodeError as error:
        raise ImageError(f"{path}: {error}") from error
    for key, value in data.items():
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise ImageError(f"{path}: {key} is not a list of strings")
    return data
