from jaxcifar.commands.reproduce import make_parser
from jaxcifar.studies.reproduction import PLAN
from tests.test_docs import PAGES, commands


def test_the_plan_is_listed_and_nothing_written(run_command, tmp_path):
    status, out, _ = run_command("reproduce", "--list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == [item.name for item in PLAN]
    assert not list(tmp_path.iterdir())


def test_a_foreign_directory_is_one_line_and_left_alone(run_command, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").write_text("years of work")
    status, _, error = run_command("reproduce", "--scale", "smoke")
    assert status == 2
    assert error.startswith("error: report is not empty and holds no report (no plan.json)")
    assert error.endswith("choose another --out\n")
    assert error.count("\n") == 1
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["thesis.tex"]


def test_the_documented_commands_do_not_refuse_each_other():
    """A report has one scale."""
    scales = {}
    for words in (words for page in PAGES.values() for words in commands(page)):
        if words[:2] == ["jaxcifar", "reproduce"]:
            parsed = make_parser("jaxcifar reproduce").parse(words[2:])
            scales.setdefault(str(parsed.out), set()).add(parsed.scale)
    assert scales == {"report": {"full"}, "report_smoke": {"smoke"}}
