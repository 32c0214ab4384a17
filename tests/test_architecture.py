"""Guards of the house: who may import whom, and what no file may hold."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "augmint"
FILES = sorted(SOURCE.rglob("*.py"))

# Dependencies run one way: a part imports from its own level and those before it.
LEVELS = (
    {"errors"},
    {"case", "progress", "staging", "presets", "weights", "precision", "cluster"},
    {"imaging", "data", "diffusion"},
    {"methods", "segmentation", "evaluation"},
    {
        "quality",
        "prepare",
        "fit",
        "generate",
        "shards",
        "synthetic",
        "augment",
        "gating",
        "report",
        "calibrate",
    },
    # What commands call: these parts, and every module of its own beside them.
    {"study", "survey", "audit"},
    {"cli"},
)
LEVEL = {part: number for number, parts in enumerate(LEVELS) for part in parts}
COMMANDS = LEVEL["study"]
# Doors and entry points, which may name anything.
FREE = {"__init__", "__main__", "doctor"}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {name_of(path): path for path in FILES}


def part_of(module: str) -> str:
    """`augmint.data.pool` -> `data`."""
    return (module + ".__init__").split(".")[1]


def imports_of(path: Path, *, deep: bool = True) -> set[str]:
    """The modules of this package that a file imports; `deep`: inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree) if deep else tree.body:
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return {m for m in found if m in MODULES}


def test_the_guards_see_the_package():
    assert len(FILES) > 30
    assert "augmint.diffusion.path" in imports_of(SOURCE / "diffusion" / "sampling.py")


@pytest.mark.parametrize("module", MODULES)
def test_dependencies_run_one_way(module):
    part = part_of(module)
    if part in FREE:
        return
    level = LEVEL.get(part, COMMANDS)
    above = {
        other
        for other in imports_of(MODULES[module])
        if part_of(other) not in FREE and LEVEL.get(part_of(other), COMMANDS) > level
    }
    assert not above, f"{module} imports {sorted(above)}, which is above it"


def test_no_module_imports_itself_in_a_circle():
    above = {m: imports_of(p, deep=False) - {m} for m, p in MODULES.items()}
    while free := [m for m, needs in above.items() if not needs]:
        above = {m: needs - set(free) for m, needs in above.items() if m not in free}
    assert not above, f"circular: {sorted(above)}"


@pytest.mark.parametrize(
    ("part", "never"),
    [
        ("segmentation", ("diffusion", "methods")),
        ("evaluation", ("diffusion", "methods", "segmentation")),
        ("data", ("diffusion", "methods", "segmentation", "evaluation")),
        ("imaging", ("data", "diffusion", "methods", "segmentation", "evaluation")),
        ("diffusion", ("data", "methods", "segmentation", "evaluation")),
        ("methods", ("segmentation", "evaluation", "quality")),
    ],
)
def test_parts_that_never_meet(part, never):
    for module, path in MODULES.items():
        if part_of(module) == part:
            met = {m for m in imports_of(path) if part_of(m) in never}
            assert not met, f"{module} imports {sorted(met)}"


def test_methods_do_not_import_each_other():
    # protocol.py is what they share, __init__.py is their list.
    # The stage of label maps and the strength of a shift are no methods of their own.
    names = (
            "", ".protocol", ".label_diffusion", ".shift_planes", ".shift_strength", ".shift_walk",
        )  # fmt: skip
    common = {f"augmint.methods{name}" for name in names}
    for module, path in MODULES.items():
        if part_of(module) == "methods" and module not in common:
            others = {m for m in imports_of(path) if part_of(m) == "methods"} - common
            assert not others - {module}, f"{module} imports {sorted(others)}"
            assert "augmint.methods" not in imports_of(path), (
                f"{module} imports the list of methods"
            )


@pytest.mark.parametrize("path", FILES, ids=lambda p: name_of(p))
def test_nothing_is_stored_or_loaded_as_code(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not {a.name.split(".")[0] for a in node.names} & {
                "pickle", "dill", "joblib", "shelve", "marshal",
            }  # fmt: skip
        if isinstance(node, ast.ImportFrom):
            assert node.module not in ("pickle", "dill", "joblib")
            assert not (node.module == "torch" and {"load", "save"} & {a.name for a in node.names})
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}
            allowed = node.attr != "load" or node.value.id not in ("np", "numpy")
            assert allowed or "allow_pickle=True" not in path.read_text(encoding="utf-8")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec")


def tracked() -> list[Path]:
    """Every text of the project; what git ignores is not the project's."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    texts = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".txt", ".cfg", ".html", ".sh", ""}
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [p for p in paths if p.is_file() and p.suffix in texts]


def test_no_file_names_a_place_on_somebodys_machine():
    # An absolute path of a workplace or a home; assembled so that this file passes itself.
    places = "|".join(("wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers", "t" + "mp"))
    pattern = re.compile(rf"(?<![\w.~*$}}/<-])/(?:{places})/[\w.]+")
    found = []
    for path in tracked():
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert not found, "\n".join(found[:20])


def test_the_core_needs_no_heavy_library_to_be_imported():
    """Opening a dataset must not wait for a network library."""
    code = (
        "import sys, augmint.data.dataset, augmint.evaluation.metrics, augmint.methods.protocol;"
        "heavy = {'monai', 'diffusers', 'torchvision', 'matplotlib', 'SimpleITK', 'nibabel',"
        " 'scipy', 'openvino', 'transformers', 'typer'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
