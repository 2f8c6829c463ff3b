"""The memory of the model in ``dlrm_plain.py`` as a policy file, for a search to share out anew.

Run it: ``python docs/examples/budget.py mine.json``
"""

import sys

import clicks

from seo_rec.policy import Policy

mine = Policy.from_embedding_bag_configs(clicks.TABLES)
mine.save(sys.argv[1])
print(f"{sys.argv[1]}: {mine.num_params} parameters in {len(mine.tables)} tables")
