"""Kernels of seo_rec: one folder per op, with a readable reference beside each fast kernel.

This package knows nothing of seo_rec and imports Triton only inside ``kernel.py`` files, so
that the references work where Triton is absent.
"""
