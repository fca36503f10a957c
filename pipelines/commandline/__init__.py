"""Options as dataclasses, the commands typer makes of them, and what the terminal prints.

The lowest floor: every room may import it. Imports no other room, and nothing heavy.
"""
