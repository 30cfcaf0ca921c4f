"""Where images lie: folders, zips, tars, arrays and parquet files, each behind the same few methods."""
