"""Faults that a change could bring in, each with the quick tests that must notice it.

A mutant is one small, likely mistake in the code: a forgotten term, a wrong sign, a state that is
not restored. ``python -m tests.mutants`` makes each of them in a copy of the project and expects
its tests to fail; one that survives means that a test is missing. None of these tests is marked
``slow``, so that ``make test`` notices all of these faults.

``test_mutants.py`` checks that the list still fits the code; ``mutation.py`` runs it.
"""

from __future__ import annotations

from tests.mutant import Mutant
from tests.mutants_of_methods import METHODS_AND_SEARCHES

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
        "4 * (projected + codes) + 8 * ids",
        "4 * (projected + codes + ids)",
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
        "return ID_BYTES * count if self.in_bytes else 0",
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

_DATA = (
    Mutant(
        "ranks-overlap-in-the-last-batch",
        "seo_rec/data/stream.py",
        "(rank + 1) * rest // world_size)",
        "min(rest, (rank + 1) * rest // world_size + 1))",
        ("tests/test_stream.py::test_ranks_partition_every_global_batch",),
    ),
    Mutant(
        "the-short-last-batch-is-dropped",
        "seo_rec/data/stream.py",
        "self._full_batches + (1 if rest and not drop_last else 0)",
        "self._full_batches",
        ("tests/test_stream.py::test_file_order_is_exactly_the_files",),
    ),
    Mutant(
        "vocabularies-count-rows-that-are-not-for-training",
        "seo_rec/data/tally.py",
        'if split == "train":\n            for name, counter',
        'if split != "test":\n            for name, counter',
        ("tests/test_prepare.py::test_pruning_counts_the_training_split_only",),
    ),
    Mutant(
        "numbers-are-standardised-by-all-rows",
        "seo_rec/data/tally.py",
        "            for name, fit in self.fits.items():\n                fit.add(",
        "        for name, fit in self.fits.items():\n            fit.add(",
        ("tests/test_numeric.py::test_standardised_by_the_training_rows",),
    ),
    Mutant(
        "the-offset-of-sampled-negatives-has-the-other-sign",
        "seo_rec/schema.py",
        "return -math.log(rate) if",
        "return math.log(rate) if",
        ("tests/serve/test_sampled_negatives.py::test_scores_are_calibrated",),
    ),
)

_FIT = (
    Mutant(
        "training-goes-on-from-the-mean-weights",
        "seo_rec/train/average.py",
        "        finally:\n            self._swap(back=True)",
        "        finally:\n            pass",
        ("tests/test_train.py::test_the_mean_is_put_back_even_after_an_error",),
    ),
    Mutant(
        "the-last-epoch-counts-as-the-best",
        "seo_rec/train/loop.py",
        "if self.val is None or score > state.best_auc or state.best_epoch < 0:",
        "if metrics.num_rows >= 0:",
        ("tests/test_train.py::test_patience_and_best_weights",),
    ),
    Mutant(
        "the-warm-up-ends-a-step-early",
        "seo_rec/train/schedule.py",
        "return (t + 1) / (warmup + 1)",
        "return min(1.0, (t + 1) / max(1, warmup))",
        ("tests/test_optimizers.py::test_learning_rates_rise_linearly",),
    ),
    Mutant(
        "a-resume-forgets-the-state-of-the-search",
        "seo_rec/train/loop.py",
        'tensors = {n.removeprefix("after_step."): t for n, t in after.items()}',
        "tensors: dict[str, torch.Tensor] = {}",
        ("tests/test_baseline_searches.py::test_what_is_resumed_is_what_was_not_interrupted",),
    ),
    Mutant(
        "a-resume-skips-a-batch",
        "seo_rec/train/run_state.py",
        '"step": 0 if whole else done}',
        '"step": 0 if whole else min(done + 1, len(stream) - 1)}',
        ("tests/test_resume.py::test_training_killed_anywhere_ends_the_same",),
    ),
    Mutant(
        "a-resume-draws-other-dropout",
        "seo_rec/train/loop.py",
        "        set_rng_states(rng, self.ranks)\n",
        "",
        ("tests/test_resume.py::test_training_killed_anywhere_ends_the_same",),
    ),
    Mutant(
        "evaluation-with-dropout",
        "seo_rec/train/evaluation.py",
        "    model.eval()\n",
        "",
        ("tests/test_train.py::test_evaluation_drops_nothing_out",),
    ),
    Mutant(
        "a-rank-that-ends-keeps-its-connections",
        "seo_rec/train/pulse.py",
        "connection.shutdown(socket.SHUT_RDWR)",
        "pass",
        (
            "tests/distributed/test_lost_ranks.py::test_ranks_that_wait_for_a_survivor_only_end_as_well",
        ),
    ),
    Mutant(
        "a-failed-process-is-torn-down",
        "seo_rec/process.py",
        "        traceback.print_exc()\n        leave(1)\n    leave(0)\n",
        "        traceback.print_exc()\n    leave(1)\n",
        ("tests/test_process.py::test_what_a_failed_process_holds_is_not_torn_down",),
    ),
    Mutant(
        "l2-of-the-second-layer-too",
        "seo_rec/train/optimizers.py",
        "make(embedding.factors.parameters(), row_lr, 0.0)",
        "make(embedding.factors.parameters(), row_lr, row_l2)",
        ("tests/test_mlet.py::test_l2_is_of_the_first_layer_only",),
    ),
    Mutant(
        "every-process-keeps-its-own-gradient",
        "seo_rec/train/steps.py",
        "            average_gradients(self.optimizer.parameters(), self.ranks)\n",
        "",
        ("tests/distributed/test_searches.py::test_two_processes_find_what_one_finds",),
    ),
    Mutant(
        "padding-counts-in-a-loss",
        "seo_rec/batch.py",
        "        return total / self.mean_rows\n",
        "        return total / self.num_rows\n",
        ("tests/distributed/test_searches.py::test_two_processes_find_what_one_finds",),
    ),
    Mutant(
        "a-pipeline-leaves-its-wrappers-in-the-model",
        "seo_rec/train/steps.py",
        "                _put_back(self.model)\n",
        "",
        ("tests/distributed/test_pipelines.py",),
    ),
    Mutant(
        "gradients-of-tables-are-clipped-too",
        "seo_rec/train/steps.py",
        'dense = [p for group in self.dense.param_groups for p in group["params"]]',
        "dense = list(self.parameters())",
        ("tests/test_schedules.py::test_clipping_is_that_of_torch",),
    ),
)

_CHECKPOINT = (
    Mutant(
        "a-checkpoint-without-its-marker-counts",
        "seo_rec/train/checkpoint.py",
        "if m and (p / MARKER).exists())",
        "if m)",
        ("tests/test_checkpoints.py::test_what_is_half_written_is_ignored_and_cleared_away",),
    ),
    Mutant(
        "the-marker-is-not-removed-first",
        "seo_rec/train/checkpoint.py",
        "    (folder / MARKER).unlink(missing_ok=True)\n",
        "",
        ("tests/test_checkpoints.py::test_a_removal_cut_short_leaves_no_checkpoint",),
    ),
    Mutant(
        "a-checkpoint-is-written-in-its-final-place",
        "seo_rec/train/checkpoint.py",
        'part = self.folder / f".{final.name}.part"',
        "part = final",
        ("tests/test_checkpoints.py::test_a_failed_write_leaves_the_one_before",),
    ),
    Mutant(
        "checksums-are-not-compared",
        "seo_rec/train/checkpoint_files.py",
        "and checksum(folder / name) != wanted:",
        "and not (folder / name).exists():",
        ("tests/test_damaged_checkpoints.py::test_a_damaged_file_is_named",),
    ),
    Mutant(
        "an-index-is-not-checked",
        "seo_rec/train/checkpoint_index.py",
        "if not good:",
        "if good is None:",
        ("tests/test_damaged_checkpoints.py::test_a_strangers_index_is_checked_by_type_and_shape",),
    ),
)

_PLAN = (
    Mutant(
        "the-memory-of-a-rank-is-ignored",
        "seo_rec/plan/partition.py",
        "room = free >= piece.memory",
        "room = free >= -np.inf",
        ("tests/test_plan.py::test_laws",),
    ),
    Mutant(
        "columns-are-cut-for-rowwise-adagrad",
        "seo_rec/plan/attempt.py",
        'return self.prices.row_optimizer != "rowwise_adagrad"',
        "return True",
        ("tests/test_plan.py::test_a_heavy_wide_table_is_cut_in_columns",),
    ),
    Mutant(
        "imbalance-of-the-emptiest-rank",
        "seo_rec/plan/estimate.py",
        "imbalance=_short(ms.max() / ms.mean())",
        "imbalance=_short(ms.min() / ms.mean())",
        ("tests/test_plan.py::test_policies_of_the_benchmark",),
    ),
    Mutant(
        "a-step-is-as-long-as-that-of-the-mean-rank",
        "seo_rec/plan/estimate.py",
        "slowest = phases_W5.max(axis=0)",
        "slowest = phases_W5.mean(axis=0)",
        ("tests/test_plan.py::test_reads_are_balanced_and_torchrec_does_not_know_them",),
    ),
    Mutant(
        "machines-are-counted-as-ranks",
        "seo_rec/plan/attempt.py",
        "spans = [(m * local, local, *c)",
        "spans = [(m, local, *c)",
        ("tests/test_plan_machines.py::test_row_wise_adagrad_is_shared_by_rows_only",),
    ),
)

_METRICS = (
    Mutant(
        "ties-are-broken-by-the-order-of-rows",
        "seo_rec/metrics.py",
        "auc=float(roc_auc_score(y, z, sample_weight=w)),",
        'auc=float(roc_auc_score(y, np.argsort(np.argsort(z, kind="stable")))),',
        ("tests/test_metrics.py::test_auc_counts_pairs",),
    ),
    Mutant(
        "log-loss-takes-probabilities-for-logits",
        "seo_rec/metrics.py",
        "np.average(np.logaddexp(0.0, z) - y * z, weights=w)",
        "np.average(np.logaddexp(0.0, 1 / (1 + np.exp(-z))) - y / (1 + np.exp(-z)), weights=w)",
        ("tests/test_metrics.py::test_log_loss_is_that_of_sklearn",),
    ),
    Mutant(
        "the-jackknife-without-its-factor",
        "seo_rec/metrics.py",
        "variance = (blocks - 1) / blocks * float(",
        "variance = float(",
        ("tests/test_metrics.py::test_the_standard_error_is_that_of_the_jackknife",),
    ),
    Mutant(
        "the-error-of-one-score-instead-of-the-difference",
        "seo_rec/metrics.py",
        "- _left_out(r, labels, w, blocks) for z, r in pairs]",
        "- auc(r) for z, r in pairs]",
        ("tests/test_metrics.py::test_the_standard_error_is_that_of_the_jackknife",),
    ),
    Mutant(
        "gauc-weights-all-groups-alike",
        "seo_rec/group_metrics.py",
        "(aucs[used] * shares[used]).sum() / total",
        "aucs[used].mean()",
        ("tests/test_groups.py::test_gauc_is_the_weighted_mean_of_a_library_s_auc",),
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
        "seo_rec/search/seo/search.py",
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
        ("tests/test_baseline_searches.py::test_saliency_is_the_gradient_of_a_mask",),
    ),
    Mutant(
        "optembed-keeps-rows-below-their-threshold",
        "seo_rec/search/optembed/rows.py",
        "[np.concatenate([[True], margin > 0]) for margin in margins]",
        "[np.concatenate([[True], margin > -np.inf]) for margin in margins]",
        ("tests/test_optembed.py::test_the_vocabulary_is_that_of_the_kept_rows",),
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
    *_EMBED,
    *_METHODS,
    *METHODS_AND_SEARCHES,
    *_DATA,
    *_FIT,
    *_CHECKPOINT,
    *_PLAN,
    *_METRICS,
    *_SEARCH,
    *_SERVE,
)


if __name__ == "__main__":
    from tests.mutation import main

    main(MUTANTS)
