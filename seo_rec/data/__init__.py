"""Data: raw files become a prepared data set, and a prepared data set becomes batches.

In: tables of text or Parquet. Out: a folder of Parquet shards, vocabularies and ``schema.json``,
and then :class:`~seo_rec.batch.Batch` after batch. Begin with :mod:`~seo_rec.data.prepare`, to
which every reader of raw files (:mod:`~seo_rec.data.table` is the general one) hands a
:class:`~seo_rec.data.source.Source`. Behind it comes :func:`~seo_rec.data.dataset.open_data`,
whose :meth:`~seo_rec.data.dataset.DataSet.stream` gives batches.

A value becomes an id of 64 bits in :mod:`~seo_rec.data.tokens`. Which rows an id reads is not
decided here but by the policy (:mod:`seo_rec.policy`).
"""
