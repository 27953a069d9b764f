"""The subcommands of `dyna-eval`, by what they work on. `dyna_eval.cli` puts them together.

Everything heavy is imported inside the command that needs it, so that `--help` answers at once.
"""
