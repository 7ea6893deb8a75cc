"""What the source may import and call, read off its syntax trees."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import eclipse

SOURCE = Path(__file__).resolve().parent.parent / "src" / "eclipse"
FILES = sorted(SOURCE.rglob("*.py"))

# From the ground up. A part is a module or package of eclipse; it imports only itself and parts of lower layers.
LAYERS = [
    {"errors"},
    {"memory", "randomness", "runs", "tables"},
    {"device", "stages", "parameters", "pgd"},
    {"data"},
    {"diffusion"},
    {"purification", "compensate", "victims", "shards"},
    {"streaming", "defenses", "attacks", "purifier"},
    {"report", "audit", "distributed", "pipeline", "poisoning", "verification", "evaluation", "doctor"},
    {"victim_runs"},
    {"bench"},
    {"demo"},
    {"cli"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

NEVER = {"torchvision", "timm", "torchattacks", "robustbench", "pickle", "dill", "cloudpickle", "joblib", "marshal"}
SLOW = {"diffusers", "datasets", "sklearn", "ray", "matplotlib", "jinja2", "kornia", "opacus"}
RUNNING_CODE = {"eval", "exec", "compile", "__import__"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The dotted names of all imported modules; ``from eclipse import x`` imports eclipse.x."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            assert node.module is not None
            if node.module == "eclipse":
                yield from (f"eclipse.{alias.name}" for alias in node.names)
            else:
                yield node.module


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: all but the bodies of functions, and of ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from at_import(child)


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def upward(path: Path, source: ast.Module) -> list[str]:
    """The imports of a module that do not go down."""
    part = part_of(path)
    targets = [name.split(".")[1] for name in imported(ast.walk(source)) if name.startswith("eclipse.")]
    unknown = [target for target in {part, *targets} if target not in LEVEL]
    assert not unknown, f"{name_of(path)}: {unknown} have no place in LAYERS; give them one"
    return [target for target in targets if target != part and LEVEL[target] >= LEVEL[part]]


@pytest.mark.parametrize("path", [path for path in FILES if path != SOURCE / "__init__.py"], ids=name_of)
def test_imports_run_downwards_only(path: Path) -> None:
    assert upward(path, tree(path)) == []


def test_an_upward_import_is_noticed() -> None:
    hidden = (
        "def f():\n    from eclipse import cli\n    import eclipse.streaming\n    from eclipse.data.rows import Row"
    )
    assert upward(SOURCE / "purification.py", ast.parse(hidden)) == ["cli", "streaming"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_unsafe_or_unfit_package_is_imported(path: Path) -> None:
    packages = {name.split(".")[0] for name in imported(ast.walk(tree(path)))}
    assert not packages & NEVER
    assert "ray" not in packages or path == SOURCE / "distributed.py"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_slow_packages_are_imported_where_they_are_used(path: Path) -> None:
    if path != SOURCE / "distributed.py":
        assert not {name.split(".")[0] for name in imported(at_import(tree(path)))} & SLOW


def unsafe(source: ast.Module) -> Iterator[str]:
    """The calls that could run code from a data set or a checkpoint."""
    for node in ast.walk(source):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            loads = call == "torch.load" and keywords.get("weights_only") != "True"
            unpickles = keywords.get("allow_pickle", "False") != "False" or call.endswith(".read_pickle")
            if call in RUNNING_CODE or loads or unpickles:
                yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_that_was_read_is_run(path: Path) -> None:
    assert list(unsafe(tree(path))) == []


@pytest.mark.parametrize(
    "code",
    [
        "eval(x)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pandas.read_pickle(path)",
        "exec(open(path).read())",
    ],
)
def test_unsafe_calls_are_noticed(code: str) -> None:
    assert len(list(unsafe(ast.parse(code)))) == 1


@pytest.mark.parametrize("module", ["eclipse", "eclipse.cli"])
def test_import_does_not_load_torch(module: str) -> None:
    code = (
        f"import sys, {module}; print(*{{'torch', 'diffusers', 'datasets', 'sklearn', 'pyarrow'}} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_public_names_are_found_when_they_are_used() -> None:
    import_module("eclipse.pipeline")
    for name in eclipse.__all__:
        assert not isinstance(getattr(eclipse, name), ModuleType), name
    assert set(eclipse.__all__) <= set(dir(eclipse))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = eclipse.no_such_name
