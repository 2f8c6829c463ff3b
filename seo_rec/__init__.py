"""Find out how a recommender's categorical features should share one memory budget.

Importing this package is cheap: it reads the versions of the installed libraries and imports
neither torch nor torchrec. Where the versions do not fit together, the first import of torchrec
or fbgemm_gpu fails with one sentence that names the repair (see :mod:`seo_rec.stack`).
"""

from seo_rec.stack import guard as _guard

__version__ = "0.1.0"

_guard()
