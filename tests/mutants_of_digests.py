"""Likely faults of vocabularies that hold digests of ids."""

from __future__ import annotations

from tests.mutant import Mutant

_ROWS = "tests/test_digests.py::test_rows_are_found_by_digests"
_HOSTILE = "tests/serve/test_digest_packages.py::test_what_does_not_fit_is_refused"

DIGESTS = (
    Mutant(
        "a-digest-is-searched-as-an-id",
        "seo_rec/embed/remap.py",
        "            ids = hashed & LOW_32  #",
        "            ids = ids & LOW_32  #",
        (_ROWS,),
    ),
    Mutant(
        "a-digest-has-a-sign",
        "seo_rec/embed/remap.py",
        "            ids = hashed & LOW_32  #",
        "            ids = hashed  #",
        (_ROWS,),
    ),
    Mutant(
        "digests-are-the-hash-of-seed-0",
        "seo_rec/policy/addresses.py",
        "mix(ids_V ^ DIGEST_SEED) & LOW_32",
        "mix(ids_V) & LOW_32",
        ("tests/test_digests.py::test_a_digest_is_the_hash_that_the_format_says",),
    ),
    Mutant(
        "numpy-hashes-unknown-digests-by-their-ids",
        "seo_rec/policy/addresses.py",
        "    if lookup.uses_index:\n        ids_V = known_as(",
        "    if lookup.uses_index and lookup.unknown_rows == 1:\n        ids_V = known_as(",
        ("tests/test_digests.py::test_both_paths_of_a_batch_and_numpy_find_the_same_rows",),
    ),
    Mutant(
        "twins-are-counted-once-each",
        "seo_rec/policy/addresses.py",
        "np.add.at(sums, place_V, counts_V)",
        "sums[place_V] = counts_V",
        ("tests/test_digests.py::test_ids_of_one_digest_are_one_id_whose_counts_add_up",),
    ),
    Mutant(
        "a-digest-costs-what-an-id-costs",
        "seo_rec/policy/entries.py",
        "return id_bits // 8",
        "return 8",
        ("tests/test_digests.py::test_a_row_of_four_numbers_takes_a_quarter_less",),
    ),
    Mutant(
        "policies-of-digests-do-not-say-so",
        "seo_rec/policy/allowance.py",
        "return made if self.id_bits == FULL_BITS else with_digests(made)",
        "return made",
        (
            "tests/test_digests.py"
            "::test_every_method_keeps_digests_of_training_ids_within_the_bytes",
        ),
    ),
    Mutant(
        "counts-of-ids-meet-vocabularies-of-digests",
        "seo_rec/recipes/id_counts.py",
        "counted_as(*found[n], features[n].id_bits) for n in names",
        "found[n] for n in names",
        ("tests/test_digest_days.py::test_counts_are_of_digests_and_decay",),
    ),
    Mutant(
        "ids-that-stand-in-for-digests-move-hashed-rows",
        "seo_rec/train/carrying.py",
        "ids = ids[~np.isin(ids, stand_ins[r.feature.name])]",
        "ids = ids[:]",
        (
            "tests/test_digest_days.py"
            "::test_ids_that_stand_in_for_digests_decide_nothing_for_lookups_of_whole_ids",
        ),
    ),
    Mutant(
        "a-graph-reads-digests-with-a-sign",
        "seo_rec/export/addresses.py",
        "found.long() & LOW_32",
        "found.long()",
        ("tests/serve/test_twin.py::test_every_policy[digests]",),
    ),
    Mutant(
        "a-graph-hashes-unknown-digests-by-their-ids",
        "seo_rec/export/addresses.py",
        "return index_slots.get(f.name, slots[f.name]) if k.uses_index else slots[f.name]",
        "return slots[f.name]",
        ("tests/serve/test_twin.py::test_every_policy[digests]",),
    ),
    Mutant(
        "old-packages-may-hold-digests",
        "seo_rec/serve/package.py",
        'if manifest["version"] < (least := layout.version_of(policy)):',
        "if (least := layout.version_of(policy)) > 2:",
        (_HOSTILE,),
    ),
)
