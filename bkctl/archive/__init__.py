"""A backup as an object: names, backupmeta, the report, publishing."""
