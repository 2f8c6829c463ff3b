"""The command line, ``seo-rec``."""
