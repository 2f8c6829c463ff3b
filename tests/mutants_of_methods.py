"""Faults in methods and searches: divided budgets, pruned and clustered tables, run-offs, days."""

from __future__ import annotations

from tests.mutant import Mutant

METHODS_AND_SEARCHES = (
    Mutant(
        "a-rank-is-divided-by-the-largest-count",
        "seo_rec/methods/frequent.py",
        "float(count.sum()) / rank",
        "float(count.max()) / rank",
        ("tests/test_frequent.py::test_ids_are_kept_in_proportion_to_reads",),
    ),
    Mutant(
        "codes-of-wide-rows-are-free",
        "seo_rec/methods/frequent.py",
        "* allowance.row(s.hot_dim)\n        total += allowance.codes(known + features)",
        "* allowance.row(s.hot_dim)",
        ("tests/test_frequent.py::test_the_budget_is_filled",),
    ),
    Mutant(
        "bands-begin-at-their-end",
        "seo_rec/methods/frequent.py",
        "np.cumsum(count) - count / 2",
        "np.cumsum(count)",
        ("tests/test_frequent.py::test_bands_have_alike_many_reads",),
    ),
    Mutant(
        "wide-rows-are-any-that-are-kept",
        "seo_rec/methods/frequent.py",
        "np.isin(kept, place[mine[mine < hot]])",
        "np.arange(len(kept)) < np.count_nonzero(mine < hot)",
        ("tests/test_frequent.py::test_hot_ids_have_further_columns",),
    ),
    Mutant(
        "what-all-ids-leave-is-left-over",
        "seo_rec/methods/frequent.py",
        "if s.hot_dim and low == V:",
        "if s.hot_dim and low > V:",
        ("tests/test_frequent.py::test_what_all_ids_leave_makes_more_of_them_wider",),
    ),
    Mutant(
        "a-new-hot-id-starts-from-zero",
        "seo_rec/methods/cafe.py",
        "self.scores[bucket, slot] += added_N[at]",
        "self.scores[bucket, slot] = added_N[at] + held.any(1) * self.scores[bucket, slot]",
        ("tests/test_cafe.py::test_the_sketch_is_space_saving",),
    ),
    Mutant(
        "equal-ids-of-two-features-are-one",
        "seo_rec/methods/cafe.py",
        " & (self.features[bucket] == feature[:, None])",
        "",
        ("tests/test_cafe.py::test_the_sketch_is_space_saving",),
    ),
    Mutant(
        "the-sketch-decays-once",
        "seo_rec/methods/cafe.py",
        "if number % s.interval == 0:",
        "if number == s.interval:",
        ("tests/test_cafe.py::test_the_policy_is_the_last_state",),
    ),
    Mutant(
        "the-hottest-are-the-coldest",
        "seo_rec/methods/cafe.py",
        "np.lexsort((ids, feature, -scores))",
        "np.lexsort((ids, feature, scores))",
        ("tests/test_cafe.py::test_the_policy_is_the_last_state",),
    ),
    Mutant(
        "an-id-is-as-old-as-the-last-choice",
        "seo_rec/methods/managed_collision.py",
        "self.last[place[known]] = last[known]",
        "self.last[place[known]] = now",
        ("tests/test_managed_collision.py::test_the_ids_that_stay_are_torchrecs",),
    ),
    Mutant(
        "new-ids-come-before-those-with-a-row",
        "seo_rec/methods/managed_collision.py",
        "ids = np.concatenate([self.ids, ids[new]])\n"
        "        counts = np.concatenate([self.counts, counts[new]])\n"
        "        last = np.concatenate([self.last, last[new]])",
        "ids = np.concatenate([ids[new], self.ids])\n"
        "        counts = np.concatenate([counts[new], self.counts])\n"
        "        last = np.concatenate([last[new], self.last])",
        ("tests/test_managed_collision.py::test_the_ids_that_stay_are_torchrecs",),
    ),
    Mutant(
        "the-last-batches-are-not-seen",
        "seo_rec/methods/managed_collision.py",
        "    if waiting:\n",
        "    if len(waiting) == interval:\n",
        (
            "tests/test_managed_collision.py::test_batches_after_the_last_interval_take_part_in_a_last_choice",
        ),
    ),
    Mutant(
        "all-parts-of-a-tensor-hash-alike",
        "seo_rec/methods/tensor.py",
        "division.seed(c, seed, j)",
        "division.seed(c, seed, 0)",
        ("tests/test_tensor.py::test_a_row_is_an_entry_of_the_tensor",),
    ),
    Mutant(
        "one-map-is-paid-for",
        "seo_rec/methods/tensor.py",
        "projection(served * width * dim)",
        "projection(width * dim)",
        (
            "tests/test_tensor.py::test_maps_are_paid_for_in_float32",
            "tests/test_methods.py::test_the_budget_is_filled",
        ),
    ),
    Mutant(
        "shrunk-numbers-lose-their-sign",
        "seo_rec/search/pep.py",
        "return rows_VD.sign() * torch.relu(",
        "return torch.relu(",
        ("tests/test_pruned.py::test_numbers_are_shrunk_by_their_threshold",),
    ),
    Mutant(
        "thresholds-are-of-the-first-feature",
        "seo_rec/search/pep.py",
        "self.thresholds_FD[feature if len(self.thresholds_FD) > 1 else 0]",
        "self.thresholds_FD[0]",
        (
            "tests/test_pruned.py::test_a_shrunk_model_is_the_model_of_shrunk_tables",
            "tests/test_pruned.py::test_thresholds_learn_and_say_what_is_left",
        ),
    ),
    Mutant(
        "a-base-row-takes-the-sum-of-its-ids",
        "seo_rec/search/clustering.py",
        "means_ND = sums_ND / np.maximum(1, count_N)[:, None]",
        "means_ND = sums_ND",
        ("tests/test_cce.py::test_the_vector_of_a_base_row_is_the_mean_of_its_ids",),
    ),
    Mutant(
        "the-optimizers-remember-before-a-clustering",
        "seo_rec/search/cce.py",
        "                    kept.zero_()",
        "                    kept.abs()",
        ("tests/test_cce.py::test_a_model_reads_what_was_clustered",),
    ),
    Mutant(
        "the-worst-weights-since-a-clustering-are-kept",
        "seo_rec/search/cce.py",
        "metrics.auc > self.val_auc",
        "metrics.auc < self.val_auc",
        ("tests/test_cce.py::test_the_weights_are_those_of_the_last_codes",),
    ),
    Mutant(
        "attention-is-worth-its-largest-chunk",
        "seo_rec/search/seo/division.py",
        "alpha.sum(1)",
        "alpha.max(1)",
        (
            "tests/test_seo_divide.py::test_the_attention_is_the_worth_of_a_read",
            "tests/test_seo_divide.py::test_equal_attention_and_one_width_is_frequent",
        ),
    ),
    Mutant(
        "a-tie-of-two-rows-counts-whole",
        "seo_rec/metrics.py",
        "below = np.cumsum(negative) - negative / 2",
        "below = np.cumsum(negative)",
        ("tests/test_metrics.py::test_weights_and_ties_count_in_every_block",),
    ),
    Mutant(
        "the-rows-of-finalists-are-spent-twice",
        "seo_rec/search/run_off/schedule.py",
        "each = (left - _rows_of(found, length)) / candidates",
        "each = left / candidates",
        ("tests/test_halving.py::test_a_search_reads_at_most_its_limit",),
    ),
    Mutant(
        "a-short-epoch-has-full-batches",
        "seo_rec/search/run_off/schedule.py",
        "epochs * self.rows_per_epoch +",
        "epochs * self.steps_per_epoch * self.batch_size +",
        ("tests/test_halving.py::test_the_rows_of_steps_are_counted_exactly",),
    ),
    Mutant(
        "crosses-are-left-out-whatever-it-costs-at-length",
        "seo_rec/search/crossing.py",
        "return kept if gain >= -(known or 0.0) else taken",
        "return kept",
        ("tests/test_crossing.py::test_crosses_without_worth_are_left_out",),
    ),
    Mutant(
        "a-label-without-a-weight-does-not-count",
        "seo_rec/multi_task.py",
        "given.get(name, 1.0)",
        "given.get(name, 0.0)",
        ("tests/test_multi_task.py::test_a_label_counts_once_unless_a_weight_is_given",),
    ),
    Mutant(
        "a-tuning-reports-the-epoch-after",
        "seo_rec/recipes/tuning.py",
        "self.epochs - 1)",
        "self.epochs)",
        ("tests/test_tuning.py::test_epochs_are_reported_from_0_and_go_on_after_a_resume",),
    ),
    Mutant(
        "a-day-is-scored-by-the-day-before-the-last",
        "seo_rec/recipes/replaying.py",
        "        before = day.folder\n",
        "        before = before or day.folder\n",
        ("tests/test_replay.py::test_a_day_is_scored_by_the_model_of_the_days_before",),
    ),
    Mutant(
        "shards-are-compared-by-size-alone",
        "seo_rec/data/integrity.py",
        "if found != dict(wanted):",
        'if found["bytes"] != wanted["bytes"]:',
        ("tests/test_damage.py::test_no_flipped_bit_of_a_data_set_is_read_as_other_data",),
    ),
)
