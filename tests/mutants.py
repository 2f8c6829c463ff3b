"""Faults that a change could bring in, each with the quick tests that must notice it.

A mutant is one small, likely mistake in the code: a forgotten term, a wrong sign, a state that is
not restored. ``python -m tests.mutants`` makes each of them in a copy of the project and expects
its tests to fail; one that survives means that a test is missing. None of these tests is marked
``slow``, so that ``make test`` notices all of these faults.

``test_mutants.py`` checks that the list still fits the code; ``mutation.py`` runs it.
"""

from __future__ import annotations

from tests.mutant import Mutant
from tests.mutants_of_digests import DIGESTS
from tests.mutants_of_methods import METHODS_AND_SEARCHES
from tests.mutants_of_training import DATA_AND_TRAINING

_POLICY = (
    Mutant(
        "num-params-forgets-codes",
        "seo_rec/policy/policy.py",
        "return stored + projected + sum(int(c.size) for c in self.codes.values())",
        "return stored + projected",
        ("tests/test_embed.py::test_num_params_is_what_is_built",),
    ),
    Mutant(
        "num-params-forgets-projections",
        "seo_rec/policy/policy.py",
        "return stored + projected + sum(",
        "return stored + sum(",
        ("tests/test_embed.py::test_num_params_is_what_is_built",),
    ),
    Mutant(
        "num-bytes-forgets-scales",
        "seo_rec/policy/dtypes.py",
        "return -(-BITS[dtype] * dim // 8) + SCALE_BYTES",
        "return -(-BITS[dtype] * dim // 8)",
        ("tests/test_embed.py::test_num_bytes_is_what_is_stored",),
    ),
    Mutant(
        "num-bytes-counts-half-of-an-id",
        "seo_rec/policy/policy.py",
        "int(v.size) * id_bytes(bits[n]) for",
        "int(v.size) * 4 for",
        ("tests/test_embed.py::test_num_bytes_is_what_is_stored",),
    ),
    Mutant(
        "a-small-file-may-unpack-to-any-size",
        "seo_rec/policy/packing.py",
        "validate=True), most_bytes + 1)",
        "validate=True))",
        ("tests/test_policy_files.py::test_a_zlib_bomb_is_refused_without_unpacking_it",),
    ),
    Mutant(
        "negative-codes-are-accepted",
        "seo_rec/policy/check.py",
        "if codes.min() < 0 or codes.max() >= table.num_rows:",
        "if codes.max() >= table.num_rows:",
        ("tests/test_policy.py::test_what_cannot_be_built_of_later_things_is_refused",),
    ),
    Mutant(
        "a-row-of-the-budget-is-left-over",
        "seo_rec/policy/budget.py",
        "    while room := [j for j, d in enumerate(dims) if d <= left]:",
        "    while room := [j for j, d in enumerate(dims) if d < left]:",
        ("tests/test_methods.py::test_the_budget_is_filled",),
    ),
    Mutant(
        "ids-of-a-vocabulary-are-free-in-bytes",
        "seo_rec/policy/allowance.py",
        "return id_bytes(self.id_bits) * count if self.in_bytes else 0",
        "return 0",
        ("tests/test_bytes.py::test_every_method_without_training",),
    ),
    Mutant(
        "new-ids-go-before-known-ones",
        "seo_rec/policy/renewal.py",
        "np.lexsort((every, ~known, -amounts))",
        "np.lexsort((every, known, -amounts))",
        ("tests/test_renewal.py::test_the_most_frequent_ids_have_rows",),
    ),
    Mutant(
        "counts-of-earlier-days-never-decay",
        "seo_rec/policy/renewal.py",
        "= decay * np.asarray(before[1], np.float64)",
        "= np.asarray(before[1], np.float64)",
        ("tests/test_renewal.py::test_counts_decay_and_add",),
    ),
)

_EMBED = (
    Mutant(
        "the-hash-shifts-by-28",
        "seo_rec/embed/remap.py",
        "x.bitwise_xor_(x >> 29)",
        "x.bitwise_xor_(x >> 28)",
        ("tests/test_remap.py::test_hash_is_the_written_formula",),
    ),
    Mutant(
        "rows-by-remainder-instead-of-by-product",
        "seo_rec/embed/remap.py",
        "return (mix_(ids ^ seeds).bitwise_and_(LOW_32) * num_rows) >> 32",
        "return mix_(ids ^ seeds).bitwise_and_(LOW_32) % num_rows",
        ("tests/test_remap.py::test_hash_is_the_written_formula",),
    ),
    Mutant(
        "unknown-ids-read-row-1",
        "seo_rec/embed/remap.py",
        "torch.where(vocabulary[rank] == ids, rank + 1, 0)",
        "torch.where(vocabulary[rank] == ids, rank + 1, 1)",
        ("tests/test_remap.py::test_unknown_ids_read_row_zero",),
    ),
    Mutant(
        "known-ids-begin-one-row-after-those-of-unknown-ids",
        "seo_rec/embed/remap.py",
        "base + (lookup.unknown_rows - 1)",
        "base + lookup.unknown_rows",
        ("tests/test_remap.py::test_remap_is_the_written_formula",),
    ),
    Mutant(
        "a-cross-mixes-its-columns-backwards",
        "seo_rec/embed/cross.py",
        "    for ids in parts:\n",
        "    for ids in reversed(parts):\n",
        ("tests/test_cross.py::test_ids_are_the_written_mix",),
    ),
    Mutant(
        "combinations-of-a-cross-in-another-order",
        "seo_rec/embed/cross.py",
        "zip(lengths_PB.flip(0), starts_PB.flip(0), strict=True):",
        "zip(lengths_PB, starts_PB, strict=True):",
        ("tests/test_cross.py::test_bags_are_crossed_element_by_element",),
    ),
    Mutant(
        "all-seeds-round-alike",
        "seo_rec/embed/sparse.py",
        'text = f"{seed} {self.name}".encode()',
        "text = self.name.encode()",
        ("tests/test_half_tables.py::test_random_numbers_are_of_the_seed_and_the_table",),
    ),
    Mutant(
        "bfloat16-rounds-to-the-nearest",
        "kernels/seo_kernels/row_bag/rounding.py",
        "size + random >> 16, size >> 16)",
        "size + 0x8000 >> 16, size >> 16)",
        ("tests/kernels/test_rounding.py::test_the_mean_over_all_random_numbers_is_the_value",),
    ),
)

_METHODS = (
    Mutant(
        "all-features-share-a-seed",
        "seo_rec/methods/sharing.py",
        "return lookup_seed(seed, self._hash_of[column.name], lookup)",
        'return lookup_seed(seed, "", lookup)',
        ("tests/test_methods.py::test_seeds_follow_the_seed",),
    ),
    Mutant(
        "round-robin-deals-a-slot-twice",
        "seo_rec/apply.py",
        "turn = itertools.cycle(names)",
        "turn = itertools.cycle(names[:1] + names)",
        ("tests/test_apply.py::test_round_robin_balances",),
    ),
    Mutant(
        "applying-forgets-what-cannot-shrink",
        "seo_rec/apply.py",
        "rows = split_rows(allowance.amount - besides, costs,",
        "rows = split_rows(allowance.amount, costs,",
        ("tests/test_apply.py::test_exact_keeps_rows_that_ids_need",),
    ),
    Mutant(
        "a-search-of-one-process-runs-in-several",
        "seo_rec/search/registry.py",
        "if self.trains and not self.sharded and ranks().world_size > 1:",
        "if self.trains and not self.sharded and ranks().world_size > 2:",
        ("tests/test_registry.py::test_several_processes",),
    ),
    Mutant(
        "another-run-is-resumed-in-its-folder",
        "seo_rec/runs/claim.py",
        "if differing := [key for key in _differing(there, wanted) if key not in same]:",
        "differing = [key for key in _differing(there, wanted) if key not in same]\n"
        "        if differing and not resume:",
        ("tests/test_runs.py::test_another_run_is_told_apart_by_what_differs",),
    ),
)

_SEARCH = (
    Mutant(
        "the-least-attention-is-chosen",
        "seo_rec/search/seo/selection.py",
        "order = torch.argsort(alpha.flatten(), descending=True,",
        "order = torch.argsort(alpha.flatten(), descending=False,",
        ("tests/test_apply.py::test_select_takes_the_largest",),
    ),
    Mutant(
        "min-chunks-is-ignored",
        "seo_rec/search/seo/selection.py",
        "stable=True)[:, :min_chunks]",
        "stable=True)[:, :0]",
        ("tests/test_apply.py::test_select_gives_every_feature_its_least",),
    ),
    Mutant(
        "the-gain-of-a-run-off-has-the-other-sign",
        "seo_rec/search/run_off/contest.py",
        """            self._logits(name, trainings),
            self._logits(incumbent, trainings),
""",
        """            self._logits(incumbent, trainings),
            self._logits(name, trainings),
""",
        ("tests/test_contest.py::test_the_gain_is_that_of_the_candidate",),
    ),
    Mutant(
        "any-gain-wins-a-run-off",
        "seo_rec/search/run_off/contest.py",
        "limit = self.settings.standard_errors",
        "limit = 0.0",
        ("tests/test_runs.py::test_who_wins_follows_the_rule",),
    ),
    Mutant(
        "held-out-rows-leave-gradients-to-the-weights",
        "seo_rec/search/held_out.py",
        "gradients = torch.autograd.grad(loss, self.parameters)",
        "loss.backward()\n        gradients = [p.grad.clone() for p in self.parameters]",
        ("tests/test_search.py::test_a_held_out_step_changes_the_logits_alone",),
    ),
    Mutant(
        "every-rank-moves-the-attention-by-its-own-rows",
        "seo_rec/search/held_out.py",
        "parameter.grad = ranks().mean_(gradient)",
        "parameter.grad = gradient",
        ("tests/distributed/test_fit.py::test_a_search_on_ranks_is_that_of_one_process",),
    ),
    Mutant(
        "the-warm-up-of-a-search-is-a-step-short",
        "seo_rec/search/held_out.py",
        "step <= self.after or",
        "step < self.after or",
        ("tests/test_search.py::test_the_warm_up_is_respected_to_the_step",),
    ),
    Mutant(
        "the-temperature-of-the-last-step",
        "seo_rec/search/seo/searched.py",
        "best_step = min(result.steps, (result.best_epoch + 1) * len(train))",
        "best_step = result.steps",
        ("tests/test_search.py::test_a_search_reports_its_best_epoch_at_that_epochs_temperature",),
    ),
    Mutant(
        "dimgrow-counts-places-from-0",
        "seo_rec/search/dimgrow/model.py",
        "counted = [k + 1 for own in self.used",
        "counted = [k for own in self.used",
        (
            "tests/test_dimgrow_tables.py::test_the_loss_penalises_columns_by_their_place_in_training_only",
        ),
    ),
    Mutant(
        "dimgrow-answers-with-gates-above-0.4",
        "seo_rec/search/dimgrow/schedule.py",
        "[sum(g > KEPT for g in own)",
        "[sum(g > KEPT - 0.1 for g in own)",
        ("tests/test_dimgrow.py::test_golden_figures",),
    ),
    Mutant(
        "saliency-cancels-between-batches",
        "seo_rec/search/sseds.py",
        "total += here.mean_(gradient).abs()",
        "total += gradient",
        ("tests/test_search_widths.py::test_saliency_is_the_gradient_of_a_mask",),
    ),
    Mutant(
        "optembed-keeps-rows-below-their-threshold",
        "seo_rec/search/optembed/rows.py",
        "[np.concatenate([[True], margin > 0]) for margin in margins]",
        "[np.concatenate([[True], margin > -np.inf]) for margin in margins]",
        ("tests/test_optembed_policy.py::test_the_vocabulary_is_that_of_the_kept_rows",),
    ),
    Mutant(
        "optembed-takes-ids-as-free-in-bytes",
        "seo_rec/search/optembed/rows.py",
        "[row + an_id * (name in space.vocabularies) for name in space.names]",
        "[row for name in space.names]",
        ("tests/test_optembed_policy.py::test_rows_leave_the_budget_in_bytes_with_their_ids",),
    ),
)

_SERVE = (
    Mutant(
        "the-numpy-scorer-shifts-without-the-sign",
        "seo_rec/policy/addresses.py",
        "x_V = (x_V ^ (x_V >> 29)) * np.int64(SECOND_FACTOR)",
        "x_V = (x_V ^ ((x_V >> 29) & (2**35 - 1))) * np.int64(SECOND_FACTOR)",
        ("tests/serve/test_scorer.py::test_embeddings_of_every_policy",),
    ),
    Mutant(
        "the-numpy-scorer-forgets-where-a-table-begins",
        "seo_rec/serve/scorer.py",
        "lookup_rows(self.policy, f, lookup, ids) + place.first",
        "lookup_rows(self.policy, f, lookup, ids)",
        ("tests/serve/test_scorer.py::test_embeddings_of_every_policy",),
    ),
    Mutant(
        "the-twin-shifts-without-the-sign",
        "seo_rec/export/hashes.py",
        "    return x ^ (x >> 32)",
        "    return x ^ not_negative(x, 33)",
        ("tests/serve/test_twin.py::test_every_policy",),
    ),
    Mutant(
        "the-search-of-16-ways-misses-the-last-round",
        "seo_rec/export/addresses.py",
        "while _WAYS**self.rounds <= max(sizes):",
        "while _WAYS ** (self.rounds + 1) <= max(sizes):",
        ("tests/serve/test_twin.py::test_every_policy",),
    ),
    Mutant(
        "the-twin-scores-missing-ids",
        "seo_rec/export/twin.py",
        "there_RC = (ids_RC >= 0).float()",
        "there_RC = (ids_RC >= -1).float()",
        ("tests/serve/test_twin.py::test_every_policy",),
    ),
    Mutant(
        "dropped-elements-keep-their-weights",
        "seo_rec/serve/cells.py",
        "return Bags(ids, lengths, flat[kept])",
        "return Bags(ids, lengths, flat[: len(ids)])",
        ("tests/serve/test_preparation.py::test_weights_follow_their_ids",),
    ),
    Mutant(
        "pruned-ids-are-served-as-they-are",
        "seo_rec/data/dataset.py",
        "return np.ascontiguousarray(ids[ids != OUT_OF_VOCABULARY])",
        "return None",
        ("tests/serve/test_preparation.py::test_tables",),
    ),
    Mutant(
        "checksums-of-packages-are-not-compared",
        "seo_rec/serve/package.py",
        'if checksum(path)["sha256"] != entry["sha256"]:',
        'if not entry["sha256"]:',
        ("tests/serve/test_hostile.py::test_flipped_bits",),
    ),
    Mutant(
        "golden-rows-are-not-compared",
        "seo_rec/serve/predictor.py",
        "if not off <= allowed:",
        "if not off <= 1:",
        ("tests/serve/test_package.py::test_another_backbone_is_noticed",),
    ),
    Mutant(
        "a-delta-is-applied-to-any-package",
        "seo_rec/serve/delta.py",
        'if document["base"] != digest:',
        'if not document["base"]:',
        ("tests/serve/test_delta.py::test_a_delta_that_does_not_belong_is_refused",),
    ),
    Mutant(
        "a-delta-forgets-the-sign-of-zero",
        "seo_rec/serve/delta.py",
        "at = np.flatnonzero((rows[0] != rows[1]).any(axis=1))",
        "at = np.flatnonzero((old != new).reshape(len(old), -1).any(axis=1))",
        ("tests/serve/test_delta.py::test_a_zero_that_changes_its_sign_is_a_change",),
    ),
)

MUTANTS = (
    *_POLICY,
    *DIGESTS,
    *_EMBED,
    *_METHODS,
    *METHODS_AND_SEARCHES,
    *DATA_AND_TRAINING,
    *_SEARCH,
    *_SERVE,
)


if __name__ == "__main__":
    from tests.mutation import main

    main(MUTANTS)
