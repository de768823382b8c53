"""A profile file is data: whatever its names and values hold, nothing of it is run or written elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_workflow import BODY, PARAMETERS, clone, run, save_notebook

__all__ = ["clone"]  # the fixture

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]

HOSTILE = [
    "two words",
    "it's",
    'say "no"',
    "$(touch pwned)",
    "`touch pwned`",
    "a; touch pwned",
    "a && touch pwned #",
    "a\ntouch pwned",
    "a\n",
    "../../pwned",
    "/../pwned",
    "-rf",
    "--log=pwned",
    "{pwned}",
    "{{pwned}}",
    "%(pwned)s",
    "naïve-名前",
    "a\0b",
    "",
    " ",
    ".",
    "..",
    "\x1b[2J",
    "'); __import__('os').system('touch pwned'); ('",
    '"); __import__("os").system("touch pwned"); ("',
]

# All cases in one process: run.py's own, called with each plan in turn.
DRIVER = """
import contextlib, io, json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import run
plan = Path("workflow/experiments.yml")
for number, (text, arguments) in enumerate(json.load(sys.stdin)):
    plan.write_text(text, "utf-8")
    os.utime(plan, ns=(number, number))  # a plan that was read is kept until the file's time changes
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run.main(arguments)
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def listing(folder):
    """Everything below a folder, with the content of files; but for what Python compiles when it imports."""
    paths = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in paths}


def assert_refused(clone, cases):
    """Every (plan, arguments) is refused in one line, and leaves the clone and what is around it as it was."""
    before = listing(clone)
    plan = clone / "workflow/experiments.yml"
    original = plan.read_bytes()
    environment = {**os.environ, "FEWSTEP_ROOT": str(clone), "PYTHONPATH": str(clone / "src")}
    answers = subprocess.run(
        [sys.executable, "-c", DRIVER, str(ROOT / "workflow")],
        input=json.dumps([[text if isinstance(text, str) else json.dumps(text), asked] for text, asked in cases]),
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answers.returncode == 0, answers.stderr
    lines = answers.stdout.splitlines()
    assert len(lines) == len(cases)
    for case, line in zip(cases, lines, strict=True):
        code, out, err = json.loads(line)
        assert code == 2, (case, code, out, err)
        assert err.count("\n") == 1 and "error: " in err and not out, (case, out, err)
    plan.write_bytes(original)
    assert listing(clone) == before
    assert not list(clone.parent.glob("*pwned*")) and not list(clone.parent.parent.glob("*pwned*"))


EXPERIMENTS = ["experiments", "digits"]


def in_cell(parameters):
    return {"digits": {"toy": {"cells": {"ddim": parameters}}}}


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(lambda name: {name: {"toy": {"cells": {"ddim": {}}}}}, id="profile"),
        pytest.param(lambda name: {"digits": {name: {"cells": {"ddim": {}}}}}, id="experiment"),
        pytest.param(lambda name: {"digits": {"toy": {"cells": {name: {}}}}}, id="cell"),
        pytest.param(lambda name: {"digits": {"toy": {name: {}, "cells": {"ddim": {}}}}}, id="field"),
        pytest.param(lambda name: {"digits": {"toy": {"shards": name, "cells": {"ddim": {}}}}}, id="shards"),
        pytest.param(lambda name: in_cell({name: 1}), id="parameter"),
        pytest.param(lambda name: in_cell({"solver": name}), id="solver"),
        pytest.param(lambda name: in_cell({"model": name}), id="weights"),
        pytest.param(lambda name: in_cell({"nfes": [name]}), id="list"),
        pytest.param(lambda name: in_cell({"solver": {name: name}}), id="mapping"),
    ],
)
def test_hostile_text_in_a_plan_is_refused(clone, plan):
    assert_refused(clone, [(plan(name), EXPERIMENTS) for name in HOSTILE])


def test_hostile_text_on_the_command_line_is_refused(clone):
    plan = in_cell({})
    cases = [(plan, [command, name]) for name in HOSTILE for command in ("experiments", "check", "train")]
    cases += [(plan, [*EXPERIMENTS, f"--jobs={name}"]) for name in HOSTILE]
    assert_refused(clone, cases)


@pytest.mark.parametrize("name", [*HOSTILE[:12], *HOSTILE[13:17]])
def test_a_job_refuses_hostile_names_too(clone, name):
    if HOSTILE.index(name) % 4 == 0:  # a process each: every fourth will do
        for names in ([name, "toy", "ddim"], ["digits", name, "ddim"], ["digits", "toy", name]):
            code, out, err = run(clone, "--log", "log.ipynb", "--", *names, script="run_cell.py")
            assert code == 2 and not (clone / "log.ipynb").exists(), (out, err)
    assert not list(clone.parent.rglob("pwned*"))


def test_documents_that_are_no_plan_are_refused(clone):
    documents = [
        "!!python/object/apply:os.system ['touch pwned']",
        "digits: !!python/object/new:subprocess.Popen [['touch', 'pwned']]",
        "digits: {toy: {cells: {ddim: {nfes: !!python/name:os.system }}}}",
        "digits: {toy: {cells: {ddim: {wait: .nan}}}}",
        "digits: {toy: {cells: {ddim: {wait: 2026-01-01}}}}",
        "digits: {toy: {cells: {ddim: {solver: !!binary JCh0b3VjaCBwd25lZCk=}}}}",
        "digits: {toy: {cells: {ddim: {nfes: &again [*again]}}}}",
        "digits: {toy: {cells: {ddim: {nfes: !!set {5}}}}}",
        "digits: {toy: {cells: {ddim: {1: 2}}}}",
        "digits: {toy: {cells: {ddim: {? [5] : 2}}}}",
        "digits: {toy: {cells: {1: {}}}}",
        "[digits]",
        "digits",
        "",
        "{",
        "\0",
        "a: *b",
    ]
    assert_refused(clone, [(document, EXPERIMENTS) for document in documents])


def test_hostile_values_of_a_text_reach_the_notebook_as_they_are(clone):
    body = BODY.replace(
        "    for nfe in nfes:\n",
        "    for text in texts:\n        record.add('error', 1.0, settings={'text': text})\n    for nfe in nfes:\n",
    )
    save_notebook(clone, f"{PARAMETERS}texts = ['']\n", body)
    # Names that YAML takes for something else than a text unless they are quoted.
    plan = {"1e5": {"toy": {"cells": {"true": {"texts": HOSTILE}, "null": {"texts": ["a"]}}}}}
    (clone / "workflow/experiments.yml").write_text(json.dumps(plan))
    code, out, err = run(clone, "experiments", "1e5", "--jobs", "2")
    assert code == 0, (out, err)
    made = json.loads((clone / "data/results/1e5/toy/true.json").read_text("utf-8"))
    assert [m["settings"]["text"] for m in made["measurements"] if m["settings"]] == HOSTILE
    assert made["provenance"]["parameters"] == {"texts": HOSTILE}
    assert (clone / "data/results/1e5/toy/null.json").exists()
    assert not list(clone.parent.rglob("pwned*"))


def test_a_clone_may_lie_anywhere(clone):
    there = clone / "it's $(touch pwned) `touch pwned`; naïve"
    for folder in ("src", "book", "workflow", "data"):
        shutil.copytree(clone / folder, there / folder)
    (there / "workflow/experiments.yml").write_text("digits: {toy: {cells: {ddim: {nfes: [5]}}}}")
    code, out, err = run(there, "experiments", "digits", "--jobs", "1")
    assert code == 0, (out, err)
    assert (there / "data/results/digits/toy/ddim.json").exists()
    assert not list(clone.parent.rglob("pwned*")) and not (clone / "data/results").exists()
