"""Entry point."""


def main() -> None:
    """Entry point."""
