"""The command line: `python -m course_lib COMMAND`. Rooms are imported late: --help is quick."""

import argparse
import sys

from course_lib.runtime import CourseError


def doctor(options: argparse.Namespace) -> int:
    from course_lib import runtime

    report = runtime.doctor()
    print(report)
    return 0 if report.ok else 1


def fetch(options: argparse.Namespace) -> int:
    from course_lib import bases, sources

    packages = list(sources.SOURCES) if options.packages == ["all"] else options.packages or None
    folders = sources.fetch(packages, verify=options.verify)
    bases.prepare()
    print(f"{len(folders)} sources are in place and verified ({folders[0].parent})")
    return 0


def run(options: argparse.Namespace) -> int:
    from course_lib import notebooks

    return notebooks.run(options.chapters)


def notebooks(options: argparse.Namespace) -> int:
    from course_lib import notebooks

    return notebooks.refresh(options.chapters)


def colab(options: argparse.Namespace) -> int:
    from course_lib import notebooks

    changed = notebooks.set_repository(options.repo)
    print(
        f"The course's address is now {options.repo!r}; written to "
        + ", ".join(path.name for path in changed)
    )
    return 0


def train(options: argparse.Namespace) -> int:
    from course_lib import training

    training.train(options.config)
    return 0


def experiment(options: argparse.Namespace) -> int:
    from course_lib import experiments

    return experiments.command(options.name, show=options.list, only=options.only, again=options.again)


def capstone(options: argparse.Namespace) -> int:
    from course_lib import capstone

    print(capstone.judge(options.file))
    return 0


def methods(options: argparse.Namespace) -> int:
    """The table of methods; with a base, what each trains and stores there by default."""
    from course_lib import additive, bases
    from course_lib.evaluation.tables import Table

    base = bases.load_base(options.base) if options.base else None
    rows = additive.methods(base)
    print(Table(tuple(rows[0]), [tuple(str(cell) for cell in row.values()) for row in rows]))
    return 0


def serve(options: argparse.Namespace) -> int:
    try:
        from course_lib import serving
    except ModuleNotFoundError as error:
        raise CourseError(
            f"The service needs {error.name}, which is not installed: python -m pip install -e .[serve], or run "
            "`make lab`, which installs it."
        ) from None
    serving.serve(
        options.folders, base=options.base, host=options.host, port=options.port, max_rows=options.max_rows,
        max_wait=options.max_wait_ms / 1000, max_queue=options.max_queue,
    )
    return 0


def assignment(options: argparse.Namespace) -> int:
    from course_lib import exercises

    print(exercises.assignment(options.chapter))
    return 0


def slides(options: argparse.Namespace) -> int:
    from course_lib.publishing import slides

    slides.build(options.chapters)
    return 0


def book(options: argparse.Namespace) -> int:
    from course_lib.publishing import book

    book.build()
    return 0


def guides(options: argparse.Namespace) -> int:
    from course_lib import notebooks

    changed = notebooks.guides_read(options.chapters)
    print(f"Noted as read beside their English: {', '.join(path.stem for path in changed) or 'nothing new'}")
    return 0


def grade(options: argparse.Namespace) -> int:
    from course_lib import exercises

    print(exercises.grade(options.folder, options.out))
    return 0


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m course_lib", description="Adding to Language Models: the course."
    )
    commands = result.add_subparsers(metavar="COMMAND", required=True)

    def add(function, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(function.__name__, help=text, description=text)
        command.set_defaults(function=function)
        return command

    add(doctor, "say what is here, what is missing and how to mend it")
    command = add(fetch, "download and verify sources (default: the core ones)")
    command.add_argument("packages", nargs="*", help='names as in sources.txt, or "all"')
    command.add_argument(
        "--verify", action="store_true", help="read every large file again and compare its sha256"
    )
    command = add(run, "run chapters headless; nothing is written")
    command.add_argument("chapters", nargs="*", default=["all"], help='chapter numbers, or "all"')
    command = add(notebooks, "run changed notebooks on clean kernels and store their outputs")
    command.add_argument("chapters", nargs="*", help='chapter numbers; "all": also those that did not change')
    command = add(colab, "write the course's git address into pyproject.toml and every notebook")
    command.add_argument("--repo", required=True, help="the address that git can clone")
    command = add(
        train, "train as a configuration file says; `accelerate launch -m course_lib train` for several GPUs"
    )
    command.add_argument("config", help="a JSON file")
    command = add(experiment, "run what is missing of a stored experiment")
    command.add_argument("name", nargs="?", help="its name, as in data/results")
    command.add_argument("--list", action="store_true", help="show the points and which are there")
    command.add_argument("--only", metavar="KEY=VALUE", action="append", help="only these points")
    command.add_argument("--again", action="store_true", help="also the points that are there")
    command = add(capstone, "run an entry to the capstone (chapter 47) in a sandbox and score it")
    command.add_argument("file", help="defines build(base, train, validation), as course_lib/capstone/ours.py does")
    command = add(methods, "list every method with its family, paper, formula and count")
    command.add_argument("--base", help="also count what each trains and stores on this base (minilm, smollm2)")
    command = add(serve, "answer over HTTP with one base and many saved additions, until Ctrl-C")
    command.add_argument("folders", nargs="+", help="folders of saved additions; the folder's name is the addition's")
    command.add_argument("--base", default="minilm", help="the base that they were trained on (default: minilm)")
    command.add_argument("--host", default="127.0.0.1", help="where to listen (default: this machine alone)")
    command.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    command.add_argument("--max-rows", type=int, default=32, help="rows of a batch at most (default: 32)")
    command.add_argument("--max-wait-ms", type=float, default=4, help="how long a row waits for others (default: 4)")
    command.add_argument("--max-queue", type=int, default=256, help="rows that may wait; more get a 429 (default: 256)")
    command = add(slides, "write lecture decks to build/slides; they work without a network")
    command.add_argument("chapters", nargs="*", help="chapter numbers (default: all)")
    add(book, "write the course as one site to build/book; it works without a network")
    command = add(guides, "note that chapters' Chinese guides (本章导读) were read again beside changed English")
    command.add_argument("chapters", nargs="+", help='chapter numbers, or "all"')
    command = add(assignment, "write a chapter's version for students, without solutions")
    command.add_argument("chapter")
    command = add(grade, "check submitted notebooks in a sandbox and write a CSV")
    command.add_argument("folder", help="holds the notebooks, a folder a student, or submitted/STUDENT/ASSIGNMENT/")
    command.add_argument("--out", metavar="FILE", help="where the table goes (default: grades.csv in the folder)")
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run one command; an error meant for a learner is one sentence on stderr and exit code 1."""
    options = parser().parse_args(arguments)
    try:
        return options.function(options) or 0
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
