"""Faults in what trains: data, the fit, checkpoints, plans and metrics."""

from __future__ import annotations

from tests.mutant import Mutant

_DATA = (
    Mutant(
        "the-server-of-a-preparation-outlives-it",
        "seo_rec/data/local_processes.py",
        "if self._own_server:",
        "if False:",
        (
            "tests/test_local_processes.py::test_processes_are_forks_of_a_server_and_see_what_this_one_sees",
        ),
    ),
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
        ("tests/test_prepare_splits.py::test_pruning_counts_the_training_split_only",),
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
        "seo_rec/train/parts.py",
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
        "seo_rec/train/parts.py",
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
        "make(factors, row_lr, 0.0)",
        "make(factors, row_lr, row_l2)",
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

DATA_AND_TRAINING = (*_DATA, *_FIT, *_CHECKPOINT, *_PLAN, *_METRICS)
