"""``eclipse doctor``."""

HELP = "Say what this machine offers: versions, processor or GPU, precision, speed, memory, disk and extras."


def doctor() -> None:
    """Print what matters for speed and for reports of errors; exit 1 where the package cannot work."""
    import sys

    from eclipse.cli.show import facts
    from eclipse.doctor import examine

    report = examine()
    for title, table in report.sections.items():
        facts(title, table)
    for problem in report.problems:
        print(f"problem: {problem}")
    print("no problems found" if not report.problems else f"{len(report.problems)} problems found")
    sys.exit(1 if report.problems else 0)
