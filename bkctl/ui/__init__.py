"""What people see: progress, tables, JSON."""
