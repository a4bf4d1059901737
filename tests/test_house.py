"""Rules on the shape of the tree: sizes of folders, files and functions, unique file names, no circular imports. Each is seen to fail on a planted breach."""

import ast
import graphlib
from collections import defaultdict
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("agent", "cluster", "compression", "serving", "training")
CODE = (*PRODUCT, "benchmarks")
FOLDER_FILES, FUNCTION_LINES, FILE_LINES = 12, 80, 350
MAY_REPEAT = {"__init__.py", "__main__.py", "base.py", "run.py"}
GENERATED = ("inference_pb2",)


def sources(root, packages):
    """Python files below the packages that somebody wrote."""
    return [
        path
        for package in packages
        for path in sorted((root / package).rglob("*.py"))
        if "__pycache__" not in path.parts and not path.name.startswith(GENERATED)
    ]


def crowded_folders(root):
    """Folders with more files of code than a reader takes in."""
    count = defaultdict(int)
    for path in sources(root, CODE):
        count[path.parent.relative_to(root)] += path.name != "__init__.py"
    return {str(folder): number for folder, number in count.items() if number > FOLDER_FILES}


def repeated_names(root):
    """File names that stand in several folders."""
    places = defaultdict(list)
    for path in sources(root, CODE):
        places[path.name].append(str(path.parent.relative_to(root)))
    return {name: found for name, found in places.items() if len(found) > 1 and name not in MAY_REPEAT}


def long_functions(root):
    """Functions that do not fit on a screen."""
    return {
        f"{path.relative_to(root)}:{node.name}": length
        for path in sources(root, CODE)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    }


def long_files(root):
    """Files of the product that want a seam."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(root, PRODUCT)}
    return {str(path.relative_to(root)): length for path, length in lengths.items() if length > FILE_LINES}


def undocumented_rooms(root):
    """Folders of code whose __init__.py does not say what they hold."""
    folders = {path.parent for path in sources(root, CODE)}
    return sorted(
        str(folder.relative_to(root))
        for folder in folders
        if not (folder / "__init__.py").exists()
        or not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    )


def import_circle(imports):
    """One circle of a graph {module: imported modules}, or none."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_folder_holds_more_files_than_a_reader_takes_in():
    assert crowded_folders(ROOT) == {}


def test_a_file_name_means_one_thing_in_the_whole_tree():
    assert repeated_names(ROOT) == {}


def test_functions_and_files_stay_short():
    assert long_functions(ROOT) == {}
    assert long_files(ROOT) == {}


def test_every_room_says_what_it_holds():
    assert undocumented_rooms(ROOT) == []


def test_nothing_imports_itself_by_a_detour():
    """Imports for types and imports inside of functions count."""
    graph = grimp.build_graph(*PRODUCT, cache_dir=None)
    assert import_circle({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}) == []


@pytest.fixture
def tree(tmp_path):
    """A tree that keeps all rules."""
    for package in CODE:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text('"""Holds something."""\n')
    return tmp_path


RULES = (crowded_folders, repeated_names, long_functions, long_files, undocumented_rooms)


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        (crowded_folders, {f"training/part_{number}.py": "" for number in range(FOLDER_FILES + 1)}),
        (repeated_names, {"training/plan.py": "", "serving/plan.py": ""}),
        (long_functions, {"benchmarks/big.py": "def big():\n" + "    pass\n" * FUNCTION_LINES}),
        (long_files, {"agent/big.py": "x = 1\n" * (FILE_LINES + 1)}),
        (undocumented_rooms, {"agent/room/__init__.py": "", "agent/room/part.py": ""}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_breach_is_found_by_its_rule_alone(tree, rule, files):
    assert [found for each in RULES if (found := each(tree))] == []
    for name, text in files.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(text)
    assert [each for each in RULES if each(tree)] == [rule]


def test_a_planted_circle_is_found():
    assert import_circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(import_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}
