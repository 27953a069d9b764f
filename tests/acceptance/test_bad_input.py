"""Bad input: exit 2, one line that says where and what, and nothing stored."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dyna_eval_db.store import Claimant
from dyna_eval_workers.resolution import resolve_sweep
from workplace import COMMAND, SWEEP, Finished, Workplace

from dyna_eval import jobs
from dyna_eval.errors import InputError
from dyna_eval.running.detached import start_detached
from dyna_eval.sweeps.config import load_sweep
from tests.models import byte_tokenizer, save_model, tiny_gpt_neox
from tests.new_databases import open_new


def complaint(
    workplace: Workplace, *arguments: str | Path, in_process: bool = False, **variables: str
) -> str:
    """Run a command that must refuse its input, change no file, and say why in one line."""
    run = workplace.run_here if in_process else workplace.run
    before = {path: path.read_bytes() for path in workplace.folder.rglob("*") if path.is_file()}
    done = run(*arguments, **variables)
    after = {path: path.read_bytes() for path in workplace.folder.rglob("*") if path.is_file()}
    assert after == before
    return only_line(done)


def only_line(done: Finished) -> str:
    assert (done.status, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("dyna-eval: ")
    return line.removeprefix("dyna-eval: ")


def quick_complaint(workplace: Workplace, *arguments: str | Path, **variables: str) -> str:
    """In this process, for what is refused before anything is loaded. Also: nothing was made on the way."""
    before = set(workplace.folder.rglob("*"))
    done = workplace.run_here(*arguments, **variables)
    assert set(workplace.folder.rglob("*")) == before
    return only_line(done)


# ------------------------------------------------------------- mistakes in the file

TREE_ROW = "{label: + Tree structure, method: tree, depth: 3, branch: 2, threshold: 0.0}"
DEPTHS, THRESHOLDS = [*range(1, 1001)], [number / 1000 for number in range(1000)]
BILLION_ROW = f"{{label: All, method: tree, depth: {DEPTHS}, branch: {DEPTHS}, threshold: {THRESHOLDS}}}"
MISTAKES = [
    pytest.param("method: linear", "method: lineer", 9, "'linear'", id="unknown method"),
    pytest.param("repeats: 2", "repeets: 2", 5, "'repeats'", id="unknown key of a section"),
    pytest.param("baseline: Base", "base_line: Base", 6, "'baseline'", id="unknown key of the file"),
    pytest.param("branch: 2", "branches: 2", 10, "'branch'", id="unknown parameter"),
    pytest.param("repeats: 2", "repeats: two", 5, "whole number", id="wrong type"),
    pytest.param("repeats: 2", "repeats: 1.5", 5, "whole number", id="fraction for a whole number"),
    pytest.param("k: 4", "k: true", 9, "whole number", id="boolean for a number"),
    pytest.param("depth: 3", "depth: -3", 10, "at least 1", id="negative depth"),
    pytest.param("threshold: 0.05", "threshold: 1.0", 11, "less than 1", id="threshold of 1"),
    pytest.param("threshold: 0.05", "threshold: -0.1", 11, "at least 0", id="negative threshold"),
    pytest.param("threshold: 0.05", "threshold: .nan", 11, "number", id="threshold not a number"),
    pytest.param("k: 4", "k: 0", 9, "at least 1", id="K of 0"),
    pytest.param("pair: demo", "pair: demo\npair: demo", 3, "duplicate key 'pair'", id="duplicate key"),
    pytest.param("k: 4", "k: 4, k: 5", 9, "duplicate key 'k'", id="duplicate key in a row"),
    pytest.param("+ Draft model", "Baseline", 9, "label 'Baseline'", id="duplicate label"),
    pytest.param("baseline: Baseline", "baseline: Basline", 6, "'Baseline'", id="baseline that names no row"),
    pytest.param("configs:", "configs: [", 8, "", id="not YAML"),
    pytest.param("\nconfigs:", "\n\tconfigs:", 7, "", id="a tab as indentation"),
    pytest.param("pair: demo", "pair: {target: ./none, draft: demo}", 2, "./none", id="missing model folder"),
    pytest.param("pair: demo", "pair: damo", 2, "damo", id="unknown pair"),
    pytest.param("dataset: demo", "dataset: json", 3, "data_files", id="data set without files"),
    pytest.param("name: small", "name: 12", 1, "'name'", id="name that is a number"),
    pytest.param("name: small", 'name: "12"', 1, "number", id="name that looks like a number"),
    pytest.param("limit: 2", "limit: 0", 3, "at least 1", id="no prompt at all"),
    pytest.param(TREE_ROW, BILLION_ROW, 10, "1,000,000,003 configurations", id="a billion jobs"),
]


@pytest.mark.parametrize(("right", "wrong", "line", "says"), MISTAKES)
def test_a_mistake_in_the_file_is_told_with_its_line(
    workplace: Workplace, right: str, wrong: str, line: int, says: str
) -> None:
    assert right in SWEEP
    workplace.write("sweep.yaml", SWEEP.replace(right, wrong, 1))
    said = quick_complaint(workplace, "submit", "sweep.yaml")
    assert said.startswith(f"sweep.yaml:{line}: ")
    assert says in said
    assert len(said) < 300


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "sweep.yaml:1: ", id="empty"),
        pytest.param("# nothing\n", "sweep.yaml:1: ", id="only a comment"),
        pytest.param("just text", "sweep.yaml:1: ", id="text"),
        pytest.param("[1, 2]", "sweep.yaml:1: ", id="a list"),
        pytest.param("name: x\n---\nname: y\n", "sweep.yaml:2: ", id="two documents"),
        pytest.param("a: !!python/object/apply:os.getcwd []", "sweep.yaml:1: ", id="a tag that runs code"),
        pytest.param("a: " + "[" * 5000, "sweep.yaml:1: ", id="too deep"),
        pytest.param("a: \x00", "sweep.yaml:1: ", id="a control character"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(workplace: Workplace, text: str, says: str) -> None:
    workplace.write("sweep.yaml", text)
    assert quick_complaint(workplace, "submit", "sweep.yaml").startswith(says)


def test_a_file_that_cannot_be_read_is_named(workplace: Workplace) -> None:
    assert "none.yaml" in quick_complaint(workplace, "submit", "none.yaml")
    assert "not a file" in quick_complaint(workplace, "submit", workplace.folder)
    (workplace.folder / "latin.yaml").write_bytes("name: gr\xfcn\n".encode("latin-1"))
    assert quick_complaint(workplace, "submit", "latin.yaml").startswith("latin.yaml:1: ")


def test_what_a_terminal_cannot_write_is_written_as_escapes(workplace: Workplace) -> None:
    """A name of bytes that are no text, and a label in an alphabet that the terminal's encoding lacks."""
    odd = os.fsdecode(b"\xff.yaml")
    workplace.write(odd, SWEEP.replace("+ Draft model", "模型 𝛕"))
    named = workplace.run("validate", odd)
    assert (named.status, named.stderr) == (0, "")
    assert named.stdout == "\\udcff.yaml: small: 4 configurations, 8 jobs\n"
    latin = workplace.run("expand", odd, PYTHONIOENCODING="latin-1")
    assert (latin.status, latin.stderr) == (0, "")
    assert "\\u6a21\\u578b \\U0001d6d5: linear k=4" in latin.stdout
    as_json = workplace.run("expand", odd, "--json", PYTHONIOENCODING="latin-1").json()
    assert as_json["configurations"][1]["label"] == "模型 𝛕"


@pytest.mark.parametrize("command", ["submit", "validate", "expand"])
def test_every_command_that_reads_a_file_tells_the_same_mistake(workplace: Workplace, command: str) -> None:
    workplace.write("sweep.yaml", SWEEP.replace("linear", "lineer"))
    said = complaint(workplace, command, "sweep.yaml", in_process=command != "submit")
    assert said.startswith("sweep.yaml:9: unknown method")


# ----------------------------------------------------------- mistakes on the command line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "generation.seed=x"], "--set generation.seed=x: "),
        (["--set", "nonsense"], "--set nonsense: "),
        (["--set", "configs.9.k=1"], "--set configs.9.k=1: "),
        (["--name", "7"], "--name: "),
        (["--max-configurations", "2"], "sweep.yaml:"),
        (["--max-configurations", "0"], "--max-configurations"),
        (["--cpus-per-pair", "0"], "--cpus-per-pair"),
        (["--cpus-per-pair", "99999"], "--cpus-per-pair"),
        (["--gpus-per-pair", "1" + "0" * 400], "--gpus-per-pair"),
        (["--gpu-fraction", "nan"], "nan is no share of a GPU"),
        (["--gpu-fraction", "1e-300"], "1e-300 is no share of a GPU"),
        (["--gpu-fraction", "1"], "1 is no share of a GPU"),
        (["--nonsense"], "--nonsense"),
        (["sweep.yaml", "other.yaml"], "argument"),
    ],
)
def test_a_wrong_option_is_named(workplace: Workplace, arguments: list[str], says: str) -> None:
    workplace.write("sweep.yaml", SWEEP)
    assert says in quick_complaint(workplace, "submit", "sweep.yaml", *arguments)


LONG_HOST = "a" * 64 + ":6379"  # a name of the internet has at most 63 characters between its dots


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://127.0.0.1:10001", LONG_HOST])
def test_a_cluster_that_is_not_there_is_named(workplace: Workplace, address: str) -> None:
    workplace.write("sweep.yaml", SWEEP)
    in_process = address != "127.0.0.1:1"
    assert address in complaint(
        workplace, "submit", "sweep.yaml", "--address", address, in_process=in_process
    )


@pytest.mark.parametrize(
    ("script", "status", "says"),
    [
        ('"$0" validate sweep.yaml > /dev/full', 1, "input or output failed: No space left on device"),
        ('mkdir gone; cd gone; rmdir ../gone; "$0" status', 2, "the current folder is not there any more"),
    ],
    ids=["a full disk", "a folder that was removed"],
)
def test_what_the_system_refuses_is_said_in_one_line(
    workplace: Workplace, script: str, status: int, says: str
) -> None:
    workplace.write("sweep.yaml", SWEEP)
    done = subprocess.run(
        ["sh", "-c", script, COMMAND], cwd=workplace.folder, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == status
    [line] = done.stderr.splitlines()
    assert line.startswith(f"dyna-eval: {says}")


def test_a_command_alone_shows_its_help(workplace: Workplace) -> None:
    for run, *words in ((workplace.run,), (workplace.run_here, "db"), (workplace.run_here, "pairs")):
        done = run(*words)
        assert done.status == 2
        assert done.stderr.startswith("Usage: ")


# ------------------------------------------------------------------------- databases


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///none/x.db", "no folder"),
        ("sqlite:///.", "is a folder"),
        ("sqlite:///sweep.yaml", "not a database"),
        ("sqlite:///x.db?mode=ro", "parameters"),
        (f"sqlite:///{'x' * 300}", "too long"),
        ("sqlite://", "must be a file"),
        ("mysql://me:secret@here/x", "unknown kind"),
        ("postgresql://me:secret@127.0.0.1:1/x", "127.0.0.1"),
        ("nonsense", "not a database URL"),
        ("", "not a database URL"),
    ],
)
def test_a_database_that_cannot_be_opened_is_refused(workplace: Workplace, url: str, says: str) -> None:
    workplace.write("sweep.yaml", SWEEP)
    words = [] if "secret" in url else ["--db", url]
    variables = {} if words else {"DYNA_EVAL_DB": url}
    said = quick_complaint(workplace, "submit", "sweep.yaml", *words, **variables)
    assert says in said
    assert "secret" not in said
    assert quick_complaint(workplace, "status", *words, **variables) == said


@pytest.mark.parametrize("url", ["postgresql://me:secret@here/x", "postgresql://me@here/x?password=secret"])
def test_a_password_in_the_command_line_is_refused(workplace: Workplace, url: str) -> None:
    said = quick_complaint(workplace, "status", "--db", url)
    assert "put the address into DYNA_EVAL_DB" in said
    assert "secret" not in said


def test_a_database_of_a_newer_schema_is_refused_by_every_command(workplace: Workplace) -> None:
    workplace.write("sweep.yaml", SWEEP)
    open_new(f"sqlite:///{workplace.database}").close()
    with sqlite3.connect(workplace.database) as connection:
        connection.execute("UPDATE dyna_eval_schema SET version_num = '9999'")
    connection.close()
    for words in (
        ["submit", "sweep.yaml"],
        ["report"],
        ["db", "upgrade"],
        ["db", "check"],
        ["pairs", "list"],
    ):
        said = complaint(workplace, *words, in_process=True)
        assert "newer" in said
        assert "9999" in said


def test_another_programs_database_is_left_alone(workplace: Workplace) -> None:
    workplace.write("sweep.yaml", SWEEP)
    with sqlite3.connect(workplace.database) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    assert "another program" in complaint(workplace, "submit", "sweep.yaml", in_process=True)


def test_without_a_database_every_command_says_how_to_make_one(workplace: Workplace) -> None:
    for words in (["report"], ["status"], ["ls"], ["logs"], ["show", "1"], ["cancel"], ["resume"], ["retry"]):
        assert "no database" in quick_complaint(workplace, *words)


def test_a_sweep_or_job_that_is_not_there_is_named(workplace: Workplace) -> None:
    open_new(f"sqlite:///{workplace.database}").close()
    for name in ([], ["99"], ["9" * 30], ["a\nb"]):
        assert "no sweep yet" in complaint(workplace, "report", *name, in_process=True)
    assert "no job 99" in complaint(workplace, "show", "99", in_process=True)
    for word in ("four-step", "0", "1.5", "-1", "9" * 30):
        told = complaint(workplace, "show", "--", word, in_process=True)
        assert f"'JOB': '{word}' is not the number of a job; `dyna-eval report --columns jobs` prints" in told


@pytest.mark.parametrize("command", ["resume", "retry"])
def test_a_sweep_that_other_decoding_loops_began_is_not_finished_by_these(
    workplace: Workplace, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_sweep(workplace.write("sweep.yaml", SWEEP))
    with open_new(f"sqlite:///{workplace.database}") as store:
        current = store.add_sweep(resolve_sweep(spec))
        assert all(job.is_current for job in store.resolved(current).jobs)
        with monkeypatch.context() as earlier:
            earlier.setattr(jobs, "DECODER_VERSION", jobs.DECODER_VERSION - 1)
            older = store.add_sweep(resolve_sweep(spec))
    assert older != current
    said = complaint(workplace, command, str(older), in_process=True)
    assert f"sweep {older} was begun by a version of dyna-eval whose decoding loops differ" in said
    assert "submit its file again" in said


def test_a_dashboard_that_cannot_listen_says_where(workplace: Workplace) -> None:
    open_new(f"sqlite:///{workplace.database}").close()
    for host in ("256.256.256.256", "no host", "a" * 64):
        assert f"cannot listen on {host} port" in only_line(workplace.run_here("dashboard", "--host", host))


def test_plots_do_not_overwrite_a_file(workplace: Workplace) -> None:
    open_new(f"sqlite:///{workplace.database}").close()
    workplace.write("taken", "mine")
    assert "'taken' is a file" in complaint(workplace, "report", "--plots", "taken", in_process=True)


def test_options_of_figures_and_of_the_web_page_need_a_place_for_them(workplace: Workplace) -> None:
    for options in (
        ["--plot", "heat"],
        ["--var-x", "depth"],
        ["--heat", "depth,branch"],
        ["--measure", "speedup"],
    ):
        assert "--plots DIR" in quick_complaint(workplace, "report", *options)
    assert "--html FILE" in quick_complaint(workplace, "report", "--html-prompts", "1")


@pytest.mark.parametrize(
    ("options", "other"),
    [
        (["1"], "SWEEP"),
        (["--from", "1"], "--from"),
        (["--row", "1", "--json"], "--row"),
        (["--preset", "four-step"], "--preset"),
        (["--html", "page.html"], "--html"),
        (["--plots", "figures"], "--plots"),
        (["--macros", "macros.tex"], "--macros"),
        (["--tex-document", "paper.tex", "--std"], "--tex-document"),
        (["--by-category"], "--by-category"),
        (["--spec-bench", "answers"], "--spec-bench"),
        (["--rounds", "rounds.csv"], "--rounds"),
        (["--latex"], "--latex"),
        (["--latex", "--siunitx"], "--siunitx"),
        (["--columns", "gain"], "--columns"),
        (["--confidence", "0.9"], "--confidence"),
        (["--chosen"], "--chosen"),
    ],
)
def test_a_check_is_asked_for_nothing_else(workplace: Workplace, options: list[str], other: str) -> None:
    workplace.write("paper.tex", "")
    complained = quick_complaint(workplace, "report", "--check", "paper.tex", *options)
    assert complained.endswith(f"--check finds sweeps and tables by what is in the paper; leave out {other}")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--by-category", "--preset", "four-step"],
            "--by-category takes one whole sweep; leave out --preset",
        ),
        (["--latex", "--csv"], "--latex and --csv are two forms; name one of them"),
        (["--samples", "s.csv", "--chosen"], "on whatever terms; leave out --chosen"),
        (["--spec-bench", "x", "--chosen"], "--spec-bench takes one whole sweep; leave out --chosen"),
        (
            ["--spec-bench", "x", "--html", "p.html"],
            "--spec-bench stands beside no figures, web page or paper;",
        ),
        (["--by-category", "--macros", "m.tex"], "beside no figures, web page or paper; leave out --macros"),
        (["--by-category", "--latex", "--std"], "--by-category has columns of its own; leave out --std"),
    ],
)
def test_what_is_of_a_whole_sweep_names_the_option_in_its_way(
    workplace: Workplace, options: list[str], told: str
) -> None:
    assert told in quick_complaint(workplace, "report", *options)


def test_no_database_is_asked_for_more_prompts_than_it_can_count(workplace: Workplace) -> None:
    many = ["--html", "page.html", "--html-prompts", "1" + "0" * 30]
    assert "'--html-prompts': 1000" in quick_complaint(workplace, "report", *many)


# -------------------------------------------------------------- models and prompts


@pytest.fixture(scope="module")
def models(new_workplace: Callable[[], Workplace]) -> Workplace:
    """A workplace with a pair of random models and damaged copies of them."""
    workplace = new_workplace()
    folder = workplace.folder
    save_model(tiny_gpt_neox(seed=1), folder / "target")
    save_model(tiny_gpt_neox(seed=2, hidden=16, layers=1), folder / "draft")
    for name in ("cut", "alibi", "other-tokenizer"):
        shutil.copytree(folder / "draft", folder / name)
    weights = folder / "cut/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    (folder / "alibi/config.json").write_text(json.dumps({"model_type": "bloom"}))
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["hello"])
    tokenizer.save_pretrained(folder / "other-tokenizer")
    workplace.write("prompts.jsonl", '{"text": "Once upon a time"}\n{"text": ""}\n')
    workplace.write("broken.jsonl", '{"text": "Once\n')
    workplace.write("long.jsonl", json.dumps({"text": "x" * 121}))
    return workplace


def tiny_sweep(*, draft: str = "draft", prompts: str = "prompts.jsonl", more: str = "") -> str:
    return f"""\
name: tiny
pair: {{target: ./target, draft: ./{draft}}}
prompts: {{dataset: json, data_files: {prompts}{more}}}
generation: {{max_new_tokens: 8}}
configs:
  - {{label: Baseline, method: ar}}
  - {{label: Draft, method: linear, k: 2}}
"""


def test_a_pair_that_cannot_run_is_refused_before_anything_is_stored(models: Workplace) -> None:
    models.write("sweep.yaml", tiny_sweep(draft="alibi"))
    said = complaint(models, "submit", "sweep.yaml")
    assert said.startswith("sweep.yaml:2: ")
    assert "alibi" in said
    assert "ALiBi" in said


@pytest.mark.usefixtures("looked_at_here")
def test_a_pair_of_two_tokenizers_is_refused_before_anything_is_stored(models: Workplace) -> None:
    models.write("sweep.yaml", tiny_sweep(draft="other-tokenizer"))
    said = complaint(models, "submit", "sweep.yaml", in_process=True)
    assert said.startswith("sweep.yaml:2: ")
    assert "other-tokenizer" in said
    assert "different tokenizers (257 and 258 tokens" in said


@pytest.mark.parametrize(
    ("prompts", "more", "says"),
    [
        pytest.param("prompts.jsonl", ", min_chars: 1000", "no usable prompt", id="all too short"),
        pytest.param("broken.jsonl", "", "cannot be loaded", id="broken file"),
        pytest.param("long.jsonl", "", "set prompts.max_prompt_tokens to at most 120", id="too long"),
    ],
)
@pytest.mark.usefixtures("looked_at_here")
def test_prompts_that_cannot_be_used_are_refused_before_anything_is_stored(
    models: Workplace, prompts: str, more: str, says: str
) -> None:
    """The models have 128 positions, of which 8 are for new tokens."""
    models.write("sweep.yaml", tiny_sweep(prompts=prompts, more=more))
    said = complaint(models, "submit", "sweep.yaml", in_process=True)
    assert said.startswith("sweep.yaml:3: ")
    assert says in said


def test_pairs_check_refuses_what_cannot_be_loaded(models: Workplace) -> None:
    assert complaint(models, "pairs", "check", "cut", in_process=True).startswith("cut: cannot be loaded: ")
    assert "name them" in complaint(models, "pairs", "check", "", in_process=True)


def test_a_detached_run_needs_a_cluster_and_shows_no_password(workplace: Workplace) -> None:
    workplace.write("sweep.yaml", SWEEP)
    here = workplace.run_here("submit", "sweep.yaml", "--detach")
    assert (here.status, here.stdout) == (2, "")
    assert "a cluster that starts here ends here; name one with --address" in here.stderr

    server = "127.0.0.1:1/results"
    for url in (f"postgresql://somebody:s3cret@{server}", f"postgresql://somebody@{server}?password=s3cret"):
        for words in (["submit", "sweep.yaml"], ["resume"], ["retry"]):
            shown = workplace.run_here(*words, "--detach", "--address", "127.0.0.1:1", DYNA_EVAL_DB=url)
            assert (shown.status, shown.stdout) == (2, "")
            assert "--detach shows the database's address on Ray's dashboard" in shown.stderr
            assert "s3cret" not in shown.stderr
        with pytest.raises(InputError, match="shows the database's address on Ray's dashboard"):
            start_detached(1, url, dashboard="", options=[])


# ------------------------------------------------------------- what others wrote


def test_an_error_cannot_drive_the_terminal_that_shows_it(workplace: Workplace) -> None:
    """What a model's code or another package raises is text, whatever is in it."""
    spec = load_sweep(workplace.write("sweep.yaml", SWEEP))
    with open_new(f"sqlite:///{workplace.database}") as store:
        sweep_id = store.add_sweep(resolve_sweep(spec))
        [claim] = store.claim_jobs(
            sweep_id, pair="demo", claimants=[Claimant(actor="actor-1")], lease_seconds=60.0
        )
        store.fail(claim, error_class="Broken", message="\x1b[31mred\r\x07gone", final=True)
    for words in (["status"], ["show", str(claim.job_id)], ["logs"]):
        shown = workplace.run_here(*words)
        assert shown.status == 0
        assert all(line.isprintable() for line in shown.stdout.split("\n")), words
        assert "[31mred gone" in shown.stdout or words == ["logs"]
