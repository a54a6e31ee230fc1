"""Write the figures of all effects into docs/effects.md: python -m tests.effects.report."""

from importlib import import_module

from tests.effects.page import PAGE, filled


def main() -> None:
    page = PAGE.read_text("utf-8")
    for path in sorted(PAGE.parents[1].glob("tests/effects/test_[pt]*.py")):
        effect = import_module(f"tests.effects.{path.stem}")
        page = filled(page, effect.ID, effect.lines())
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
