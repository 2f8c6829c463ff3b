"""Run folders: what the files in them say, and the command that repeats a run."""
