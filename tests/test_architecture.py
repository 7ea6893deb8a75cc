"""What the source may import and call, read off its syntax trees."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import eclipse

SOURCE = Path(eclipse.__file__).parent
TREES = {
    str(path.relative_to(SOURCE)): ast.parse(path.read_text(encoding="utf-8"), str(path))
    for path in sorted(SOURCE.rglob("*.py"))
}

# From the top down, as docs/architecture.md quotes it. A part is a module or package of eclipse; it imports itself and
# parts of lower levels.
LEVELS = """
cli
report
bench   jobs
attacks   defenses
detectors   transforms
purification
diffusion   classifiers
data
compute   runs   registry
parameters
errors
"""
LEVEL = {part: -i for i, line in enumerate(LEVELS.strip().splitlines()) for part in line.split()}

NEVER = {"torchvision", "timm", "torchattacks", "robustbench", "pickle", "dill", "cloudpickle", "joblib", "marshal"}
SLOW = {"diffusers", "datasets", "sklearn", "ray", "matplotlib", "jinja2", "kornia", "opacus"}


def imported(tree: ast.AST) -> Iterator[str]:
    """The dotted names of all imported modules; ``from eclipse import x`` imports eclipse.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"a relative import in line {node.lineno}"
            yield from [f"eclipse.{alias.name}" for alias in node.names] if node.module == "eclipse" else [node.module]


def upward(path: str, tree: ast.AST) -> list[str]:
    """The imports of a module that do not go down."""
    part = path.partition("/")[0].removesuffix(".py")
    targets = [name.split(".")[1] for name in imported(tree) if name.startswith("eclipse.")]
    return [f"{path}: {name}" for name in targets if name != part and LEVEL[name] >= LEVEL[part]]


def unsafe(tree: ast.AST) -> list[str]:
    """The calls that could run code from a data set or a checkpoint."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            loads = call == "torch.load" and keywords.get("weights_only") != "True"
            unpickles = keywords.get("allow_pickle", "False") != "False" or call.endswith(".read_pickle")
            if call in ("eval", "exec", "compile", "__import__") or loads or unpickles:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_imports_run_downwards_only() -> None:
    hidden = ast.parse("def f():\n    from eclipse import cli\n    import eclipse.jobs.purify, eclipse.data")
    assert upward("purification/a.py", hidden) == ["purification/a.py: cli", "purification/a.py: jobs"]
    assert [found for path, tree in TREES.items() if path != "__init__.py" for found in upward(path, tree)] == []


def test_nothing_unsafe_is_called_or_imported() -> None:
    for code in ("eval('1')", "torch.load(f)", "np.load(f, allow_pickle=True)", "pd.read_pickle(f)", "__import__('x')"):
        assert unsafe(ast.parse(code)), code
    assert not unsafe(ast.parse("torch.load(f, weights_only=True)"))
    for path, tree in TREES.items():
        assert not unsafe(tree), path
        assert not {name.split(".")[0] for name in imported(tree)} & NEVER, path


def test_neither_the_package_nor_the_help_loads_what_is_slow() -> None:
    every = "[importlib.import_module(m.name) for m in pkgutil.walk_packages(eclipse.__path__, 'eclipse.')]"
    for code, never in (("pass", {"torch"}), ("import eclipse.cli", {"torch"}), (every, SLOW)):
        code = f"import importlib, pkgutil, sys, eclipse; {code}; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert not never & set(loaded), code


def test_public_names_are_found_when_they_are_used() -> None:
    for name in eclipse.__all__:
        assert getattr(eclipse, name) is not None
    assert set(eclipse.__all__) <= set(dir(eclipse))
