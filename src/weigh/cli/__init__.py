"""The command line: parse, call the library, render. Nothing is computed here."""

from weigh.cli.app import main

__all__ = ["main"]
