"""README, docs and ARCHITECTURE say what is true: commands, flags, code, links, columns."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[1]
TOP = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [ROOT / name for name in TOP] + sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"(?:<!-- (.*?) -->\n)?```(\w*)\n(.*?)^```$", re.M | re.S)
FITTED = ("fit", "augment", "segment")
# A run block is run at this size: what its flags become, and what is added.
TINY = {
    "phantoms": {"--patients": "4", "--slices": "3", "--size": "32"},
    "fit": {"--preset": "tiny"},
    "augment": {"--preset": "tiny", "--copies": "1"},
    "segment": {"--preset": "tiny"},
}
SMALLER = {"--patients": "2"}


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, what the comment above it says, its language and text."""

    page: Path
    marker: str
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.strip().splitlines()[0][:40]}"


def blocks_of(page: Path) -> list[Block]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(page, marker, language, text) for marker, language, text in found]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN_PAGES = sorted({b.page for b in BLOCKS if b.marker == "run"})


def command_lines(text: str) -> list[list[str]]:
    """The words of each command of a bash block, assignments and comments left out."""
    lines = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                lines.append(words)
    return lines


def check_command(words: list[str]) -> None:
    """Parse `augmint NAME ARGS` with the real parser; nothing is executed."""
    from augmint.cli import app

    group = typer.main.get_command(app)
    if words[1:] in (["--help"], ["--version"]):
        return
    command, rest = group.commands[words[1]], list(words[2:])
    if hasattr(command, "commands") and rest != ["--help"]:
        command, rest = command.commands[rest[0]], rest[1:]
    if rest != ["--help"]:
        # Parses and converts every value, runs nothing; what does not fit is a usage error.
        command.make_context(words[1], rest)


BASH = [b for b in BLOCKS if b.language == "bash"]
YAML = [b for b in BLOCKS if b.language == "yaml"]
PYTHON = [b for b in BLOCKS if b.language == "python"]


def test_blocks_were_found_and_have_a_language():
    assert len(BASH) > 10
    assert {b.language for b in BLOCKS} <= {"bash", "python", "json", "text", "yaml"}
    for page in PAGES:
        fences = len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.M))
        assert fences == 2 * len(blocks_of(page)), page


@pytest.mark.parametrize("block", YAML, ids=lambda b: b.name)
def test_anatomical_rules_can_be_read(block):
    from augmint.quality.validity import parse_rules

    assert parse_rules(block.text, block.name).rules


@pytest.mark.parametrize("block", BASH, ids=lambda b: b.name)
def test_bash_is_sound_and_every_augmint_command_exists(block):
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    for words in command_lines(block.text):
        if words[0] == "torchrun" and "augmint" in words:
            words = words[words.index("augmint") :]
        if words[0] == "augmint":
            check_command(words)
        elif words[0] == "make":
            assert set(words[1:]) <= make_targets()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("augmint mint DATA", "mint"),
        ("augmint fit DATA --warp 3", "No such option"),
        ("augmint augment DATA --copies x", "valid integer"),
        ("augmint augment DATA OUT", "unexpected extra argument"),
    ],
)
def test_the_check_refuses_what_does_not_exist(line, complaint):
    with pytest.raises(Exception, match=complaint):
        check_command(shlex.split(line))


def make_targets() -> set[str]:
    rules = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    return set(rules)


def test_make_targets_named_in_words_exist():
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z]+)`", page.read_text(encoding="utf-8")))
        assert named <= make_targets(), page


def test_flags_named_in_words_exist():
    from augmint.cli import app

    group = typer.main.get_command(app)
    known = {"--help", "--version"}
    for command in group.commands.values():
        for one in getattr(command, "commands", {"": command}).values():
            known |= {flag for p in one.params for flag in (*p.opts, *p.secondary_opts)}
    for page in PAGES:
        words = FENCE.sub("", page.read_text(encoding="utf-8"))
        named = {f for code in re.findall(r"`[^`\n]+`", words) for f in _flags(code)}
        assert named <= known, page


def _flags(code: str) -> list[str]:
    return re.findall(r"(?<![\w-])--[a-z][a-z-]*", code)


@pytest.mark.parametrize("block", PYTHON, ids=lambda b: b.name)
def test_python_compiles_and_imports_what_exists(block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("augmint"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block.name}: {node.module}.{alias.name}"
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "augmint":
            assert node.attr in importlib.import_module("augmint").__all__


def tiny(words: list[str]) -> list[str]:
    """The same command at tiny size."""
    words = list(words)
    changes = dict(TINY.get(words[1], {}))
    if words[1] in FITTED and "--patients" in words:
        changes |= SMALLER
    for flag, value in changes.items():
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += [flag, value]
    return words


@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda p: p.stem)
def test_marked_blocks_run(page, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from augmint.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for block in blocks_of(page):
        if block.marker.startswith("file: "):
            (tmp_path / block.marker.removeprefix("file: ")).write_text(block.text)
        if block.marker != "run":
            continue
        if block.language == "python":
            exec(compile(block.text, block.name, "exec"), {"__name__": "__main__"})
            continue
        for words in command_lines(block.text):
            assert words[0] == "augmint", f"{block.name}: only augmint is run here"
            result = CliRunner().invoke(app, tiny(words)[1:])
            assert result.exit_code == 0, f"{words}\n{result.output}\n{result.exception!r}"
            if "-o" in words:
                assert any(Path(words[words.index("-o") + 1]).iterdir()), words


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_run(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [str(script), str(tmp_path), "tiny"])
    runpy.run_path(str(script), run_name="__main__")
    assert re.search(r"^(mixed|sdedit): mean Dice 0\.\d", capsys.readouterr().out, re.M)


def test_the_baseline_of_the_docs_has_the_patients_of_the_synthetic_dataset(tmp_path):
    import augmint
    from augmint.augment import plan_patients
    from augmint.roles import assign_roles

    hearts = augmint.phantoms("cine-mr", out=tmp_path / "d", patients=10, slices=3, size=32)
    dataset = augmint.open_dataset(hearts)
    roles = assign_roles(dataset, None, patients=None, fold=None, validation=0.2, seed=3)
    assert roles.validation_patients == plan_patients(dataset, seed=3).held_back
    assert len(roles.validation_patients) == 2


def test_links_resolve():
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{page.relative_to(ROOT)}: {target}"
            if anchor:
                assert anchor in _anchors(file), f"{page.relative_to(ROOT)}: {target}"


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in heads}


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name == "index.md" or f"({name})" in index, name


def test_readme_keeps_the_place_of_its_figures():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.index("<!-- figures -->") < text.index("<!-- /figures -->")


def test_generated_reference_is_that_of_the_code():
    generated = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["PAGES"]
    for name, write in generated.items():
        stored = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
        assert stored == write(), f"{name} is out of date: run docs/make_reference.py"


def test_columns_and_keys_of_files_are_described():
    from augmint.data.splits import SEEN_KEYS
    from augmint.evaluation.score import COLUMNS as SCORES
    from augmint.synthetic import COLUMNS, JUDGED

    text = (ROOT / "docs" / "reference" / "file-formats.md").read_text(encoding="utf-8")
    for name in (*COLUMNS, *JUDGED, *SCORES, *SEEN_KEYS):
        assert f"`{name}`" in text, name


def test_the_tree_in_architecture_is_the_one_on_disk():
    block = next(b for b in blocks_of(ROOT / "ARCHITECTURE.md") if "src/augmint/" in b.text)
    named: set[str] = set()
    folders: list[str] = []
    for line in block.text.splitlines():
        match = re.match(r"^((?:  )+)(\w+)(/$|\.py {2,}\S)", line)
        if match is None:
            continue
        folders = [*folders[: len(match[1]) // 2 - 1], match[2]]
        if match[3] != "/":
            named.add("/".join(folders) + ".py")
    source = ROOT / "src" / "augmint"
    files = {p.relative_to(source).as_posix() for p in source.rglob("*.py") if p.read_text()}
    packages = {name for name in files if name.endswith("/__init__.py")}
    assert files - packages <= named, files - named
    assert named <= files, named - files
