"""``eclipse doctor``."""

HELP = "Say what this machine offers: versions, processor or GPU, precision, speed, memory and disk."


def doctor() -> None:
    """Print what matters for speed and for reports of errors; exit 1 where the package cannot work."""
    import sys

    from eclipse.cli.show import facts
    from eclipse.jobs.doctor import examine

    report = examine()
    for title, table in report.sections.items():
        facts(title, table)
    for problem in report.problems:
        print(f"problem: {problem}")
    if not report.problems:
        print("no problems found")
    sys.exit(1 if report.problems else 0)
