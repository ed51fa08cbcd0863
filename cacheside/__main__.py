"""``python -m cacheside``: the same as the command ``cacheside``."""

from .cli import main

main()
