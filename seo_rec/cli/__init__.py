"""The command line, ``seo-rec``: options and messages, and no logic.

In: the words of a command. Out: the call of one function of :mod:`seo_rec.recipes` or of the
package that does the work, then a few lines on the terminal. Each command has a file. Begin with
:mod:`~seo_rec.cli.main`, which puts them together, and :mod:`~seo_rec.cli.search`. Options that
are fields of a settings dataclass are made by :mod:`~seo_rec.cli.fields` from its docstring.
"""
