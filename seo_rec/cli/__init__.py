"""The command line, ``seo-rec``: options and messages, and no logic.

In: the words of a command. Out: the call of one function of :mod:`seo_rec.recipes` or of the
package that does the work, then a few lines on the terminal. Each command has a file. Begin with
:mod:`~seo_rec.cli.main`, which puts them together, and :mod:`~seo_rec.cli.search`. What
several commands have is in :mod:`~seo_rec.cli.parameters`, :mod:`~seo_rec.cli.budget_options` and
:mod:`~seo_rec.cli.training_options`; help texts of settings are the docstrings of their classes
(:mod:`~seo_rec.cli.fields`).
"""
