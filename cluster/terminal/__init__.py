"""What people see: bars, tables, charts and status lines.

May import `orchestrator`, and no other room of `cluster`.
"""
