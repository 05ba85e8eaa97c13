"""Postgres, beside bare loops on tables with the same columns and indexes."""
