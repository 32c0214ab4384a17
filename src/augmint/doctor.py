"""Whether this machine can do the work, and what would make it faster."""

from __future__ import annotations

import re
from typing import Any

CORE = (
    "torch", "numpy", "scipy", "monai", "einops", "nibabel", "SimpleITK", "PIL", "tifffile",
    "safetensors", "pydantic", "yaml", "typer", "rich", "matplotlib",
)  # fmt: skip
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}


def doctor() -> dict[str, Any]:
    """Look at Python, devices, memory, disk, core libraries and extras; computes almost nothing.

    Returns:
        Plain values; `broken` lists what keeps augmint from working.
    """
    import platform
    import shutil

    core, broken = _core()
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "memory_gb": _memory_gb(),
        "free_disk_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "core": core,
        "extras": _extras(),
        "broken": broken,
    }
    if "torch" not in broken:
        facts["devices"] = _devices()
    return facts


def _core() -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the core libraries, and why any of them cannot be imported."""
    import importlib
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    broken: dict[str, str] = {}
    for name in CORE:
        try:
            importlib.import_module(name)
            found[name] = version(DISTRIBUTIONS.get(name, name))
        except PackageNotFoundError:
            found[name] = "version unknown"
        # A library can fail to load in any way it likes, from a missing symbol to its own error.
        except Exception as error:
            broken[name] = f"{type(error).__name__}: {error}"
    return {"augmint": version("augmint"), **found}, broken


def _extras() -> list[dict[str, Any]]:
    """Every optional extra, whether its packages are there, and what adds it."""
    from importlib.metadata import metadata, requires
    from importlib.util import find_spec

    named: dict[str, list[str]] = {
        e: [] for e in metadata("augmint").get_all("Provides-Extra") or () if e != "dev"
    }
    for requirement in requires("augmint") or ():
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if extra and extra[1] in named:
            named[extra[1]].append(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
    return [
        {
            "name": name,
            "missing": [p for p in packages if find_spec(p.replace("-", "_")) is None],
            "packages": packages,
            "install": f"pip install 'augmint[{name}]'",
        }
        for name, packages in sorted(named.items())
    ]


def _devices() -> dict[str, Any]:
    import torch

    amx = bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
    cards = [
        {
            "name": torch.cuda.get_device_name(i),
            "memory_gb": round(torch.cuda.get_device_properties(i).total_memory / 1e9, 1),
            "bf16": torch.cuda.is_bf16_supported(),
        }
        for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]
    return {
        "gpus": cards,
        "cpu_threads": torch.get_num_threads(),
        "cpu_amx": amx,
        "precision": "bf16" if (cards and cards[0]["bf16"]) or (not cards and amx) else "fp32",
    }


def _memory_gb() -> float | None:
    import os

    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def in_words(facts: dict[str, Any]) -> str:
    """The facts of `doctor` as a page of text."""
    memory = facts["memory_gb"]
    lines = [
        f"python   {facts['python']} on {facts['system']}",
        f"memory   {'unknown' if memory is None else f'{memory} GB'}",
        f"disk     {facts['free_disk_gb']} GB free here",
    ]
    devices = facts.get("devices")
    if devices:
        lines += [f"gpu      {c['name']}, {c['memory_gb']} GB" for c in devices["gpus"]]
        if not devices["gpus"]:
            lines.append("gpu      none found; `quick` is the preset for this machine")
        amx = "with" if devices["cpu_amx"] else "without"
        lines.append(f"cpu      {devices['cpu_threads']} threads, {amx} AMX")
        lines.append(f"auto     computes in {devices['precision']}")
    lines.append("core     " + ", ".join(f"{n} {v}" for n, v in facts["core"].items()))
    for extra in facts["extras"]:
        state = "there" if not extra["missing"] else f"not there; {extra['install']}"
        if not extra["packages"]:
            state = "needs no package"
        lines.append(f"extra    {extra['name']}: {state}")
    for name, reason in facts["broken"].items():
        lines.append(f"BROKEN   {name}: {reason}; reinstall it with pip")
    lines.append("broken: augmint cannot work" if facts["broken"] else "all is well")
    return "\n".join(lines)
