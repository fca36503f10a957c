"""Rows of tables: Parquet, JSONL, CSV and TSV, and which column plays which part.

A part of ``pipelines.sources``.
"""
